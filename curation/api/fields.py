"""Marks of request fields: storable text, whole numbers that are not booleans; and the base of all bodies.

A mark stands last in an `Annotated`: bounds and patterns before it reach the schema, those after it would not.
"""

from __future__ import annotations

import re
from typing import Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict

from curation.text import check_storable

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


STORABLE = AfterValidator(check_storable)
"""Marks a text that must be storable."""

JSON_NUMBER = BeforeValidator(_json_integer)
"""Marks a whole number in a JSON body; neither a boolean nor digits in quotes."""

QUERY_NUMBER = BeforeValidator(_query_integer)
"""Marks a whole number in a path or a query: an optional sign and digits, nothing else."""
