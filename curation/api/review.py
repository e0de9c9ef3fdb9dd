"""Review routes: claims, decisions, undo and reject reasons."""

from __future__ import annotations

import uuid
from typing import Annotated, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from curation.api.adaptive_cache import AdaptiveCache
from curation.api.auth import Annotator, InsufficientRole, NotSignedIn, RequestContext
from curation.api.contract import error_responses, operation_link, with_links
from curation.api.fields import JSON_NUMBER, STORABLE, Body
from curation.api.review_items import ReviewItemResponse, review_item_response
from curation.domain import CandidateState, LayerRole, RejectReason, Verdict
from curation.errors import LayerloopError, NotFound, Refused
from curation.review import decisions, progress, queue
from curation.review.reviewers import ReviewerPausedError

router = APIRouter(prefix="/api/review", tags=["review"], responses=error_responses(401))

MAX_DWELL_MS = 10 * 60 * 1000
"""Longest review time that is stored; in a longer time the reviewer was away."""

MAX_BATCH = 48
"""Largest number of candidates of a claim and of decisions in a request: one grid."""

MAX_REASONS = len(RejectReason) * len(LayerRole)
"""Largest number of reasons of a decision: every reason for every layer of a pair."""

FIRST_CANDIDATE = "$response.body#/candidates/0/id"
"""The first claimed candidate, for OpenAPI links."""

MAX_HELD = 64
"""Largest number of held candidates in a request: as many as a reviewer may hold."""

LABELS = {
    RejectReason.halo: "Fringe of another color along the edge",
    RejectReason.residue: "Haze or remains of a background",
    RejectReason.holes: "Parts of the subject are punched out",
    RejectReason.opaque: "Should be see-through and is not",
    RejectReason.cropped: "Cut off at the border",
    RejectReason.malformed: "Wrong anatomy or structure",
    RejectReason.prompt_miss: "Not what the prompt asked for",
    RejectReason.duplicate: "Seen before",
    RejectReason.other: "Something else",
    RejectReason.clash: "Of pairs: light, color or position of the layers do not fit each other",
}


# Claims


class ClaimsRequest(Body):
    """A request for candidates, with those that the page holds already.

    `page` is an id that each open page generates: two pages of a reviewer get different candidates,
    and each holds and returns its own. `previous` is the page that was loaded before in the same
    tab, whose candidates are taken over. Only the candidates in `holding` stay leased.
    """

    round: Annotated[int, Field(ge=1, le=2**31 - 1), JSON_NUMBER] | None = None
    count: Annotated[int, Field(ge=0, le=MAX_BATCH), JSON_NUMBER] = 8
    holding: Annotated[list[uuid.UUID], Field(default_factory=list, max_length=MAX_HELD)]
    page: uuid.UUID | None = None
    previous: uuid.UUID | None = None


class ReleaseRequest(Body):
    """Candidates that a page no longer uses, because it is closed or idle."""

    candidates: Annotated[list[uuid.UUID], Field(max_length=MAX_HELD)]
    page: uuid.UUID | None = None


class ProgressResponse(BaseModel):
    """My progress in a round, or in all open rounds together.

    `waiting` is the number of candidates that I may still get, `mine` the number of my verdicts,
    without undone verdicts, and `accepted` the number of accepts among them.
    """

    waiting: int
    mine: int
    accepted: int
    round: int | None


class ClaimsResponse(BaseModel):
    """Claimed candidates, and candidates that the page held and another reviewer has by now."""

    candidates: list[ReviewItemResponse]
    lost: list[uuid.UUID]
    progress: ProgressResponse


# Decisions


class DecisionRequest(Body):
    """A verdict; `key` is an idempotency key, which a repeated request must send again.

    For a pair, `layers` may name the layer that each of the reasons concerns, in the same order.
    """

    candidate: uuid.UUID
    verdict: Literal["accept", "reject", "skip"]
    reasons: Annotated[list[RejectReason], Field(default_factory=list, max_length=MAX_REASONS)]
    layers: Annotated[list[LayerRole], Field(default_factory=list, max_length=MAX_REASONS)]
    comment: Annotated[str, Field(max_length=2_000), STORABLE] = ""
    dwell_ms: Annotated[int, Field(ge=0), JSON_NUMBER] | None = None
    key: uuid.UUID


