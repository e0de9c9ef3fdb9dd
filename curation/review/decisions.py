"""Review: decisions that are kept for good, and what each makes of its candidate."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import sqlalchemy as sa

from curation.datasets.samples import add_samples, samples_of
from curation.db.engine import Transaction
from curation.domain import (
    CandidateState,
    Kind,
    LayerRole,
    RejectReason,
    ReviewItem,
    RuleVerdict,
    Verdict,
    content_id,
)
from curation.errors import Conflict, NotFound, Refused
from curation.review import gold
from curation.review.claims import NeverShown
from curation.review.consensus import Consensus, Outcome, weigh
from curation.review.queue import claim_items
from curation.review.reviewers import Paused, holder_of
from curation.review.undo import Undone, undo
from curation.review.verdicts import AFTER, STANDS, lock_candidate
from curation.rounds.lifecycle import GOLD

__all__ = ["Decided", "Undone", "claim_items", "decide", "decide_by_oracle", "undo"]

PAGES, ORACLE = "pages", "oracle"
"""Desks: where a decision was made."""


@dataclass(frozen=True)
class Decided:
    """The answer to a decision: its number, and where this verdict by itself leaves the candidate.

    Where several decide, what the others said stays unseen, and so does whether a candidate was gold.
    """

    decision: int
    candidate: uuid.UUID
    state: CandidateState


def decide(
    tx: Transaction,
    reviewer_id: int,
    candidate: uuid.UUID,
    verdict: Verdict,
    *,
    key: uuid.UUID,
    reasons: Sequence[RejectReason] = (),
    layers: Sequence[LayerRole] = (),
    comment: str = "",
    dwell_ms: int | None = None,
    desk: str = PAGES,
    only_claimed: bool = False,
) -> Decided:
    """Keep a verdict and move the candidate: accepted, rejected, or back to waiting behind the others (skip).

    The same key with the same content is answered as the first time; with other content it raises Conflict, as does a
    candidate that someone else holds or has decided. A decision that comes after its lease ran out is taken while the
    candidate still waits, in a paused round too. With `only_claimed` it must have been given to this reviewer
    (curation.review.claims), whatever has become of its lease or its round.

    Of a pair, `layers` says in the same order which layer each reason concerns; empty, it does
    not say so. Raises NotFound, Refused (reasons without a reject, layers without reasons or of a single layer).
    """
    told, concerned = _distinct(verdict, reasons, layers)
    said = _Content(candidate, reviewer_id, _decidable(verdict), told, concerned, comment)
    try:
        row = lock_candidate(tx, candidate)
    except NotFound:
        raise NeverShown(candidate) from None
    asked = {"candidate": candidate, "key": key, "round": row.round_id, "reviewer": reviewer_id}
    known = tx.execute(_STANDING, asked).one()
    if only_claimed and not known.claimed:
        raise NeverShown(candidate)
    if layers and known.kind != Kind.pair:
        raise Refused(
            "a single layer has no layers that reasons could tell apart", "leave the layers out"
        )
    if known.earlier is not None:
        return _answer_again(known, said)
    if known.paused is not None:
        raise Paused(known.paused)
    _check_decidable(row.state, known.holder, holder_of(reviewer_id), decided=known.mine)
    outcome = _outcome(tx, candidate, row, known, said, desk)
    values = said._asdict() | outcome._asdict() | {
        "key": key, "dwell_ms": dwell_ms, "desk": desk, "checkpoint": known.checkpoint_id, "propensity": row.propensity,
        "step": float(verdict is Verdict.skip),
    }  # fmt: skip
    decision = tx.execute(_DECIDE, values).scalar()
    if decision is None:
        raise Conflict(
            "this key was used for another decision", "make a new key for every decision"
        )
    if outcome.state is CandidateState.accepted:
        add_samples(tx, samples_of(tx, [candidate]))
    if row.slice == "audit":
        tx.ask("choose", row.round_id)  # what people say of an audit may close a gate
    if known.purpose == GOLD and verdict is not Verdict.skip:
        gold.check_reviewer(tx, reviewer_id, candidate)
    return Decided(int(decision), candidate, AFTER[verdict])


def decide_by_oracle(
    tx: Transaction, reviewer_id: int, card: ReviewItem, said: RuleVerdict
) -> Decided:
    """Keep what the oracle said of a card it holds; its key is the candidate and its turn, so repeating is harmless."""
    turn = tx.execute(_TURN, {"candidate": card.id}).scalar_one()
    key = content_id(ORACLE, card.id, turn)
    comment = "" if said.verdict is Verdict.accept else said.sentence[:2_000]
    reasons = tuple(said.reasons) if said.verdict is Verdict.reject else ()
    layers = tuple(said.layers) if reasons else ()
    return decide(
        tx,
        reviewer_id,
        card.id,
        said.verdict,
        key=key,
        reasons=reasons,
        layers=layers,
        comment=comment,
        desk=ORACLE,
    )


def _outcome(
    tx: Transaction,
    candidate: uuid.UUID,
    row: sa.Row[Any],
    known: sa.Row[Any],
    said: _Content,
    desk: str,
) -> Outcome:
    """What a verdict makes of its candidate: by itself, as one of several, or nothing at all of gold."""
    if known.purpose == GOLD:
        return Outcome(CandidateState.waiting, 0, final=False)
    consensus = Consensus.read(known.consensus)
    if consensus.alone(desk):
        judged = consensus.overlap > 1 and said.verdict is not Verdict.skip
        return Outcome(AFTER[said.verdict], row.decided, final=judged)
    return weigh(tx, consensus, row.round_id, candidate, said.reviewer, said.verdict)


class _Content(NamedTuple):
    """The content of a decision: what must be equal when a key comes again."""

    candidate: uuid.UUID
    reviewer: int
    verdict: Verdict
    reasons: list[RejectReason]
    layers: list[LayerRole]
    comment: str


def _decidable(verdict: Verdict) -> Verdict:
    if verdict is Verdict.undo:
        raise Refused("an undo is not a verdict on a candidate", "undo a decision by its number")
    return verdict


def _distinct(
    verdict: Verdict, reasons: Sequence[RejectReason], layers: Sequence[LayerRole]
) -> tuple[list[RejectReason], list[LayerRole]]:
    """The reasons, each once per layer, and the layers they concern (as many, or none), in an order of their own."""
    if reasons and verdict is not Verdict.reject:
        raise Refused(f"reasons belong to a reject, not to {verdict}", "leave the reasons out")
    if not layers:
        return sorted(set(reasons)), []
    if len(layers) != len(reasons):
        raise Refused(
            f"{len(layers)} layers are named for {len(reasons)} reasons",
            "name one for each, or none",
        )
    both = sorted(set(zip(reasons, layers, strict=True)))
    return [reason for reason, _ in both], [layer for _, layer in both]


def _answer_again(known: sa.Row[Any], said: _Content) -> Decided:
    fields = (
        known.candidate_id,
        known.reviewer_id,
        Verdict(known.verdict),
        known.reasons,
        known.layers,
    )
    earlier = _Content(*fields, known.comment)
    if earlier != said:
        raise Conflict(
            "this key was used for another decision", "make a new key for every decision"
        )
    return Decided(known.earlier, said.candidate, AFTER[said.verdict])


def _check_decidable(state: str, holder: str | None, me: str, *, decided: bool) -> None:
    """Raise Conflict unless this reviewer may decide now; what others have said is never part of it."""
    hint = "go on with the next one"
    if decided:
        raise Conflict(
            "you have decided this candidate already", "undo your decision to decide again"
        )
    if state == CandidateState.waiting or (
        state == CandidateState.showing and holder in {me, None}
    ):
        return
    if state == CandidateState.showing:
        raise Conflict("somebody else is looking at this candidate now: your lease ran out", hint)
    if state == CandidateState.withdrawn:
        raise Conflict("the round of this candidate was closed", hint)
    raise Conflict("this candidate is decided already", hint)


_STANDING = sa.text(f"""
    select exists (
            select from decisions d where d.candidate_id = :candidate and d.reviewer_id = :reviewer
                and {STANDS}
        ) as mine,
        exists (select from claims where candidate_id = :candidate
            and reviewer_id = :reviewer) as claimed,
        r.kind, r.purpose, r.checkpoint_id, r.consensus, l.holder, me.paused,
        d.id as earlier, d.candidate_id, d.reviewer_id, d.verdict, d.reasons, d.layers, d.comment
    from rounds r
    left join reviewers me on me.id = :reviewer
    left join leases l on l.subject = :candidate
    left join decisions d on d.key = :key
    where r.id = :round""")

_DECIDE = sa.text("""
    with kept as (
        insert into decisions (candidate_id, reviewer_id, verdict, reasons, layers, comment,
            dwell_ms, desk, key,
            checkpoint_id, propensity, final)
        values (:candidate, :reviewer, :verdict, cast(:reasons as text[]), cast(:layers as text[]),
            :comment,
            :dwell_ms, :desk, :key, :checkpoint, :propensity, :final)
        on conflict (key) do nothing returning id),
    moved as (
        update candidates set state = :state, decided = :decided, priority = priority - :step
        from kept where candidates.id = :candidate),
    freed as (delete from leases using kept where subject = :candidate),
    finished as (
        update claims set unfinished = false from kept where reviewer_id = :reviewer
            and candidate_id = :candidate)
    select id from kept""")

# What ends a turn: an undo or a skip. A decision that stands does not, so that saying it again has the same key.
_TURN = sa.text(
    "select count(*) from decisions where candidate_id = :candidate and verdict in ('undo', 'skip')"
)
