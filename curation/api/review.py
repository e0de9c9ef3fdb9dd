"""Review routes: claims, decisions, undo and reject reasons."""

from __future__ import annotations

import uuid
from typing import Annotated, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from curation.api.adaptive_cache import AdaptiveCache
from curation.api.auth import AccessTooLow, Annotator, NotSignedIn, RequestContext
from curation.api.contract import answers, link, linked
from curation.api.fields import JSON_NUMBER, STORABLE, Body
from curation.api.review_items import CardAnswer, card_answer
from curation.domain import CandidateState, LayerRole, RejectReason, Verdict
from curation.errors import LayerloopError, NotFound, Refused
from curation.review import decisions, progress, queue
from curation.review.reviewers import Paused

router = APIRouter(prefix="/api/review", tags=["review"], responses=answers(401))

LONGEST_LOOK_MS = 10 * 60 * 1000
"""A look of more than ten minutes was not at the candidate; it is kept as ten."""

MOST_TOGETHER = 48
"""Candidates of one tray, and decisions of one request: as many as the largest contact sheet has."""

MOST_REASONS = len(RejectReason) * len(LayerRole)
"""Every reason may be given for every layer of a pair."""

FIRST = "$response.body#/candidates/0/id"
"""The first candidate of a tray, for links to what may be done with it."""

MOST_HOLDING = 64
"""Candidates that one request names as held: as many as one reviewer may hold."""

LABELS = {
    RejectReason.halo: "Fringe of another colour along the edge",
    RejectReason.residue: "Haze or remains of a background",
    RejectReason.holes: "Parts of the subject are punched out",
    RejectReason.opaque: "Should be see-through and is not",
    RejectReason.cropped: "Cut off at the border",
    RejectReason.malformed: "Wrong anatomy or structure",
    RejectReason.prompt_miss: "Not what the prompt asked for",
    RejectReason.duplicate: "Seen before",
    RejectReason.other: "Something else",
    RejectReason.clash: "Of pairs: light, colour or place of the layers do not fit each other",
}


class TrayRequest(Body):
    """What a page has and wants.

    `page` is an id that each open page makes for itself: two pages of one reviewer get different
    candidates, and each keeps and returns its own. `previous` is the page that was loaded before in
    the same tab: what it held is taken over. Only what is named in `holding` stays leased.
    """

    round: Annotated[int, Field(ge=1, le=2**31 - 1), JSON_NUMBER] | None = None
    count: Annotated[int, Field(ge=0, le=MOST_TOGETHER), JSON_NUMBER] = 8
    holding: Annotated[list[uuid.UUID], Field(default_factory=list, max_length=MOST_HOLDING)]
    page: uuid.UUID | None = None
    previous: uuid.UUID | None = None


class ReleaseRequest(Body):
    """What a page no longer uses, because it is left or nobody is at it."""

    candidates: Annotated[list[uuid.UUID], Field(max_length=MOST_HOLDING)]
    page: uuid.UUID | None = None


class ProgressAnswer(BaseModel):
    """My own figures of a round, or of all open rounds together.

    `waiting` counts what may still be shown to me, `mine` my verdicts that stand, `accepted` those
    of them that accept.
    """

    waiting: int
    mine: int
    accepted: int
    round: int | None


class TrayAnswer(BaseModel):
    """Candidates leased to this reviewer, and those of the page's own that somebody else has by now."""

    candidates: list[CardAnswer]
    lost: list[uuid.UUID]
    progress: ProgressAnswer


class DecisionRequest(Body):
    """A verdict; `key` is made by the page, once per decision, and sent again with every try.

    Of a pair, `layers` may say which layer each of the reasons concerns, in the same order.
    """

    candidate: uuid.UUID
    verdict: Literal["accept", "reject", "skip"]
    reasons: Annotated[list[RejectReason], Field(default_factory=list, max_length=MOST_REASONS)]
    layers: Annotated[list[LayerRole], Field(default_factory=list, max_length=MOST_REASONS)]
    comment: Annotated[str, Field(max_length=2_000), STORABLE] = ""
    dwell_ms: Annotated[int, Field(ge=0), JSON_NUMBER] | None = None
    key: uuid.UUID


class DecisionAnswer(BaseModel):
    """The decision is durable; where this verdict by itself leaves the candidate."""

    decision: int
    candidate: uuid.UUID
    state: CandidateState


class DecisionsRequest(Body):
    """Decisions of a contact sheet, or those that waited for a connection, in their order."""

    decisions: Annotated[list[DecisionRequest], Field(min_length=1, max_length=MOST_TOGETHER)]


class RefusalAnswer(BaseModel):
    """Why one of several was not taken, in words for people."""

    message: str
    hint: str


class DecidedAnswer(BaseModel):
    """What became of one of several: the decision, or why it was not taken."""

    candidate: uuid.UUID
    taken: DecisionAnswer | None = None
    refused: RefusalAnswer | None = None


class UndoRequest(Body):
    """Which decision to undo (none: my last that stands), and a key as for a decision."""

    decision: Annotated[int, Field(ge=1, le=2**53 - 1), JSON_NUMBER] | None = None
    key: uuid.UUID
    page: uuid.UUID | None = None


class UndoAnswer(BaseModel):
    """The undo's own number, and the candidate, leased to this reviewer again."""

    decision: int
    candidate: CardAnswer


class UndosRequest(Body):
    """Undos of a contact sheet, or those that waited for a connection, in their order."""

    undos: Annotated[list[UndoRequest], Field(min_length=1, max_length=MOST_TOGETHER)]


class UndoneAnswer(BaseModel):
    """What became of one of several undos, in the order in which they were asked for."""

    taken: UndoAnswer | None = None
    refused: RefusalAnswer | None = None


