"""Review: decisions that are kept for good, what a verdict turns a candidate into, and how it is undone."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import sqlalchemy as sa

from curation import leases
from curation.database import Transaction
from curation.domain import CandidateState, Kind, LayerRole, RejectReason, Said, Verdict, content_id
from curation.errors import Conflict, NotFound, Refused
from curation.review.reviewers import holder_of
from curation.review.trays import Card, read_cards, take_tray
from curation.samples import add_samples, samples_of, withdraw_sample_of

__all__ = ["Decided", "Undone", "decide", "decide_by_oracle", "take_tray", "undo"]

PAGES, ORACLE = "pages", "oracle"
"""Desks: where a decision was made."""


@dataclass(frozen=True)
class Decided:
    """The answer to a decision: its number, and where it left the candidate."""

    decision: int
    candidate: uuid.UUID
    state: CandidateState


@dataclass(frozen=True)
class Undone:
    """The answer to an undo: its own number, and the candidate, held by the reviewer again."""

    decision: int
    card: Card


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
) -> Decided:
    """Keep a verdict and move the candidate: accepted, rejected, or back to waiting behind the others (skip).

    The same key with the same content is answered as the first time; with other content it raises Conflict, as does a
    candidate that someone else holds or has decided. A decision that comes after its lease ran out is taken while the
    candidate still waits. Of a pair, `layers` says in the same order which layer each reason concerns; empty, it does
    not say so. Raises NotFound, Refused (reasons without a reject, layers without reasons or of a single layer).
    """
    told, concerned = _distinct(verdict, reasons, layers)
    said = _Content(candidate, reviewer_id, _decidable(verdict), told, concerned, comment)
    row = _lock(tx, candidate)
    known = tx.execute(_STANDING, {"candidate": candidate, "key": key, "round": row.round_id}).one()
    if layers and known.kind != Kind.pair:
        raise Refused("a single layer has no layers that reasons could tell apart", "leave the layers out")
    if known.earlier is not None:
        return _answer_again(known, said)
    _check_decidable(row.state, known.holder, holder_of(reviewer_id))
    state = _AFTER[verdict]
    values = said._asdict() | {
        "key": key, "dwell_ms": dwell_ms, "desk": desk, "checkpoint": known.checkpoint_id, "propensity": row.propensity,
        "state": state, "step": float(verdict is Verdict.skip),
    }  # fmt: skip
    decision = tx.execute(_DECIDE, values).scalar()
    if decision is None:
        raise Conflict("this key was used for another decision", "make a new key for every decision")
    if verdict is Verdict.accept:
        add_samples(tx, samples_of(tx, [candidate]))
    return Decided(int(decision), candidate, state)


def decide_by_oracle(tx: Transaction, reviewer_id: int, card: Card, said: Said) -> Decided:
    """Keep what the oracle said of a card it holds; its key is the candidate and its turn, so repeating is harmless."""
    turn = tx.execute(_TURN, {"candidate": card.id}).scalar_one()
    key = content_id(ORACLE, card.id, turn)
    comment = "" if said.verdict is Verdict.accept else said.sentence[:2_000]
    reasons = tuple(said.reasons) if said.verdict is Verdict.reject else ()
    layers = tuple(said.layers) if reasons else ()
    return decide(
        tx, reviewer_id, card.id, said.verdict, key=key, reasons=reasons, layers=layers, comment=comment, desk=ORACLE
    )


def undo(tx: Transaction, reviewer_id: int, decision: int | None, *, key: uuid.UUID, seconds: int) -> Undone:
    """Void the reviewer's own decision (None: the last that stands) and hand the candidate back to them.

    The decision stays and a row that undoes it is added; an accepted candidate's sample is withdrawn. The same key
    again gives the same answer. Raises NotFound, and Conflict where the candidate has moved on since.
    """
    earlier = tx.execute(_EARLIER_UNDO, {"key": key}).one_or_none()
    if earlier is not None:
        if (
            earlier.reviewer_id != reviewer_id
            or earlier.verdict != Verdict.undo
            or decision not in {None, earlier.undoes}
        ):
            raise Conflict("this key was used for another decision", "make a new key for every decision")
        return Undone(earlier.id, read_cards(tx, [earlier.candidate_id])[0])
    target = tx.execute(_UNDOABLE, {"reviewer": reviewer_id, "decision": decision}).one_or_none()
    if target is None:
        raise NotFound("there is no decision of yours to undo", "each can be undone once, and only by who made it")
    row = _lock(tx, target.candidate_id)
    if row.state != _AFTER[Verdict(target.verdict)]:
        raise Conflict(f"the candidate is {row.state} by now", "only the last decision on a candidate can be undone")
    if tx.execute(_ROUND_STATE, {"round": row.round_id}).scalar_one() == "closed":
        raise Conflict(f"round {row.round_id} is closed", "the verdicts of a closed round are history")
    values = {"key": key, "candidate": target.candidate_id, "decision": target.id, "reviewer": reviewer_id}
    undone = tx.execute(_UNDO, values).scalar()
    if undone is None:
        raise Conflict("this decision was undone a moment ago", "load the page again")
    leases.claim(tx, [target.candidate_id], "review", holder_of(reviewer_id), seconds)
    if target.verdict == Verdict.accept:
        withdraw_sample_of(tx, target.candidate_id)
    return Undone(int(undone), read_cards(tx, [target.candidate_id])[0])


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
        raise Refused(f"{len(layers)} layers are named for {len(reasons)} reasons", "name one for each, or none")
    both = sorted(set(zip(reasons, layers, strict=True)))
    return [reason for reason, _ in both], [layer for _, layer in both]


def _lock(tx: Transaction, candidate: uuid.UUID) -> sa.Row[Any]:
    """The candidate's row, locked. All that follows is read by later statements, and so sees whoever was faster."""
    row: sa.Row[Any] | None = tx.execute(_LOCK, {"candidate": candidate}).one_or_none()
    if row is None:
        raise NotFound(f"there is no candidate {candidate}")
    return row


