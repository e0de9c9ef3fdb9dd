"""Loop routes: list, show with an estimate, pause, resume, change and cancel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from operator import itemgetter
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request, Response

from curation.api.auth import ReadRounds, WriteRounds
from curation.api.contract import error_responses, list_page, operation_link
from curation.api.loop_bodies import (
    ChangeLoopRequest,
    LoopDetails,
    LoopLimits,
    LoopResponse,
)
from curation.api.paging import Limit, PageNumber, cut_page
from curation.db.engine import Transaction
from curation.loops import control, rows, spending
from curation.loops.estimate import estimate_dict, estimate_loop
from curation.loops.plan import Budget
from curation.loops.report import list_turns

router = APIRouter(prefix="/api", tags=["rounds"], responses=error_responses(401))

LoopId = Annotated[int, Path(ge=1, le=2**31 - 1)]


@router.get(
    "/loops",
    summary="List loops",
    responses=list_page(details=operation_link("get_loop", number="$response.body#/0/id")),
)
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
        spent = spending.spent_by_loop(tx, [row["id"] for row in shown])
        return [_loop(loop, spent[loop.id]) for loop in rows.read_loops(tx, shown)]


@router.get("/loops/{number}", summary="Get a loop", responses=error_responses(404))
def get_loop(visit: ReadRounds, number: LoopId) -> LoopDetails:
    """Return a loop with the rest of its plan, its turns, and an estimate of the whole plan."""
    with visit.transaction() as (tx, _):
        return _details(tx, number)


@router.post("/loops/{number}/pause", summary="Pause a loop", responses=error_responses(404, 409))
def pause_loop(visit: WriteRounds, number: LoopId) -> LoopResponse:
    """Pause a running loop with its training or round; their workers stop within a batch."""
    return _act(visit, number, control.pause_loop)


@router.post("/loops/{number}/resume", summary="Resume a loop", responses=error_responses(404, 409))
def resume_loop(visit: WriteRounds, number: LoopId) -> LoopResponse:
    """Resume a paused loop, or try the failed step of a failed one again."""
    return _act(visit, number, control.resume_loop)


@router.post("/loops/{number}/cancel", summary="Cancel a loop", responses=error_responses(404, 409))
def cancel_loop(visit: WriteRounds, number: LoopId) -> LoopResponse:
    """Cancel a loop with its training, and close its round; accepted samples stay."""
    return _act(visit, number, control.cancel_loop)


@router.post("/loops/{number}/change", summary="Change a loop", responses=error_responses(404, 409))
def change_loop(visit: WriteRounds, number: LoopId, body: ChangeLoopRequest) -> LoopDetails:
    """Change the plan of a loop that has not ended.

    Fields that are left out stay, and a limit that is null is removed. The reviewer of the open
    round and the priority of round and training change at once, the rest from the next step on.
    """
    with visit.transaction() as (tx, reviewer):
        control.change_loop(tx, number, reviewer.name, body.changes())
        return _details(tx, number)


def _act(
    visit: WriteRounds, number: int, action: Callable[[Transaction, int, str], Any]
) -> LoopResponse:
    with visit.transaction() as (tx, reviewer):
        action(tx, number, reviewer.name)
        loop = rows.find_loop(tx, number)
        return _loop(loop, spending.spent(tx, loop))


def _loop(loop: rows.Loop, spent: Budget) -> LoopResponse:
    plan = loop.plan
    return LoopResponse(
        id=loop.id,
        state=loop.state,
        step=loop.step,
        turn=loop.turn,
        rounds=plan.rounds,
        quota=plan.quota,
        preset=plan.preset,
        reviewer=plan.reviewer,
        priority=plan.priority,
        reason=loop.reason,
        round=loop.round,
        run=str(loop.run) if loop.run else None,
        checkpoint=loop.checkpoint,
        budget=LoopLimits(**asdict(plan.budget)),
        spent=LoopLimits(**asdict(spent)),
        started_at=loop.created_at,
    )


def _details(tx: Transaction, number: int) -> LoopDetails:
    loop = rows.find_loop(tx, number)
    return LoopDetails(
        loop=_loop(loop, spending.spent(tx, loop)),
        recipe=loop.plan.recipe,
        images=loop.plan.images,
        kind=loop.plan.kind,
        policy=dict(loop.plan.policy),
        gate=list(loop.plan.gate),
        diversity_guard=loop.plan.diversity_guard,
        turns=list_turns(tx, number),
        estimate=estimate_dict(estimate_loop(tx, loop.plan)),
    )
