"""Settings of steering, as a loop's plan and a round store them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from typing import Any, Final

from curation.errors import Refused


class Goal(StrEnum):
    """What steered prompts are chosen for."""

    accepts = "accepts"  # accepted samples per decision
    learn = "learn"  # decisions that are hard to predict: p (1 - p)


@dataclass(frozen=True)
class SteeringSettings:
    """How prompts are steered.

    Attributes:
        goal: What prompts are chosen for.
        random_share: Share of the candidates whose prompts are chosen at random.
        half_life: Number of rounds after which a decision counts half.
        concentration: The largest multiple of its natural share that a prompt gets, among the
            steered candidates.
        floor: The smallest multiple of its natural share that a word or attribute gets, among all
            candidates.
        targets: Smallest share (below 1) or number of candidates (1 and above) of a word or
            attribute.
    """

    goal: Goal = Goal.accepts
    random_share: float = 0.25
    half_life: float = 3.0
    concentration: float = 3.0
    floor: float = 0.5
    targets: Mapping[str, float] = field(default_factory=dict)


_LIMITS: Final[Mapping[str, tuple[float, float]]] = {
    "random_share": (0.05, 1.0),
    "half_life": (0.1, 1_000.0),
    "concentration": (1.0, 100.0),
    "floor": (0.0, 1.0),
}
"""The smallest and the largest value of each number."""


def parse_steering(row: Mapping[str, Any]) -> SteeringSettings:
    """Parse and check settings from plain data.

    Args:
        row: The settings; missing ones take their defaults.

    Raises:
        Refused: A name is unknown, or a value is out of range.
    """
    known = {one.name for one in fields(SteeringSettings)}
    for name in row:
        if name not in known:
            raise Refused(f"steering has no setting {name!r}", "it has " + ", ".join(sorted(known)))
    for name, (low, high) in _LIMITS.items():
        value = row.get(name, getattr(SteeringSettings, name, low))
        if not _is_number(value) or not low <= value <= high:
            raise Refused(
                f"invalid {name.replace('_', '-')} of steering: {value!r}",
                f"give a number from {low:g} to {high:g}",
            )
    goal = str(row.get("goal", Goal.accepts))
    if goal not in set(Goal):
        raise Refused(f"unknown goal of steering {goal!r}", "it is one of " + ", ".join(Goal))
    targets = row.get("targets", {})
    for name, value in targets.items():
        if not _is_number(value) or value <= 0:
            raise Refused(
                f"the coverage target of {name!r} is {value!r}",
                "give a share below 1, or a number of candidates",
            )
    return SteeringSettings(**dict(row) | {"goal": Goal(goal), "targets": dict(targets)})


def steering_to_dict(settings: SteeringSettings) -> dict[str, Any]:
    """Return the inverse of `parse_steering`, with all settings."""
    return asdict(settings)


def _is_number(value: Any) -> bool:
    # bool is a subclass of int; NaN and infinity are numbers too.
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
