"""Plans of loops: what each turn trains, generates and reviews, and when a loop stops."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from enum import StrEnum
from typing import Any, Final

from curation.domain import Kind
from curation.errors import Refused
from curation.loops.promotion import parse_condition
from curation.rounds.lifecycle import SHOW_ALL
from curation.rounds.policies import parse_policy, policy_to_dict
from curation.rounds.work import MAX_PRIORITY
from curation.steering.settings import parse_steering, steering_to_dict

MAX_TURNS: Final = 1_000
"""The largest number of rounds of a loop."""

MAX_QUOTA: Final = 1_000_000
"""The largest number of candidates of one of its rounds."""

MAX_IMAGES: Final = 2**31 - 1
"""The largest number of images of a training."""

MAX_CONDITIONS: Final = 20
"""The largest number of conditions of a gate."""


class LoopState(StrEnum):
    """State of a loop; workers advance it only while it is running."""

    running = "running"
    paused = "paused"
    failed = "failed"  # resuming it tries the failed step again
    finished = "finished"
    cancelled = "cancelled"


class LoopStep(StrEnum):
    """The step that a loop is at; all but `finish` repeat in each turn."""

    freeze = "freeze"  # freeze the accepted samples as a snapshot
    train = "train"  # train on it, and wait for the checkpoint
    promote = "promote"  # promote the checkpoint if its metrics satisfy the gate
    open = "open"  # open a round of the promoted checkpoint
    review = "review"  # wait until the round is generated and decided, and close it
    finish = "finish"  # freeze the last snapshot


class LoopReviewer(StrEnum):
    """The reviewer of a loop's rounds."""

    person = "person"
    rules = "rules"


class DiversityGuard(StrEnum):
    """What a loop does when the diversity of its candidates is lost."""

    stop = "stop"  # pause it
    mix = "mix"  # raise the share of seeds in the next training
    off = "off"


@dataclass(frozen=True)
class Budget:
    """Limits of a loop; None for no limit.

    Attributes:
        gpu_seconds: Time in which workers train for the loop and generate its rounds.
        human_hours: Review time of people in its rounds, as their pages measure it.
        accepted: Accepted samples, after which the loop finishes early.
    """

    gpu_seconds: float | None = None
    human_hours: float | None = None
    accepted: int | None = None


@dataclass(frozen=True)
class LoopPlan:
    """The parameters of a loop.

    Attributes:
        rounds: Number of rounds.
        quota: Candidates of each round.
        preset: Preset of the trained checkpoints.
        reviewer: "rules" decides by the rule reviewer, "person" waits for people.
        seed: RNG seed.
        recipe: Recipe of the trainings.
        images: Images of each training; 0 is the preset's number.
        kind: Kind of the candidates.
        file_names: Whether captions that were made from file names are used as prompts.
        policy: Selection policy of the rounds.
        gate: Conditions for a checkpoint to be promoted, such as "psnr>=30" or
            "alpha_mse<=last*1.05".
        changes: Overrides of preset columns.
        priority: Priority of the rounds and the training runs.
        tag: Prefix of the tags of the turns' snapshots; the number of the turn is added.
        budget: When to stop.
        diversity_guard: What to do when the diversity of its candidates is lost.
        steering: How prompts are steered (curation.steering.settings); None for all at random.
    """

    rounds: int
    quota: int
    preset: str
    reviewer: LoopReviewer = LoopReviewer.person
    seed: int = 0
    recipe: str = "whole"
    images: int = 0
    kind: Kind = Kind.single
    file_names: bool = False
    policy: Mapping[str, Any] = field(default_factory=lambda: dict(SHOW_ALL))
    gate: tuple[str, ...] = ()
    changes: Mapping[str, str] = field(default_factory=dict)
    priority: int = 0
    tag: str = "round-"
    budget: Budget = Budget()
    diversity_guard: DiversityGuard = DiversityGuard.mix
    steering: Mapping[str, Any] | None = None


def check_plan(plan: LoopPlan) -> LoopPlan:
    """Return a plan after checking its values.

    Raises:
        Refused: A value is out of range, or the policy, the gate or the steering is invalid.
    """
    limits: tuple[tuple[str, float | None, float, float], ...] = (
        ("rounds", plan.rounds, 1, MAX_TURNS),
        ("quota", plan.quota, 1, MAX_QUOTA),
        ("images", plan.images, 0, MAX_IMAGES),
        ("priority", plan.priority, -MAX_PRIORITY, MAX_PRIORITY),
        ("gpu-seconds", plan.budget.gpu_seconds, 1, sys.float_info.max),
        ("human-hours", plan.budget.human_hours, 0, sys.float_info.max),
        ("accepted", plan.budget.accepted, 1, sys.float_info.max),
    )
    for name, value, least, most in limits:
        # Written so that "not a number" is refused too.
        if value is not None and not least <= value <= most:
            bound = f"at least {least}" if most == sys.float_info.max else f"{least} to {most}"
            raise Refused(f"{name} is {value}", f"give {bound}")
    if len(plan.gate) > MAX_CONDITIONS:
        raise Refused("the gate has too many conditions", f"give at most {MAX_CONDITIONS}")
    for condition in plan.gate:
        parse_condition(condition)
    if plan.steering is not None:
        plan = replace(plan, steering=steering_to_dict(parse_steering(plan.steering)))
    return replace(plan, policy=policy_to_dict(parse_policy(plan.policy)))


def plan_to_dict(plan: LoopPlan) -> dict[str, Any]:
    """Return a plan as JSON data."""
    return asdict(plan) | {"gate": list(plan.gate)}


def read_plan(data: Mapping[str, Any]) -> LoopPlan:
    """Return the plan of JSON data that `plan_to_dict` made; unknown keys are ignored."""
    known = {item.name for item in fields(LoopPlan)}
    values = {name: value for name, value in data.items() if name in known}
    return LoopPlan(
        **values
        | {
            "kind": Kind(values.get("kind", Kind.single)),
            "reviewer": LoopReviewer(values.get("reviewer", LoopReviewer.person)),
            "gate": tuple(values.get("gate", ())),
            "diversity_guard": DiversityGuard(values.get("diversity_guard", DiversityGuard.mix)),
            "budget": Budget(**values.get("budget", {})),
        }
    )