def _answer_again(known: sa.Row[Any], said: _Content) -> Decided:
    fields = (known.candidate_id, known.reviewer_id, Verdict(known.verdict), known.reasons, known.layers)
    earlier = _Content(*fields, known.comment)
    if earlier != said:
        raise Conflict("this key was used for another decision", "make a new key for every decision")
    return Decided(known.earlier, said.candidate, _AFTER[said.verdict])


def _check_decidable(state: str, holder: str | None, me: str) -> None:
    if state == CandidateState.waiting or (state == CandidateState.showing and holder in {me, None}):
        return
    hint = "go on with the next one"
    if state == CandidateState.showing:
        raise Conflict("somebody else is looking at this candidate now: your lease ran out", hint)
    if state == CandidateState.withdrawn:
        raise Conflict("the round of this candidate was closed", hint)
    raise Conflict(f"this candidate is {state} already", hint)


_AFTER = {
    Verdict.accept: CandidateState.accepted,
    Verdict.reject: CandidateState.rejected,
    Verdict.skip: CandidateState.waiting,
}


# First the lease, then the candidate, as everybody who needs both: the lock on c is taken on the joined row.
_LOCK = sa.text("""
    with held as materialized (select subject from leases where subject = :candidate for update)
    select c.state, c.round_id, c.propensity from candidates c left join held on held.subject = c.id
    where c.id = :candidate for update of c""")

_STANDING = sa.text("""
    select r.kind, r.checkpoint_id, l.holder,
        d.id as earlier, d.candidate_id, d.reviewer_id, d.verdict, d.reasons, d.layers, d.comment
    from rounds r
    left join leases l on l.subject = :candidate
    left join decisions d on d.key = :key
    where r.id = :round""")

_DECIDE = sa.text("""
    with kept as (
        insert into decisions (candidate_id, reviewer_id, verdict, reasons, layers, comment, dwell_ms, desk, key,
            checkpoint_id, propensity)
        values (:candidate, :reviewer, :verdict, cast(:reasons as text[]), cast(:layers as text[]), :comment,
            :dwell_ms, :desk, :key, :checkpoint, :propensity)
        on conflict (key) do nothing returning id),
    moved as (
        update candidates set state = :state, priority = priority - :step from kept where candidates.id = :candidate),
    freed as (delete from leases using kept where subject = :candidate)
    select id from kept""")

# What ends a turn: an undo or a skip. A decision that stands does not, so that saying it again has the same key.
_TURN = sa.text("select count(*) from decisions where candidate_id = :candidate and verdict in ('undo', 'skip')")

_EARLIER_UNDO = sa.text("select id, candidate_id, reviewer_id, verdict, undoes from decisions where key = :key")

_UNDOABLE = sa.text("""
    select d.id, d.candidate_id, d.verdict from decisions d
    where d.reviewer_id = :reviewer and d.verdict <> 'undo' and (cast(:decision as bigint) is null or d.id = :decision)
        and not exists (select from decisions u where u.undoes = d.id)
    order by d.id desc limit 1""")

# Shared, so that the round cannot be closed between this look and the commit.
_ROUND_STATE = sa.text("select state from rounds where id = :round for share")

_UNDO = sa.text("""
    with kept as (
        insert into decisions (candidate_id, reviewer_id, verdict, desk, key, undoes, checkpoint_id, propensity)
        select candidate_id, reviewer_id, 'undo', desk, :key, id, checkpoint_id, propensity from decisions
        where id = :decision and reviewer_id = :reviewer
        on conflict do nothing returning id)
    , moved as (
        update candidates set state = 'showing' from kept where candidates.id = :candidate)
    select id from kept""")
