"""The review desk over HTTP: trays, decisions, undo, and the reasons a reject may have."""

from __future__ import annotations

import uuid
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from curation.api.access import Annotator
from curation.api.links import Links
from curation.api.remembered import Remembered
from curation.domain import CandidateState, Kind, LayerRole, RejectReason, Verdict
from curation.review import decisions, progress, trays
from curation.review.reviewers import Paused

router = APIRouter(prefix="/api/review", tags=["review"])

LONGEST_LOOK_MS = 10 * 60 * 1000
"""A look of more than ten minutes was not at the candidate; it is kept as ten."""

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


class TrayRequest(BaseModel):
    """What a page has and wants."""

    model_config = ConfigDict(extra="forbid")
    round: Annotated[int | None, Field(ge=1, le=2**31 - 1)] = None
    count: Annotated[int, Field(ge=0, le=24)] = 8
    holding: Annotated[list[uuid.UUID], Field(max_length=64)] = []


class LayerAnswer(BaseModel):
    """One layer: an address that works for ten minutes or more, and its size in pixels."""

    url: str
    width: int
    height: int


class CardAnswer(BaseModel):
    """A candidate as a reviewer sees it."""

    id: uuid.UUID
    round: int
    kind: Kind
    prompt: str
    flags: list[str]
    layers: dict[LayerRole, LayerAnswer]
    signals: dict[str, float | None]
    texts: dict[LayerRole, str]


class ProgressAnswer(BaseModel):
    """How far the round is, or all open rounds together; `mine` counts the reviewer's own standing verdicts."""

    waiting: int
    decided: int
    accepted: int
    mine: int
    round: int | None


class TrayAnswer(BaseModel):
    """Candidates leased to this reviewer, and those of the page's own that somebody else has by now."""

    candidates: list[CardAnswer]
    lost: list[uuid.UUID]
    progress: ProgressAnswer


class DecisionRequest(BaseModel):
    """A verdict; `key` is made by the page, once per decision, and sent again with every try.

    Of a pair, `layers` may say which layer each of the reasons concerns, in the same order.
    """

    model_config = ConfigDict(extra="forbid")
    candidate: uuid.UUID
    verdict: Literal["accept", "reject", "skip"]
    reasons: Annotated[list[RejectReason], Field(max_length=len(RejectReason) * len(LayerRole))] = []
    layers: Annotated[list[LayerRole], Field(max_length=len(RejectReason) * len(LayerRole))] = []
    comment: Annotated[str, Field(max_length=2_000)] = ""
    dwell_ms: Annotated[int | None, Field(ge=0)] = None
    key: uuid.UUID


class DecisionAnswer(BaseModel):
    """The decision is durable; where this verdict by itself leaves the candidate."""

    decision: int
    candidate: uuid.UUID
    state: CandidateState


class UndoRequest(BaseModel):
    """Which decision to undo (none: my last that stands), and a key as for a decision."""

    model_config = ConfigDict(extra="forbid")
    decision: Annotated[int | None, Field(ge=1, le=2**63 - 1)] = None
    key: uuid.UUID


class UndoAnswer(BaseModel):
    """The undo's own number, and the candidate, leased to this reviewer again."""

    decision: int
    candidate: CardAnswer


class ReasonAnswer(BaseModel):
    """A reason for a reject, the key that gives it, and what it says to people."""

    name: RejectReason
    key: str
    label: str
    pairs_only: bool


@router.post("/tray")
def post_tray(request: Request, visit: Annotator, body: TrayRequest) -> TrayAnswer:
    """Take the next candidates under a lease, and renew the leases of those the page holds."""
    seconds = visit.house.settings.review_lease_seconds
    counts: Remembered[dict[str, int]] = request.app.state.counts
    with visit.enter() as (tx, reviewer):
        if reviewer.paused is not None:
            raise Paused(reviewer.paused)
        tray = trays.fill_tray(tx, reviewer.id, body.round, body.count, body.holding, seconds)
        who = (reviewer.id, body.round)
        far = counts.get(who, lambda: progress.review_progress(tx, reviewer.id, body.round))
    number = body.round or (tray.cards[0].round if tray.cards else None)
    return TrayAnswer(
        candidates=[_card(request, card) for card in tray.cards],
        lost=list(tray.lost),
        progress=ProgressAnswer(**far, round=number),
    )


@router.post("/decisions")
def post_decision(visit: Annotator, body: DecisionRequest) -> DecisionAnswer:
    """Keep a verdict; answered only once it is durable, and the same key again is answered the same."""
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
        )
    return DecisionAnswer(decision=decided.decision, candidate=decided.candidate, state=decided.state)


@router.post("/undo")
def post_undo(request: Request, visit: Annotator, body: UndoRequest) -> UndoAnswer:
    """Void one of my decisions and get its candidate back."""
    seconds = visit.house.settings.review_lease_seconds
    with visit.enter() as (tx, reviewer):
        undone = decisions.undo(tx, reviewer.id, body.decision, key=body.key, seconds=seconds)
    return UndoAnswer(decision=undone.decision, candidate=_card(request, undone.card))


@router.get("/reasons")
def get_reasons(visit: Annotator) -> list[ReasonAnswer]:
    """Why a layer may be rejected, in the order of the number keys."""
    with visit.enter():
        pass
    return [
        ReasonAnswer(name=name, key=str(key % 10), label=label, pairs_only=name is RejectReason.clash)
        for key, (name, label) in enumerate(LABELS.items(), 1)
    ]


def _card(request: Request, card: trays.Card) -> CardAnswer:
    links: Links = request.app.state.links
    layers: dict[LayerRole, Any] = {
        role: LayerAnswer(url=links.address(layer.sha256), width=layer.width, height=layer.height)
        for role, layer in card.layers.items()
    }
    return CardAnswer(
        id=card.id,
        round=card.round,
        kind=card.kind,
        prompt=card.prompt,
        flags=list(card.flags),
        layers=layers,
        signals=dict(card.signals),
        texts=dict(card.texts),
    )
