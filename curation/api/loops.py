"""Loop routes: list, pause, resume and cancel."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from operator import itemgetter
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request, Response
from pydantic import BaseModel

from curation.api.auth import ReadRounds, WriteRounds
from curation.api.contract import error_responses, list_page
from curation.api.paging import Limit, PageNumber, cut_page
from curation.db.engine import Transaction
from curation.loops import control, rows
from curation.loops.plan import LoopReviewer, LoopState, LoopStep

router = APIRouter(prefix="/api", tags=["rounds"], responses=error_responses(401))

LoopId = Annotated[int, Path(ge=1, le=2**31 - 1)]


class LoopResponse(BaseModel):
    """A loop: its state and step, the present one of its rounds, and why it does not go on.

    `round` is the id of the round that it has open, `run` that of its training.
    """

    id: int
    state: LoopState
    step: LoopStep
    turn: int
    rounds: int
    quota: int
    preset: str
    reviewer: LoopReviewer
    reason: str | None
    round: int | None
    run: str | None
    started_at: datetime


@router.get("/loops", summary="List loops", responses=list_page())
def get_loops(
    request: Request,
    response: Response,
    visit: ReadRounds,
    limit: Limit = 20,
    after: PageNumber | None = None,
) -> list[LoopResponse]:
    """Return loops, newest first, after the loop `after`."""
    with visit.transaction() as (tx, _):
        found = rows.list_loops(tx, limit + 1, after)
        shown = cut_page(request, response, found, limit, itemgetter("id"))
        return [_loop(loop) for loop in rows.read_loops(tx, shown)]


@router.post("/loops/{number}/pause", summary="Pause a loop", responses=error_responses(404, 409))
def pause_loop(visit: WriteRounds, number: LoopId) -> LoopResponse:
    """Pause a running loop with its training or round; their workers stop within a batch."""
    return _change(visit, number, control.pause_loop)


@router.post("/loops/{number}/resume", summary="Resume a loop", responses=error_responses(404, 409))
def resume_loop(visit: WriteRounds, number: LoopId) -> LoopResponse:
    """Resume a paused loop, or try the failed step of a failed one again."""
    return _change(visit, number, control.resume_loop)


@router.post("/loops/{number}/cancel", summary="Cancel a loop", responses=error_responses(404, 409))
def cancel_loop(visit: WriteRounds, number: LoopId) -> LoopResponse:
    """Cancel a loop with its training, and close its round; accepted samples stay."""
    return _change(visit, number, control.cancel_loop)


def _change(
    visit: WriteRounds, number: int, change: Callable[[Transaction, int, str], Any]
) -> LoopResponse:
    with visit.transaction() as (tx, reviewer):
        change(tx, number, reviewer.name)
        return _loop(rows.find_loop(tx, number))


def _loop(loop: rows.Loop) -> LoopResponse:
    return LoopResponse(
        id=loop.id,
        state=loop.state,
        step=loop.step,
        turn=loop.turn,
        rounds=loop.plan.rounds,
        quota=loop.plan.quota,
        preset=loop.plan.preset,
        reviewer=loop.plan.reviewer,
        reason=loop.reason,
        round=loop.round,
        run=str(loop.run) if loop.run else None,
        started_at=loop.created_at,
    )
