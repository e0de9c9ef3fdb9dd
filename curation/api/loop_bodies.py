"""Request and response bodies of the loop routes."""

from __future__ import annotations

from dataclasses import fields
from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, Field

from curation.api.fields import JSON_NUMBER, Body
from curation.domain import Kind
from curation.loops.plan import (
    MAX_CONDITIONS,
    MAX_IMAGES,
    MAX_QUOTA,
    MAX_TURNS,
    Budget,
    DiversityGuard,
    LoopReviewer,
    LoopState,
    LoopStep,
)
from curation.rounds.work import MAX_PRIORITY


class LoopLimits(BaseModel):
    """Quantities of a loop: the limits of its budget, where null is no limit, or what it spent."""

    gpu_seconds: float | None
    human_hours: float | None
    accepted: int | None


class LoopResponse(BaseModel):
    """A loop: its state and step, what it has spent of its budget, and why it does not go on.

    `round` is the id of the round that it has open, `run` that of its training, and `checkpoint`
    what the training of this turn has made.
    """

    id: int
    state: LoopState
    step: LoopStep
    turn: int
    rounds: int
    quota: int
    preset: str
    reviewer: LoopReviewer
    priority: int
    reason: str | None
    round: int | None
    run: str | None
    checkpoint: str | None
    budget: LoopLimits
    spent: LoopLimits
    started_at: datetime


class GateConditionResult(BaseModel):
    """The result of one condition of the gate; null where there was nothing to compare with."""

    condition: str
    value: float | None
    bound: float | None
    passed: bool


class LoopTurn(BaseModel):
    """What one turn of a loop has made; `promoted` is null before the gate decided.

    `guard_note` is what the guard of diversity found and did before its training.
    """

    turn: int
    snapshot: str | None
    run: str | None
    checkpoint: str | None
    promoted: bool | None
    gate: list[GateConditionResult]
    round: int | None
    guard_note: str | None


class LoopEstimate(BaseModel):
    """An estimated quantity of the whole loop, null if unknown, and its basis in words."""

    value: float | None
    basis: str


class LoopDetails(BaseModel):
    """A loop with the rest of its plan, its turns, and an estimate by quantity."""

    loop: LoopResponse
    recipe: str
    images: int
    kind: Kind
    policy: dict[str, Any]
    gate: list[str]
    diversity_guard: DiversityGuard
    turns: list[LoopTurn]
    estimate: dict[str, LoopEstimate]


_NUMBER = r"[0-9]{1,20}(\.[0-9]{1,20})?"

Condition = Annotated[
    str,
    Field(
        pattern=rf"^[a-z][a-z0-9_]{{0,59}} *(<=|>=) *(last( *\* *{_NUMBER})?|-?{_NUMBER})$",
        max_length=120,
    ),
]


class ChangeLoopRequest(Body):
    """New values of a loop's plan; fields that are left out stay.

    Null removes a limit of the budget, and leaves every other field as it is.
    """

    rounds: Annotated[int | None, Field(ge=1, le=MAX_TURNS), JSON_NUMBER] = None
    quota: Annotated[int | None, Field(ge=1, le=MAX_QUOTA), JSON_NUMBER] = None
    images: Annotated[int | None, Field(ge=0, le=MAX_IMAGES), JSON_NUMBER] = None
    reviewer: LoopReviewer | None = None
    diversity_guard: DiversityGuard | None = None
    gate: Annotated[list[Condition] | None, Field(max_length=MAX_CONDITIONS)] = None
    priority: Annotated[int | None, Field(ge=-MAX_PRIORITY, le=MAX_PRIORITY), JSON_NUMBER] = None
    gpu_seconds: Annotated[float | None, Field(ge=1, le=1e12, strict=True)] = None
    human_hours: Annotated[float | None, Field(ge=0, le=1e9, strict=True)] = None
    accepted: Annotated[int | None, Field(ge=1, le=2**31 - 1), JSON_NUMBER] = None

    def changes(self) -> dict[str, Any]:
        """Return the changes by their names, as `curation.loops.control.change_loop` takes them."""
        limits = {item.name for item in fields(Budget)}
        given = {name: getattr(self, name) for name in self.model_fields_set}
        changes = {
            name: value for name, value in given.items() if value is not None or name in limits
        }
        if "gate" in changes:
            changes["gate"] = tuple(changes["gate"])
        return changes
