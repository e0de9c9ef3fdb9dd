"""Context of a review item: recent decisions, and the most similar accepted sample."""

from __future__ import annotations

import uuid
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel

from curation.api.auth import Annotator
from curation.api.contract import answers, link, linked
from curation.api.fields import QUERY_NUMBER
from curation.api.review_items import CardAnswer, LayerAnswer, card_answer, layer_answer
from curation.domain import LayerRole, RejectReason
from curation.review import recent_decisions, similar_samples
from curation.review.claims import check_claimed

router = APIRouter(prefix="/api/review", tags=["review"], responses=answers(401))


class LatestAnswer(BaseModel):
    """A decision of mine that can be undone, with its candidate."""

    decision: int
    verdict: Literal["accept", "reject", "skip"]
    reasons: list[RejectReason]
    layers: list[LayerRole]
    comment: str
    candidate: CardAnswer


class NearestAnswer(BaseModel):
    """The accepted sample that is most similar to a candidate.

    `bits` is the number of bits, of 192, that differ between their fingerprints. Without
    fingerprints it is the latest accepted sample, and `bits` is null.
    """

    sample: uuid.UUID
    caption: str
    round: int
    bits: int | None
    layers: dict[LayerRole, LayerAnswer]


@router.get(
    "/latest",
    summary="List my latest decisions",
    responses=linked(
        200,
        undo=link(
            "post_undo",
            {"decision": "$response.body#/0/decision", "key": "$response.body#/0/candidate/id"},
        ),
    ),
)
def get_latest(
    request: Request, visit: Annotator, count: Annotated[int, Query(ge=1, le=48), QUERY_NUMBER] = 20
) -> list[LatestAnswer]:
    """Return my latest decisions that can be undone, newest first."""
    with visit.enter() as (tx, reviewer):
        found = recent_decisions.latest_decisions(tx, reviewer.id, count)
    return [
        LatestAnswer(
            decision=item.decision,
            verdict=item.verdict.value,
            reasons=list(item.reasons),
            layers=list(item.layers),
            comment=item.comment,
            candidate=card_answer(request, item.card),
        )
        for item in found
    ]


@router.get("/nearest", summary="Find the most similar accepted sample", responses=answers(404))
def get_nearest(request: Request, visit: Annotator, candidate: uuid.UUID) -> NearestAnswer | None:
    """Return the accepted sample that is most similar to a candidate, by fingerprints.

    Null without accepted samples. The candidate must be one that I have claimed.
    """
    with visit.enter() as (tx, reviewer):
        check_claimed(tx, reviewer.id, candidate)
        found = similar_samples.nearest_sample(tx, candidate)
    if found is None:
        return None
    return NearestAnswer(
        sample=found.sample,
        caption=found.caption,
        round=found.round,
        bits=found.bits,
        layers={role: layer_answer(request, layer) for role, layer in found.layers.items()},
    )
