"""Values of blind comparisons of two checkpoints: sides, methods, votes and states."""

from __future__ import annotations

from enum import StrEnum


class ComparisonSide(StrEnum):
    """One of the two compared checkpoints; which one a reviewer sees on the left is secret."""

    a = "a"
    b = "b"


class DrawingMethod(StrEnum):
    """How a side makes its layers."""

    generated = "generated"  # by the checkpoint, with alpha
    matted = "matted"  # an opaque image of the checkpoint, cut out


class ComparisonState(StrEnum):
    """Whether reviewers may still vote."""

    open = "open"
    closed = "closed"


class DrawingState(StrEnum):
    """The state of what one side draws for one item."""

    requested = "requested"
    generating = "generating"  # leased by a worker
    generated = "generated"  # layers stored
    failed = "failed"  # drawing it failed too often
    removed = "removed"  # taken down


class ComparisonVerdict(StrEnum):
    """A vote on an item, as it is stored."""

    a = "a"
    b = "b"
    equal = "equal"
    both_bad = "both_bad"
    undo = "undo"  # voids an earlier vote


class ComparisonChoice(StrEnum):
    """A vote on an item, as a reviewer gives it."""

    left = "left"
    right = "right"
    equal = "equal"
    both_bad = "both_bad"
