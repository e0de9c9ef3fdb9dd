"""Rows by the first digits of their id, found by the index of the ids."""

from __future__ import annotations

import re
import uuid
from typing import Any, Final

import sqlalchemy as sa

MIN_DIGITS: Final = 8
"""The least number of digits that name an id."""

_DIGITS: Final = re.compile(r"[0-9a-f]+")


def has_prefix(column: sa.Column[Any], prefix: str) -> sa.ColumnElement[bool]:
    """Return the condition that a UUID begins with the digits of a text.

    Args:
        column: The column of UUIDs.
        prefix: MIN_DIGITS or more hexadecimal digits, with or without dashes; any other text
            matches no row.
    """
    digits = prefix.replace("-", "").lower()
    if not _DIGITS.fullmatch(digits) or not MIN_DIGITS <= len(digits) <= 32:
        return sa.false()
    first, last = (uuid.UUID(digits.ljust(32, end)) for end in "0f")
    return column.between(first, last)
