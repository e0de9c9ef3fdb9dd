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
    """A decision of mine that stands and can be undone, with its candidate."""

    decision: int
    verdict: Literal["accept", "reject", "skip"]
    reasons: list[RejectReason]
    layers: list[LayerRole]
    comment: str
    candidate: CardAnswer


class NearestAnswer(BaseModel):
    """The accepted sample that looks most like a candidate; `bits` of the 192 of their fingerprints differ.

    Without fingerprints it is the latest accepted one, and `bits` is null.
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
    """My latest decisions that stand and can be undone, the newest first."""
    with visit.enter() as (tx, reviewer):
        made = recent_decisions.latest_decisions(tx, reviewer.id, count)
    return [
        LatestAnswer(
            decision=one.decision,
            verdict=one.verdict.value,
            reasons=list(one.reasons),
            layers=list(one.layers),
            comment=one.comment,
            candidate=card_answer(request, one.card),
        )
        for one in made
    ]


@router.get("/nearest", summary="Find the nearest accepted sample", responses=answers(404))
def get_nearest(request: Request, visit: Annotator, candidate: uuid.UUID) -> NearestAnswer | None:
    """The accepted sample that looks most like a candidate, by fingerprints; null while there is none.

    Only of candidates that were given to me.
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
