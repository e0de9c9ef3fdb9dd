"""Spans of time by the clock of the database."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa


def seconds(count: float | sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
    """Return an interval of so many seconds, to add to or subtract from a time."""
    return sa.func.make_interval(0, 0, 0, 0, 0, 0, count)
