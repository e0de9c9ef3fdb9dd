"""Types of request fields: storable text, whole numbers that are not booleans, and the base of all bodies."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict

from curation.text import StorableText

__all__ = ["Body", "JsonInteger", "QueryInteger", "StorableText"]

_DIGITS = re.compile(r"-?[0-9]{1,20}", re.ASCII)


class Body(BaseModel):
    """The base of every request body: fields that are not declared are refused."""

    model_config = ConfigDict(extra="forbid")


def _json_integer(value: Any) -> Any:
    # Pydantic would take true for 1 and "5" for 5, which the schema says it does not.
    if isinstance(value, bool | str):
        raise ValueError("a whole number is expected")  # noqa: TRY004  # pydantic takes ValueError for its own
    return value


def _query_integer(value: Any) -> Any:
    # Pydantic would take " 5", "+5", "5.0" and "5_0".
    if isinstance(value, str) and not _DIGITS.fullmatch(value):
        raise ValueError("a whole number is expected")
    return value


JsonInteger = Annotated[int, BeforeValidator(_json_integer)]
"""A whole number in a JSON body; neither a boolean nor digits in quotes."""

QueryInteger = Annotated[int, BeforeValidator(_query_integer)]
"""A whole number in a path or a query: an optional sign and digits, nothing else."""
