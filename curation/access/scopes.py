"""The scopes of API tokens."""

from __future__ import annotations

from enum import StrEnum


class Scope(StrEnum):
    """A permission of a program by its token."""

    rounds_read = "rounds:read"
    rounds_write = "rounds:write"  # pause, resume and close; with loops
    snapshots_read = "snapshots:read"
    snapshots_write = "snapshots:write"  # freeze
    checkpoints_read = "checkpoints:read"  # with training runs
    checkpoints_write = "checkpoints:write"  # promote
    statistics_read = "statistics:read"
