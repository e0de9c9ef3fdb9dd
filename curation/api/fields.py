"""Validators of request fields, and the base class of request bodies.

A validator must be the last item of an `Annotated`: bounds and patterns after it would not be in
the schema.
"""

from __future__ import annotations

import re
from typing import Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict

from curation.text import check_storable

_DIGITS = re.compile(r"-?[0-9]{1,20}", re.ASCII)


class Body(BaseModel):
    """The base class of request bodies; fields that are not declared are refused."""

    model_config = ConfigDict(extra="forbid")


def _json_integer(value: Any) -> Any:
    # Pydantic would accept true as 1 and "5" as 5, which the schema does not allow.
    if isinstance(value, bool | str):
        raise ValueError("a whole number is expected")  # noqa: TRY004  # pydantic's convention
    return value


def _query_integer(value: Any) -> Any:
    # Pydantic would accept " 5", "+5", "5.0" and "5_0".
    if isinstance(value, str) and not _DIGITS.fullmatch(value):
        raise ValueError("a whole number is expected")
    return value


STORABLE = AfterValidator(check_storable)
"""The validator of text that is stored."""

JSON_NUMBER = BeforeValidator(_json_integer)
"""The validator of a whole number in a JSON body: neither a boolean nor digits in quotes."""

QUERY_NUMBER = BeforeValidator(_query_integer)
"""The validator of a whole number in a path or a query: an optional sign and digits."""