class ReasonAnswer(BaseModel):
    """A reason for a reject, the key that gives it, and what it says to people."""

    name: RejectReason
    key: str
    label: str
    pairs_only: bool


@router.post(
    "/tray",
    summary="Take candidates to review",
    responses=answers(409)
    | linked(
        200,
        decide=link(
            "post_decision",
            {
                "candidate": "{$response.body#/candidates/0/id}",
                "verdict": "accept",
                "key": "{$response.body#/candidates/0/id}",
            },
        ),
        nearest=link("get_nearest", candidate=FIRST),
    ),
)
def post_tray(request: Request, visit: Annotator, body: TrayRequest) -> TrayAnswer:
    """Take the next candidates under a lease, and renew the leases of those the page holds.

    A paused round gives no more; what the page holds of it may still be decided.
    """
    seconds = visit.context.settings.review_lease_seconds
    counts: AdaptiveCache[dict[str, int]] = request.app.state.counts
    with visit.enter() as (tx, reviewer):
        if reviewer.paused is not None:
            raise Paused(reviewer.paused)
        tray = queue.claim_batch(
            tx, reviewer.id, body.round, body.count, body.holding, seconds, body.page, body.previous
        )
        who = (reviewer.id, body.round)
        far = counts.get(who, lambda: progress.review_progress(tx, reviewer.id, body.round))
    number = body.round or (tray.cards[0].round if tray.cards else None)
    return TrayAnswer(
        candidates=[card_answer(request, card) for card in tray.cards],
        lost=list(tray.lost),
        progress=ProgressAnswer(**far, round=number),
    )


@router.post("/release", summary="Return candidates", status_code=204)
def post_release(visit: Annotator, body: ReleaseRequest) -> None:
    """Return candidates that a page no longer uses, so that others get them at once.

    I may still decide them while nobody else has.
    """
    with visit.enter() as (tx, reviewer):
        queue.hand_back(tx, reviewer.id, body.candidates, body.page)


@router.post(
    "/decisions",
    summary="Decide a candidate",
    responses=answers(404, 409)
    | linked(
        200,
        undo=link(
            "post_undo",
            {"decision": "$response.body#/decision", "key": "$response.body#/candidate"},
        ),
    ),
)
def post_decision(visit: Annotator, body: DecisionRequest) -> DecisionAnswer:
    """Keep a verdict; answered only once it is durable, and the same key again is answered the same.

    Only candidates that were given to me can be decided, also after their lease ran out or their
    round was paused, while nobody else looks at them or has decided them.
    """
    return _decide(visit, body)


@router.post("/decisions/several", summary="Decide several candidates")
def post_decisions(visit: Annotator, body: DecisionsRequest) -> list[DecidedAnswer]:
    """Keep several verdicts, each in a transaction of its own: one that is refused leaves the others as they are.

    Answered once all are durable; sent again, each key is answered as the first time.
    """
    answers = []
    for one in body.decisions:
        try:
            answers.append(DecidedAnswer(candidate=one.candidate, taken=_decide(visit, one)))
        except (NotFound, Refused) as error:
            _unless_all(error)
            answers.append(DecidedAnswer(candidate=one.candidate, refused=_refusal(error)))
    return answers


@router.post("/undo", summary="Undo a decision", responses=answers(404, 409))
def post_undo(request: Request, visit: Annotator, body: UndoRequest) -> UndoAnswer:
    """Void one of my decisions and get its candidate back."""
    return _undo(request, visit, body)


@router.post("/undo/several", summary="Undo several decisions")
def post_undos(request: Request, visit: Annotator, body: UndosRequest) -> list[UndoneAnswer]:
    """Void several of my decisions, each in a transaction of its own, and get their candidates back."""
    answers = []
    for one in body.undos:
        try:
            answers.append(UndoneAnswer(taken=_undo(request, visit, one)))
        except (NotFound, Refused) as error:
            _unless_all(error)
            answers.append(UndoneAnswer(refused=_refusal(error)))
    return answers


@router.get("/reasons", summary="List the reasons for a reject")
def get_reasons(visit: Annotator) -> list[ReasonAnswer]:
    """Why a layer may be rejected, in the order of the number keys."""
    with visit.enter():
        pass
    return [
        ReasonAnswer(
            name=name, key=str(key % 10), label=label, pairs_only=name is RejectReason.clash
        )
        for key, (name, label) in enumerate(LABELS.items(), 1)
    ]


def _decide(visit: RequestContext, body: DecisionRequest) -> DecisionAnswer:
    with visit.enter() as (tx, reviewer):
        decided = decisions.decide(
            tx,
            reviewer.id,
            body.candidate,
            Verdict(body.verdict),
            key=body.key,
            reasons=body.reasons,
            layers=body.layers,
            comment=body.comment,
            dwell_ms=None if body.dwell_ms is None else min(body.dwell_ms, LONGEST_LOOK_MS),
            only_claimed=True,
        )
    return DecisionAnswer(
        decision=decided.decision, candidate=decided.candidate, state=decided.state
    )


def _undo(request: Request, visit: RequestContext, body: UndoRequest) -> UndoAnswer:
    seconds = visit.context.settings.review_lease_seconds
    with visit.enter() as (tx, reviewer):
        undone = decisions.undo(
            tx, reviewer.id, body.decision, key=body.key, seconds=seconds, page=body.page
        )
    return UndoAnswer(decision=undone.decision, candidate=card_answer(request, undone.card))


def _unless_all(error: LayerloopError) -> None:
    """What concerns whoever asks concerns every decision: it is the answer to the whole request."""
    if isinstance(error, NotSignedIn | AccessTooLow):
        raise error


def _refusal(error: LayerloopError) -> RefusalAnswer:
    return RefusalAnswer(message=error.message, hint=error.hint)
