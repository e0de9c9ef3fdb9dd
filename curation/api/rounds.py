"""Round routes: list, report, pause, resume and close."""

from __future__ import annotations

from operator import itemgetter
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response

from curation.api.auth import ListRounds, ReadRounds, WriteRounds
from curation.api.contract import error_responses, list_page, operation_link, with_links
from curation.api.fields import QUERY_NUMBER
from curation.api.paging import Limit, PageNumber, cut_page
from curation.api.round_responses import (
    OwnProgress,
    RoundAgreement,
    RoundReport,
    RoundResponse,
    RoundTrend,
)
from curation.domain import Role, RoundState
from curation.reporting import kept, round_report, trend
from curation.review import progress
from curation.review.reviewers import Reviewer
from curation.rounds import lifecycle

router = APIRouter(prefix="/api/rounds", tags=["rounds"], responses=error_responses(401))

BEFORE_REVIEW = frozenset({"requested", "generating", "generated", "refused", "failed"})
"""States before selection and review, whose counts reveal no verdicts."""

Number = Annotated[int, Path(ge=1, le=2**31 - 1), QUERY_NUMBER]

States = Annotated[list[RoundState], Query(max_length=3)]

# Routes


@router.get(
    "",
    summary="List rounds",
    responses=list_page(
        report=operation_link("get_round", number="$response.body#/0/id"),
        agreement=operation_link("get_agreement", number="$response.body#/0/id"),
        pause_round=operation_link("pause_round", number="$response.body#/0/id"),
    ),
)
def get_rounds(
    request: Request,
    response: Response,
    visit: ListRounds,
    state: States = [],  # noqa: B006  # FastAPI copies it
    limit: Limit = 100,
    after: PageNumber | None = None,
) -> list[RoundResponse]:
    """Return rounds, newest first, after the round `after`; with `state` only those in a state."""
    with visit.transaction() as (tx, reviewer):
        found = lifecycle.list_rounds(tx, states=state, limit=limit + 1, after=after)
        rows = cut_page(request, response, found, limit, itemgetter("id"))
        # Programs do not review.
        own = (
            progress.progress_by_round(tx, reviewer.id, [row["id"] for row in rows])
            if isinstance(reviewer, Reviewer)
            else {}
        )
    # Annotators must not learn the verdicts of others.
    described = [round_report.describe_round(row) for row in rows]
    if reviewer.role is Role.annotator:
        described = [_without_verdicts(row) for row in described]
    none = progress.ReviewProgress()
    return [
        RoundResponse(**row, own=OwnProgress(**own.get(row["id"], none)._asdict()))
        for row in described
    ]


@router.get("/trend", summary="Get the trend over rounds")
def get_trend(visit: ReadRounds) -> RoundTrend:
    """Return the figures of all rounds, and whether the last one is better by more than chance."""
    with visit.transaction(one_view=True) as (tx, _):
        found = trend.rounds_trend(tx)
    return RoundTrend(**found)


@router.get("/{number}", summary="Get the report of a round", responses=error_responses(404))
def get_round(visit: ReadRounds, number: Number) -> RoundReport:
    """Return the report of a round; all its numbers are of the same moment."""
    with visit.transaction(one_view=True) as (tx, _):
        report = round_report.round_report(tx, number)
    return RoundReport(**report)


@router.get(
    "/{number}/agreement",
    summary="Get the agreement of reviewers in a round",
    responses=error_responses(404),
)
def get_agreement(visit: ReadRounds, number: Number) -> RoundAgreement:
    """Return the agreement of people in a round where several decide the same candidates."""
    with visit.transaction(one_view=True) as (tx, _):
        found = kept.agreement_report(tx, number)
    return RoundAgreement(**found)


@router.post(
    "/{number}/pause",
    summary="Pause a round",
    responses=error_responses(404, 409)
    | with_links(200, resume=operation_link("resume_round", number="$response.body#/id")),
)
def pause_round(visit: WriteRounds, number: Number) -> RoundResponse:
    """Pause generation and review of a round.

    Claimed candidates may still be decided, and decisions undone.
    """
    with visit.transaction() as (tx, reviewer):
        lifecycle.pause_round(tx, number, reviewer.name)
        row = lifecycle.find_round(tx, number) | {"counts": lifecycle.count_states(tx, number)}
    return RoundResponse(**round_report.describe_round(row))


@router.post("/{number}/resume", summary="Resume a round", responses=error_responses(404, 409))
def resume_round(visit: WriteRounds, number: Number) -> RoundResponse:
    """Resume a paused round."""
    with visit.transaction() as (tx, reviewer):
        lifecycle.resume_round(tx, number, reviewer.name)
        row = lifecycle.find_round(tx, number) | {"counts": lifecycle.count_states(tx, number)}
    return RoundResponse(**round_report.describe_round(row))


@router.post("/{number}/close", summary="Close a round", responses=error_responses(404, 409))
def close_round(visit: WriteRounds, number: Number) -> RoundResponse:
    """Close a round, and withdraw all candidates without a verdict; the call is idempotent."""
    with visit.transaction() as (tx, reviewer):
        lifecycle.close_round(tx, number, reviewer.name)
        row = lifecycle.find_round(tx, number) | {"counts": lifecycle.count_states(tx, number)}
    return RoundResponse(**round_report.describe_round(row))


def _without_verdicts(row: dict[str, Any]) -> dict[str, Any]:
    """Return a round without counts of verdicts and without its checkpoint.

    Ids of candidates are hashes that include the checkpoint's id. With it an annotator could
    compute the ids of the round's candidates, and so recognize gold.
    """
    counts = {state: n for state, n in sorted(row["counts"].items()) if state in BEFORE_REVIEW}
    return row | {"checkpoint": None, "counts": counts}
