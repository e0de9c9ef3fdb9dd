"""Routes of comparisons: blind items and votes for reviewers, results for data engineers."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from operator import itemgetter
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request, Response
from pydantic import BaseModel, Field

from curation.api.auth import Annotator, ReadCheckpoints, WriteRounds
from curation.api.contract import error_responses, list_page, operation_link, with_links
from curation.api.fields import JSON_NUMBER, Body
from curation.api.paging import Digest, Limit, PageNumber, cut_page
from curation.api.review import MAX_DWELL_MS
from curation.api.review_items import LayerResponse, layer_response
from curation.comparison_values import ComparisonChoice, ComparisonState, DrawingMethod
from curation.comparisons import sessions, votes
from curation.comparisons.result import read_result, sentence
from curation.db import leases
from curation.db.engine import Transaction
from curation.domain import Kind, LayerRole
from curation.review.reviewers import ReviewerPausedError, lease_holder_name

router = APIRouter(prefix="/api", tags=["comparisons"], responses=error_responses(401))

MAX_CLAIM = 8
"""Largest number of items of a claim: the one on display, and those that a page loads ahead."""

MAX_HELD = 16

Number = Annotated[int, Path(ge=1, le=2**31 - 1)]
ComparisonNumber = Annotated[int, Field(ge=1, le=2**31 - 1), JSON_NUMBER]


# For reviewers


class ComparisonClaimRequest(Body):
    """A request for items of one comparison or of any, with those that the page holds."""

    comparison: ComparisonNumber | None = None
    count: Annotated[int, Field(ge=0, le=MAX_CLAIM), JSON_NUMBER] = 3
    holding: Annotated[list[uuid.UUID], Field(default_factory=list, max_length=MAX_HELD)]


class ComparisonReleaseRequest(Body):
    """Items that a page no longer uses."""

    items: Annotated[list[uuid.UUID], Field(max_length=MAX_HELD)]


class ComparisonItemResponse(BaseModel):
    """Two sets of layers of one prompt and seed; nothing names the checkpoints."""

    id: uuid.UUID
    comparison: int
    kind: Kind
    prompt: str
    texts: dict[LayerRole, str]
    left: dict[LayerRole, LayerResponse]
    right: dict[LayerRole, LayerResponse]


class ComparisonProgressResponse(BaseModel):
    """How many items I may still get, and how many of my votes stand."""

    waiting: int
    mine: int


class ComparisonClaimResponse(BaseModel):
    """Claimed items, and my progress."""

    items: list[ComparisonItemResponse]
    progress: ComparisonProgressResponse


class ComparisonVoteRequest(Body):
    """A vote; `key` is an idempotency key, which a repeated request must send again."""

    item: uuid.UUID
    choice: ComparisonChoice
    dwell_ms: Annotated[int, Field(ge=0), JSON_NUMBER] | None = None
    key: uuid.UUID


class ComparisonVoteResponse(BaseModel):
    """A stored vote."""

    vote: int
    item: uuid.UUID


class ComparisonUndoRequest(Body):
    """The vote to undo (null: my last), and an idempotency key as for a vote."""

    vote: Annotated[int, Field(ge=1, le=2**53 - 1), JSON_NUMBER] | None = None
    key: uuid.UUID


class ComparisonUndoResponse(BaseModel):
    """The number of the undo, and the item, which I may vote on again."""

    vote: int
    item: ComparisonItemResponse


@router.post(
    "/comparison/claims",
    summary="Claim comparison items",
    responses=error_responses(409)
    | with_links(
        200,
        vote=operation_link(
            "vote_on_comparison_item",
            {
                "item": "{$response.body#/items/0/id}",
                "choice": "left",
                "key": "{$response.body#/items/0/id}",
            },
        ),
    ),
)
def claim_comparison_items(
    request: Request, visit: Annotator, body: ComparisonClaimRequest
) -> ComparisonClaimResponse:
    """Claim the next items, and renew the leases of those that the page holds."""
    seconds = visit.context.settings.review_lease_seconds
    with visit.transaction() as (tx, reviewer):
        if reviewer.paused is not None:
            raise ReviewerPausedError(reviewer.paused)
        claimed = votes.claim_next(
            tx, reviewer.id, body.comparison, body.count, body.holding, seconds
        )
        mine = votes.progress(tx, reviewer.id, body.comparison)
    return ComparisonClaimResponse(
        items=[_item(request, item) for item in claimed],
        progress=ComparisonProgressResponse(**asdict(mine)),
    )


@router.post("/comparison/release", summary="Release comparison items", status_code=204)
def release_comparison_items(visit: Annotator, body: ComparisonReleaseRequest) -> None:
    """Release items that a page no longer uses, so that others get them at once."""
    with visit.transaction() as (tx, reviewer):
        leases.release_held(tx, body.items, votes.PURPOSE, lease_holder_name(reviewer.id))


@router.post(
    "/comparison/votes",
    summary="Vote on a comparison item",
    responses=error_responses(404, 409)
    | with_links(
        200,
        undo=operation_link(
            "undo_comparison_vote",
            {"vote": "$response.body#/vote", "key": "$response.body#/item"},
        ),
    ),
)
def vote_on_comparison_item(
    visit: Annotator, body: ComparisonVoteRequest
) -> ComparisonVoteResponse:
    """Store a vote; a repeated request with the same key gets the same response."""
    with visit.transaction() as (tx, reviewer):
        number = votes.vote(
            tx,
            reviewer.id,
            body.item,
            body.choice,
            key=body.key,
            dwell_ms=None if body.dwell_ms is None else min(body.dwell_ms, MAX_DWELL_MS),
        )
    return ComparisonVoteResponse(vote=number, item=body.item)


@router.post(
    "/comparison/undo", summary="Undo a comparison vote", responses=error_responses(404, 409)
)
def undo_comparison_vote(
    request: Request, visit: Annotator, body: ComparisonUndoRequest
) -> ComparisonUndoResponse:
    """Undo one of my votes, and claim its item again."""
    seconds = visit.context.settings.review_lease_seconds
    with visit.transaction() as (tx, reviewer):
        number, item = votes.undo_vote(tx, reviewer.id, body.vote, key=body.key, seconds=seconds)
    return ComparisonUndoResponse(vote=number, item=_item(request, item))


# For data engineers


class ComparedSideResponse(BaseModel):
    """A compared checkpoint; `matted` is its opaque images, cut out."""

    checkpoint: str
    method: DrawingMethod


class ComparisonResponse(BaseModel):
    """A comparison: its sides, its size, and whether it takes votes."""

    id: int
    kind: Kind
    a: ComparedSideResponse
    b: ComparedSideResponse
    segmenter: str | None
    items: int
    votes: int
    seed: int
    state: ComparisonState
    created_at: datetime
    closed_at: datetime | None


class ShareResponse(BaseModel):
    """A share of `n` observations with its 95 % interval; null without observations."""

    value: float | None
    low: float | None
    high: float | None
    n: int


class ReviewerVotesResponse(BaseModel):
    """The votes of one reviewer, and the median of their times in seconds."""

    reviewer: str
    a: int
    b: int
    equal: int
    both_bad: int
    median_seconds: float | None


class ComparisonResultResponse(BaseModel):
    """The figures of a comparison, counted in items that have all their votes.

    `win_rate` is the share of B among the items that a side wins, and `p_two_sided` the exact sign
    test of them; `left_share` is the share of the left side among the votes for a side, and
    `agreement` the share of alike votes among the pairs of votes on one item.
    """

    a: int
    b: int
    equal: int
    both_bad: int
    undecided: int
    win_rate: ShareResponse
    p_two_sided: float
    p_b_better: float
    p_a_better: float
    left_share: ShareResponse
    agreement: ShareResponse
    reviewers: list[ReviewerVotesResponse]
    drawings: dict[str, int]
    sentence: str


class ComparisonWithResult(BaseModel):
    """A comparison with its result."""

    comparison: ComparisonResponse
    result: ComparisonResultResponse


@router.get(
    "/comparisons",
    summary="List comparisons",
    responses=list_page(
        comparison=operation_link("get_comparison", number="$response.body#/0/id"),
    ),
)
def get_comparisons(
    request: Request,
    response: Response,
    visit: ReadCheckpoints,
    limit: Limit = 20,
    after: PageNumber | None = None,
    checkpoint: Digest | None = None,
) -> list[ComparisonResponse]:
    """Return comparisons, newest first, of all checkpoints or of one."""
    with visit.transaction() as (tx, _):
        found = sessions.list_comparisons(tx, limit + 1, after, checkpoint)
    rows = cut_page(request, response, found, limit, itemgetter("id"))
    return [_comparison(row) for row in rows]


@router.get("/comparisons/{number}", summary="Get a comparison", responses=error_responses(404))
def get_comparison(visit: ReadCheckpoints, number: Number) -> ComparisonWithResult:
    """Return a comparison with its result; while it is open, the result is provisional."""
    with visit.transaction(one_view=True) as (tx, _):
        return _with_result(tx, number)


@router.post(
    "/comparisons/{number}/close", summary="Close a comparison", responses=error_responses(404, 409)
)
def close_comparison(visit: WriteRounds, number: Number) -> ComparisonWithResult:
    """Close a comparison: its votes are final."""
    with visit.transaction() as (tx, reviewer):
        sessions.close_comparison(tx, number, reviewer.name)
        return _with_result(tx, number)


def _with_result(tx: Transaction, number: int) -> ComparisonWithResult:
    row = sessions.find_comparison(tx, number)
    result = read_result(tx, number)
    return ComparisonWithResult(
        comparison=_comparison(row),
        result=ComparisonResultResponse(**asdict(result), sentence=sentence(result)),
    )


def _comparison(row: Mapping[str, Any]) -> ComparisonResponse:
    same = (
        "id",
        "kind",
        "segmenter",
        "items",
        "votes",
        "seed",
        "state",
        "created_at",
        "closed_at",
    )
    return ComparisonResponse(
        **{name: row[name] for name in same},
        **{side: asdict(compared) for side, compared in sessions.sides_of(row).items()},
    )


def _item(request: Request, item: votes.ComparisonItem) -> ComparisonItemResponse:
    return ComparisonItemResponse(
        id=item.id,
        comparison=item.comparison,
        kind=item.kind,
        prompt=item.prompt,
        texts=dict(item.texts),
        left={role: layer_response(request, layer) for role, layer in item.left.items()},
        right={role: layer_response(request, layer) for role, layer in item.right.items()},
    )
