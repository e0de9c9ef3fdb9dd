"""Responses about steered prompts, in the report of a round: see curation.steering.report."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

from curation.domain import RejectReason


class Acceptance(BaseModel):
    """A share of accepts with its 95 % interval, from n decisions (an effective number)."""

    value: float
    low: float
    high: float
    n: float


class ReasonOfArm(BaseModel):
    """How often a reason was given for candidates with a word or attribute."""

    reason: RejectReason
    count: int


class SteeredPrompt(BaseModel):
    """A prompt with decisions of its own: its share at random, and its share in the round."""

    arm: str
    before: float
    now: float
    decisions: int
    automatic: int
    acceptance: Acceptance | None
    reasons: list[ReasonOfArm]


class SteeredArm(SteeredPrompt):
    """A word or attribute: its candidates, and the smallest share that it may have."""

    candidates: int
    floor: float
    target: bool


class SteeringSettingsResponse(BaseModel):
    """How prompts were steered."""

    goal: Literal["accepts", "learn"]
    random_share: float
    half_life: float
    concentration: float
    floor: float
    targets: dict[str, float]


class SteeringPool(BaseModel):
    """The number of prompts that the round chose from."""

    prompts: int
    distinct: int


class SourceOutcome(BaseModel):
    """The acceptance of prompts of one source by one kind of reviewer."""

    source: Literal["random", "steered"]
    kind: Literal["person", "rule_reviewer"]
    acceptance: Acceptance


class Steering(BaseModel):
    """What was steered in a round and why: see curation.steering.

    `random` and `steered` are numbers of candidates; `decisions` of earlier `rounds` are the
    reasons for the choice; `outcomes` are of this round.
    """

    settings: SteeringSettingsResponse
    random: int
    steered: int
    pool: SteeringPool
    rounds: list[int]
    decisions: int
    automatic: int
    acceptance: Acceptance | None
    arms: list[SteeredArm]
    prompts: list[SteeredPrompt]
    outcomes: list[SourceOutcome]
