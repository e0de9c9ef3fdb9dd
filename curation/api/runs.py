"""Training run routes: list, progress, metrics, log, and the actions of trainers."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from datetime import datetime
from operator import itemgetter
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import BaseModel, Field

from curation.api.auth import ListRuns, ReadCheckpoints, WriteCheckpoints
from curation.api.contract import error_responses, list_page, operation_link
from curation.api.paging import Limit, cut_page
from curation.checkpoints import registry, run_history, run_queue
from curation.db.engine import Transaction
from curation.domain import Role, RunState
from curation.errors import Conflict

router = APIRouter(prefix="/api", tags=["checkpoints"], responses=error_responses(401))

CURVE_POINTS = 400
"""Largest number of points of a curve: more cannot be seen on a page."""
LAST_LOG_BATCHES = 50
MAX_POSITION = 2**63 - 1

RunId = Annotated[uuid.UUID, Path()]


# Responses


class RunProgress(BaseModel):
    """The progress of a run in its stage: `done` of `total` training images."""

    stage: str
    done: int
    total: int
    metrics: dict[str, float]


class RunResponse(BaseModel):
    """A training run; `progress` is null before it starts.

    `outages` counts the outages of the instance since the last saved state; the run waits until
    `retry_at` after the last one.
    """

    id: uuid.UUID
    recipe: str
    preset: str
    changes: dict[str, str]
    snapshot: str
    state: RunState
    progress: RunProgress | None
    error: str | None
    priority: int
    attempts: int
    outages: int
    retry_at: datetime | None
    checkpoint: str | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


CurvePoint = Annotated[list[float], Field(min_length=2, max_length=2)]
"""A number of images and a value; tuples would be `prefixItems`, which schemathesis misreads."""


class RunCurves(BaseModel):
    """The curves of a run by stage and metric: pairs of images and the mean of an interval."""

    stages: dict[str, dict[str, list[CurvePoint]]]


class RunLog(BaseModel):
    """Log lines of a run, and the position after which to read on."""

    lines: list[str]
    next: int


class PriorityRequest(BaseModel):
    """The new priority of a run; runs with a larger one are claimed first."""

    priority: Annotated[int, Field(ge=-run_queue.MAX_PRIORITY, le=run_queue.MAX_PRIORITY)] = 0


# Routes


@router.get(
    "/runs",
    summary="List training runs",
    responses=list_page(run=operation_link("get_run", run="$response.body#/0/id")),
)
def get_runs(
    request: Request,
    response: Response,
    visit: ListRuns,
    limit: Limit = 100,
    after: uuid.UUID | None = None,
) -> list[RunResponse]:
    """Return training runs, newest first, after the run `after`; for annotators without results."""
    with visit.transaction() as (tx, reviewer):
        before = registry.find_run(tx, after) if after else None
        found = registry.list_runs(tx, limit + 1, before)
    rows = cut_page(request, response, found, limit, itemgetter("id"))
    return [_run(row, reviewer.role) for row in rows]


@router.get("/runs/{run}", summary="Get a training run", responses=error_responses(404))
def get_run(visit: ListRuns, run: RunId) -> RunResponse:
    """Return a training run; for annotators without its checkpoint."""
    with visit.transaction() as (tx, reviewer):
        row = registry.find_run(tx, run)
    return _run(row, reviewer.role)


@router.get(
    "/runs/{run}/metrics", summary="Get the curves of a run", responses=error_responses(404)
)
def get_run_metrics(visit: ListRuns, run: RunId) -> RunCurves:
    """Return the metrics of a training run by images seen, averaged to a few hundred points."""
    with visit.transaction() as (tx, _):
        registry.find_run(tx, run)
        return RunCurves(stages=run_history.read_curves(tx, run, CURVE_POINTS))


@router.get("/runs/{run}/log", summary="Get the log of a run", responses=error_responses(404))
def get_run_log(
    visit: ReadCheckpoints,
    run: RunId,
    after: Annotated[int | None, Query(ge=0, le=MAX_POSITION)] = None,
) -> RunLog:
    """Return log lines of a training run after a position; without one the last lines."""
    with visit.transaction() as (tx, _):
        registry.find_run(tx, run)
        start = run_history.last_log_id(tx, run, LAST_LOG_BATCHES) if after is None else after
        batches = run_history.read_log(tx, run, start)
    lines = [line for batch in batches for line in batch.text.splitlines()]
    return RunLog(lines=lines, next=batches[-1].id if batches else start)


@router.post("/runs/{run}/pause", summary="Pause a run", responses=error_responses(404, 409))
def pause_run(visit: WriteCheckpoints, run: RunId) -> RunResponse:
    """Pause a requested or running training run; its worker stops within a batch."""
    return _change(visit, run, run_queue.pause_run)


@router.post("/runs/{run}/resume", summary="Resume a run", responses=error_responses(404, 409))
def resume_run(visit: WriteCheckpoints, run: RunId) -> RunResponse:
    """Request a paused training run again; it continues from its last saved state."""
    return _change(visit, run, run_queue.resume_run)


@router.post("/runs/{run}/retry", summary="Retry a run", responses=error_responses(404, 409))
def retry_run(visit: WriteCheckpoints, run: RunId) -> RunResponse:
    """Request a failed, cancelled or waiting training run again, from its last saved state."""
    return _change(visit, run, run_queue.retry_run)


@router.post("/runs/{run}/cancel", summary="Cancel a run", responses=error_responses(404, 409))
def cancel_run(visit: WriteCheckpoints, run: RunId) -> RunResponse:
    """Cancel a training run that has not ended; its worker stops within a batch."""

    def cancel(tx: Transaction, run: uuid.UUID, actor: str) -> None:
        state = registry.find_run(tx, run)["state"]
        if not registry.cancel_run(tx, run, actor):
            raise Conflict(f"run {run} is {state} already")

    return _change(visit, run, cancel)


@router.post("/runs/{run}/priority", summary="Set a priority", responses=error_responses(404, 409))
def set_run_priority(visit: WriteCheckpoints, run: RunId, body: PriorityRequest) -> RunResponse:
    """Set the priority of a training run that has not ended."""

    def change(tx: Transaction, run: uuid.UUID, actor: str) -> None:
        run_queue.set_priority(tx, run, body.priority, actor)

    return _change(visit, run, change)


def _change(
    visit: WriteCheckpoints,
    run: uuid.UUID,
    change: Callable[[Transaction, uuid.UUID, str], Any],
) -> RunResponse:
    with visit.transaction() as (tx, reviewer):
        change(tx, run, reviewer.name)
        row = registry.find_run(tx, run)
    return _run(row, reviewer.role)


def _run(row: Mapping[str, Any], role: Role) -> RunResponse:
    # Columns that have the same name in the response.
    same = (
        *("id", "recipe", "preset", "changes", "state", "error", "priority", "attempts"),
        *("outages", "retry_at", "created_at", "started_at", "finished_at"),
    )
    # As in the list of rounds: the ids of candidates are derived from the checkpoint's id.
    hidden = role is Role.annotator
    return RunResponse(
        **{name: row[name] for name in same},
        snapshot=row["snapshot_id"],
        progress=RunProgress(**row["progress"]) if row["progress"] else None,
        checkpoint=None if hidden else row["checkpoint_id"],
    )
