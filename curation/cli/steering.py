"""Options that steer the prompts of rounds and loops."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer


class SteerGoal(StrEnum):
    """What steered prompts are chosen for."""

    accepts = "accepts"
    learn = "learn"


Steer = Annotated[
    bool,
    typer.Option("--steer", help="Choose prompts by the decisions of closed rounds."),
]
RandomShare = Annotated[
    float | None,
    typer.Option(
        help="With --steer: share of candidates with prompts at random; default 0.25. Rounds are "
        "compared by these."
    ),
]
Goal = Annotated[
    SteerGoal | None,
    typer.Option(
        "--steer-goal",
        help="With --steer: 'accepts' for accepted samples per decision (default), 'learn' for "
        "prompts whose verdicts are hardest to predict.",
    ),
]
Cover = Annotated[
    Path | None,
    typer.Option(
        help="With --steer: file with the smallest share (below 1) or number of candidates of "
        'words and attributes, as JSON {"glass": 0.1} or lines glass,0.1.'
    ),
]


def read_steering(
    steer: bool, random_share: float | None, goal: SteerGoal | None, cover: Path | None
) -> dict[str, Any] | None:
    """Return the settings of steering from options; None without --steer.

    Args:
        steer: Whether to steer.
        random_share: The share of candidates with prompts at random; None for the default.
        goal: What prompts are chosen for; None for the default.
        cover: A file of coverage targets.

    Raises:
        Refused: An option is out of range, or given without --steer.
    """
    from curation.errors import Refused
    from curation.steering.coverage import read_targets
    from curation.steering.settings import parse_steering, steering_to_dict

    given: dict[str, Any] = {
        "random_share": random_share,
        "goal": None if goal is None else goal.value,
        "targets": None if cover is None else read_targets(cover),
    }
    settings = {name: value for name, value in given.items() if value is not None}
    if not steer:
        if settings:
            raise Refused("prompts are not steered", "add --steer")
        return None
    return steering_to_dict(parse_steering(settings))