class DecisionResponse(BaseModel):
    """A stored decision, and the state of the candidate after this verdict."""

    decision: int
    candidate: uuid.UUID
    state: CandidateState


class DecisionBatchRequest(Body):
    """Decisions of a grid, or those that waited for a connection, in their order."""

    decisions: Annotated[list[DecisionRequest], Field(min_length=1, max_length=MAX_BATCH)]


class ItemError(BaseModel):
    """The error of one item of a batch: message and hint."""

    message: str
    hint: str


class DecisionBatchItem(BaseModel):
    """The result for one item of a batch: the decision, or the error."""

    candidate: uuid.UUID
    taken: DecisionResponse | None = None
    refused: ItemError | None = None


# Undo


class UndoRequest(Body):
    """The decision to undo (null: my last), and an idempotency key as for a decision."""

    decision: Annotated[int, Field(ge=1, le=2**53 - 1), JSON_NUMBER] | None = None
    key: uuid.UUID
    page: uuid.UUID | None = None


class UndoResponse(BaseModel):
    """The number of the undo, and the candidate, which is leased to this reviewer again."""

    decision: int
    candidate: ReviewItemResponse


class UndoBatchRequest(Body):
    """Undos of a grid, or those that waited for a connection, in their order."""

    undos: Annotated[list[UndoRequest], Field(min_length=1, max_length=MAX_BATCH)]


class UndoBatchItem(BaseModel):
    """The result for one item of a batch of undos, in the order of the request."""

    taken: UndoResponse | None = None
    refused: ItemError | None = None


# Reject reasons


class ReasonResponse(BaseModel):
    """A reason to reject, with its key on the review page and its label."""

    name: RejectReason
    key: str
    label: str
    pairs_only: bool


# Routes


@router.post(
    "/claims",
    summary="Claim candidates to review",
    responses=error_responses(409)
    | with_links(
        200,
        decide=operation_link(
            "decide",
            {
                "candidate": "{$response.body#/candidates/0/id}",
                "verdict": "accept",
                "key": "{$response.body#/candidates/0/id}",
            },
        ),
        nearest=operation_link("get_nearest", candidate=FIRST_CANDIDATE),
    ),
)
def claim_candidates(request: Request, visit: Annotator, body: ClaimsRequest) -> ClaimsResponse:
    """Claim the next candidates, and renew the leases of the candidates that the page holds.

    A paused round gives no new candidates; those that the page holds may still be decided.
    """
    seconds = visit.context.settings.review_lease_seconds
    counts: AdaptiveCache[dict[str, int]] = request.app.state.counts
    with visit.transaction() as (tx, reviewer):
        # A reviewer who missed obvious defects gets no candidates.
        if reviewer.paused is not None:
            raise ReviewerPausedError(reviewer.paused)
        batch = queue.claim_batch(
            tx, reviewer.id, body.round, body.count, body.holding, seconds, body.page, body.previous
        )
    # Counted after the commit, so that no lock is held meanwhile, and cached where it is slow.
    own = counts.get((reviewer.id, body.round), lambda: _progress(visit, reviewer.id, body.round))
    round_id = body.round or (batch.items[0].round if batch.items else None)
    return ClaimsResponse(
        candidates=[review_item_response(request, item) for item in batch.items],
        lost=list(batch.lost),
        progress=ProgressResponse(**own, round=round_id),
    )


@router.post("/release", summary="Release candidates", status_code=204)
def release_candidates(visit: Annotator, body: ReleaseRequest) -> None:
    """Release candidates that a page no longer uses, so that others can claim them at once.

    I may still decide them until another reviewer has claimed or decided them.
    """
    with visit.transaction() as (tx, reviewer):
        queue.release_claimed(tx, reviewer.id, body.candidates, body.page)


