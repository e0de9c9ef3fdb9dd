"""Numbers of a preset that are set otherwise: read from their text by the type of their column."""

from __future__ import annotations

from types import UnionType
from typing import Any, get_args, get_origin

from curation.errors import Refused


def read_number(column: str, text: str, wanted: Any) -> Any:
    """A column's value from its text; several values stand with commas between them, none is "" or "none".

    wanted: the column's type. Raises Refused where the text is not written like one.
    """
    if get_origin(wanted) is UnionType:
        if text in {"", "none"}:
            return None
        wanted = get_args(wanted)[0]
    try:
        if get_origin(wanted) is tuple:
            return tuple(read_number(column, part, get_args(wanted)[0]) for part in text.split(","))
        if wanted is bool:
            return {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}[text.lower()]
        return wanted(text)
    except (ValueError, KeyError):
        raise Refused(f"{column} cannot be {text!r}", f"it is written like {wanted.__name__}") from None
