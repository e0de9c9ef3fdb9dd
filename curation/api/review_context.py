"""Context of a review item: recent decisions, and the most similar accepted sample."""

from __future__ import annotations

import uuid
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel

from curation.api.auth import Annotator
from curation.api.contract import error_responses, operation_link, with_links
from curation.api.fields import QUERY_NUMBER
from curation.api.review_items import (
    LayerResponse,
    ReviewItemResponse,
    layer_response,
    review_item_response,
)
from curation.domain import LayerRole, RejectReason
from curation.review import recent_decisions, similar_samples
from curation.review.claims import check_claimed

router = APIRouter(prefix="/api/review", tags=["review"], responses=error_responses(401))


class RecentDecisionResponse(BaseModel):
    """A decision of mine that can be undone, with its candidate."""

    decision: int
    verdict: Literal["accept", "reject", "skip"]
    reasons: list[RejectReason]
    layers: list[LayerRole]
    comment: str
    candidate: ReviewItemResponse


class SimilarSampleResponse(BaseModel):
    """The accepted sample that is most similar to a candidate.

    `bits` is the number of bits, of 192, that differ between their fingerprints. Without
    fingerprints it is the latest accepted sample, and `bits` is null.
    """

    sample: uuid.UUID
    caption: str
    round: int
    bits: int | None
    layers: dict[LayerRole, LayerResponse]


@router.get(
    "/latest",
    summary="List my latest decisions",
    responses=with_links(
        200,
        undo=operation_link(
            "undo",
            {"decision": "$response.body#/0/decision", "key": "$response.body#/0/candidate/id"},
        ),
    ),
)
def get_latest(
    request: Request, visit: Annotator, count: Annotated[int, Query(ge=1, le=48), QUERY_NUMBER] = 20
) -> list[RecentDecisionResponse]:
    """Return my latest decisions that can be undone, newest first."""
    with visit.transaction() as (tx, reviewer):
        found = recent_decisions.recent_decisions(tx, reviewer.id, count)
    return [
        RecentDecisionResponse(
            decision=recent.decision,
            verdict=recent.verdict.value,
            reasons=list(recent.reasons),
            layers=list(recent.layers),
            comment=recent.comment,
            candidate=review_item_response(request, recent.item),
        )
        for recent in found
    ]


@router.get(
    "/nearest", summary="Find the most similar accepted sample", responses=error_responses(404)
)
def get_nearest(
    request: Request, visit: Annotator, candidate: uuid.UUID
) -> SimilarSampleResponse | None:
    """Return the accepted sample that is most similar to a candidate, by fingerprints.

    Null without accepted samples. The candidate must be one that I have claimed.
    """
    with visit.transaction() as (tx, reviewer):
        check_claimed(tx, reviewer.id, candidate)
        found = similar_samples.most_similar_sample(tx, candidate)
    if found is None:
        return None
    return SimilarSampleResponse(
        sample=found.sample,
        caption=found.caption,
        round=found.round,
        bits=found.bits,
        layers={role: layer_response(request, layer) for role, layer in found.layers.items()},
    )