@router.post(
    "/decisions",
    summary="Decide a candidate",
    responses=error_responses(404, 409)
    | with_links(
        200,
        undo=operation_link(
            "undo",
            {"decision": "$response.body#/decision", "key": "$response.body#/candidate"},
        ),
    ),
)
def decide(visit: Annotator, body: DecisionRequest) -> DecisionResponse:
    """Store a verdict; a repeated request with the same key gets the same response.

    I can decide only candidates that I have claimed, also after their lease has expired or their
    round was paused, until another reviewer has claimed or decided them.
    """
    return _decide(visit, body)


@router.post("/decisions/batch", summary="Decide several candidates")
def decide_batch(visit: Annotator, body: DecisionBatchRequest) -> list[DecisionBatchItem]:
    """Store several verdicts, each in a transaction of its own, so that an error concerns only one.

    A repeated request with the same keys gets the same response.
    """
    results = []
    for item in body.decisions:
        try:
            results.append(DecisionBatchItem(candidate=item.candidate, taken=_decide(visit, item)))
        except (NotFound, Refused) as error:
            _raise_if_general(error)
            results.append(DecisionBatchItem(candidate=item.candidate, refused=_refusal(error)))
    return results


@router.post("/undo", summary="Undo a decision", responses=error_responses(404, 409))
def undo(request: Request, visit: Annotator, body: UndoRequest) -> UndoResponse:
    """Undo one of my decisions, and claim its candidate again."""
    return _undo(request, visit, body)


@router.post("/undo/batch", summary="Undo several decisions")
def undo_batch(request: Request, visit: Annotator, body: UndoBatchRequest) -> list[UndoBatchItem]:
    """Undo several of my decisions, each in a transaction of its own, and claim the candidates."""
    results = []
    for item in body.undos:
        try:
            results.append(UndoBatchItem(taken=_undo(request, visit, item)))
        except (NotFound, Refused) as error:
            _raise_if_general(error)
            results.append(UndoBatchItem(refused=_refusal(error)))
    return results


@router.get("/reasons", summary="List the reasons to reject")
def get_reasons(visit: Annotator) -> list[ReasonResponse]:
    """Return the reasons to reject a layer, in the order of the number keys."""
    # Checks the session.
    with visit.transaction():
        pass
    return [
        ReasonResponse(
            name=name, key=str(key % 10), label=label, pairs_only=name is RejectReason.clash
        )
        for key, (name, label) in enumerate(LABELS.items(), 1)
    ]


def _progress(visit: RequestContext, reviewer_id: int, round_id: int | None) -> dict[str, int]:
    with visit.context.database.transaction() as tx:
        return progress.review_progress(tx, reviewer_id, round_id)


def _decide(visit: RequestContext, body: DecisionRequest) -> DecisionResponse:
    # The response is made after the commit, so that the client never sees a decision that is lost.
    with visit.transaction() as (tx, reviewer):
        decided = decisions.decide(
            tx,
            reviewer.id,
            body.candidate,
            Verdict(body.verdict),
            key=body.key,
            reasons=body.reasons,
            layers=body.layers,
            comment=body.comment,
            dwell_ms=None if body.dwell_ms is None else min(body.dwell_ms, MAX_DWELL_MS),
            only_claimed=True,
        )
    return DecisionResponse(
        decision=decided.decision, candidate=decided.candidate, state=decided.state
    )


def _undo(request: Request, visit: RequestContext, body: UndoRequest) -> UndoResponse:
    seconds = visit.context.settings.review_lease_seconds
    with visit.transaction() as (tx, reviewer):
        undone = decisions.undo(
            tx, reviewer.id, body.decision, key=body.key, seconds=seconds, page=body.page
        )
    return UndoResponse(
        decision=undone.decision, candidate=review_item_response(request, undone.item)
    )


def _raise_if_general(error: LayerloopError) -> None:
    """Raise an error again that concerns the whole request and not only one item."""
    if isinstance(error, NotSignedIn | InsufficientRole):
        raise error


def _refusal(error: LayerloopError) -> ItemError:
    return ItemError(message=error.message, hint=error.hint)
