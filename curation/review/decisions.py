"""Review decisions: permanent records, and their effect on candidates."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import sqlalchemy as sa

from curation.datasets.samples import add_samples, samples_from_candidates
from curation.db.engine import Transaction
from curation.domain import (
    CandidateState,
    JobName,
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
from curation.review.claims import CandidateNotClaimedError
from curation.review.consensus import ConsensusOutcome, ConsensusSettings, apply_vote
from curation.review.queue import claim_items
from curation.review.reviewers import ReviewerPausedError, lease_holder_name
from curation.review.undo import UndoResult, undo
from curation.review.verdicts import IS_STANDING, STATE_AFTER_VERDICT, lock_candidate
from curation.rounds.lifecycle import GOLD_PURPOSE

__all__ = ["DecisionResult", "UndoResult", "claim_items", "decide", "record_rule_verdict", "undo"]

REVIEW_PAGES, RULE_REVIEWER = "pages", "rule_reviewer"
"""Interfaces: where a decision was made."""


@dataclass(frozen=True)
class DecisionResult:
    """The response to a decision: its number, and the state this verdict alone implies.

    Where several reviewers decide, the other verdicts are not revealed, nor whether a candidate was
    gold.
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
    channel: str = REVIEW_PAGES,
    only_claimed: bool = False,
) -> DecisionResult:
    """Record a verdict and move the candidate to accepted, rejected or back to waiting (skip).

    A repeated key with the same content returns the first answer. A decision that arrives after its
    lease has expired is accepted while the candidate still waits, in a paused round too.

    Args:
        tx: The transaction of the request.
        reviewer_id: The reviewer who decides.
        candidate: The candidate.
        verdict: Accept, reject or skip.
        key: The idempotency key, unique for each decision.
        reasons: Reasons for a reject.
        layers: For a pair, the layer that each reason concerns, in the same order; empty if not
            given.
        comment: Free text.
        dwell_ms: The review time in milliseconds; None if unknown.
        channel: The interface where the decision was made.
        only_claimed: Whether the candidate must have been given to this reviewer
            (curation.review.claims), whatever the state of its lease or its round.

    Returns:
        The number of the decision and the state that this verdict alone implies.

    Raises:
        NotFound: There is no such candidate, or it was never given to this reviewer.
        Conflict: The key was used for another decision, or somebody else holds or has decided the
            candidate.
        Refused: Reasons without a reject, or layers without reasons or for a single layer.
    """
    distinct_reasons, reason_layers = _distinct(verdict, reasons, layers)
    content = _Content(
        candidate, reviewer_id, _decidable(verdict), distinct_reasons, reason_layers, comment
    )
    # Lock the candidate first: everything read below is then current.
    try:
        row = lock_candidate(tx, candidate)
    except NotFound:
        raise CandidateNotClaimedError(candidate) from None
    params = {"candidate": candidate, "key": key, "round": row.round_id, "reviewer": reviewer_id}
    known = tx.execute(_STANDING, params).one()
    if only_claimed and not known.claimed:
        raise CandidateNotClaimedError(candidate)
    if layers and known.kind != Kind.pair:
        raise Refused(
            "a single-layer candidate takes no layers for its reasons", "leave the layers out"
        )
    # A retry is answered as the first request was, even if the reviewer has been paused since.
    if known.earlier is not None:
        return _repeat_answer(known, content)
    if known.paused is not None:
        raise ReviewerPausedError(known.paused)
    _check_decidable(row.state, known.holder, lease_holder_name(reviewer_id), decided=known.mine)
    outcome = _outcome(tx, candidate, row, known, content, channel)
    values = (
        content._asdict()
        | outcome._asdict()
        | {
            "key": key,
            "dwell_ms": dwell_ms,
            "channel": channel,
            "checkpoint": known.checkpoint_id,
            "propensity": row.propensity,
            "step": float(verdict is Verdict.skip),
        }
    )
    # One statement writes the decision, moves the candidate and ends lease and claim.
    decision = tx.execute(_DECIDE, values).scalar()
    if decision is None:
        raise Conflict(
            "this key was used for another decision", "make a new key for every decision"
        )
    # Follow-up effects: the sample, the audit of a gate, and the reviewer's gold statistics.
    if outcome.state is CandidateState.accepted:
        add_samples(tx, samples_from_candidates(tx, [candidate]))
    if row.slice == "audit":
        tx.enqueue(JobName.select, row.round_id)  # an audit verdict may close a gate
    if known.purpose == GOLD_PURPOSE and verdict is not Verdict.skip:
        gold.pause_if_unreliable(tx, reviewer_id, candidate)
    return DecisionResult(int(decision), candidate, STATE_AFTER_VERDICT[verdict])


def record_rule_verdict(
    tx: Transaction, reviewer_id: int, item: ReviewItem, judged: RuleVerdict
) -> DecisionResult:
    """Record the rule reviewer's verdict on an item that it holds.

    The key is derived from the candidate and its turn, so the call is idempotent.

    Args:
        tx: The transaction.
        reviewer_id: The rule reviewer's id.
        item: The item.
        judged: The verdict with its explanation.
    """
    turn = tx.execute(_TURN, {"candidate": item.id}).scalar_one()
    key = content_id(RULE_REVIEWER, item.id, turn)
    comment = "" if judged.verdict is Verdict.accept else judged.sentence[:2_000]
    reasons = tuple(judged.reasons) if judged.verdict is Verdict.reject else ()
    layers = tuple(judged.layers) if reasons else ()
    return decide(
        tx,
        reviewer_id,
        item.id,
        judged.verdict,
        key=key,
        reasons=reasons,
        layers=layers,
        comment=comment,
        channel=RULE_REVIEWER,
    )


def _outcome(
    tx: Transaction,
    candidate: uuid.UUID,
    row: sa.Row[Any],
    known: sa.Row[Any],
    content: _Content,
    channel: str,
) -> ConsensusOutcome:
    """Return the effect of a verdict: alone, as one vote of several, or none for gold."""
    if known.purpose == GOLD_PURPOSE:
        return ConsensusOutcome(CandidateState.waiting, 0, final=False)
    consensus = ConsensusSettings.read(known.consensus)
    if consensus.alone(channel):
        final = consensus.overlap > 1 and content.verdict is not Verdict.skip
        return ConsensusOutcome(STATE_AFTER_VERDICT[content.verdict], row.decided, final=final)
    return apply_vote(tx, consensus, row.round_id, candidate, content.reviewer, content.verdict)


class _Content(NamedTuple):
    """The content of a decision, which must be equal when a key is sent again."""

    candidate: uuid.UUID
    reviewer: int
    verdict: Verdict
    reasons: list[RejectReason]
    layers: list[LayerRole]
    comment: str


def _decidable(verdict: Verdict) -> Verdict:
    if verdict is Verdict.undo:
        raise Refused("undo is not a verdict on a candidate", "undo a decision by its number")
    return verdict


def _distinct(
    verdict: Verdict, reasons: Sequence[RejectReason], layers: Sequence[LayerRole]
) -> tuple[list[RejectReason], list[LayerRole]]:
    """Return the reasons, each once per layer and sorted, and the layers they concern."""
    if reasons and verdict is not Verdict.reject:
        raise Refused(f"reasons belong to a reject, not to {verdict}", "leave the reasons out")
    if not layers:
        return sorted(set(reasons)), []
    if len(layers) != len(reasons):
        raise Refused(
            f"{len(layers)} layers are given for {len(reasons)} reasons",
            "give one layer for each reason, or none",
        )
    both = sorted(set(zip(reasons, layers, strict=True)))
    return [reason for reason, _ in both], [layer for _, layer in both]


def _repeat_answer(known: sa.Row[Any], content: _Content) -> DecisionResult:
    fields = (
        known.candidate_id,
        known.reviewer_id,
        Verdict(known.verdict),
        known.reasons,
        known.layers,
    )
    earlier = _Content(*fields, known.comment)
    if earlier != content:
        raise Conflict(
            "this key was used for another decision", "make a new key for every decision"
        )
    return DecisionResult(known.earlier, content.candidate, STATE_AFTER_VERDICT[content.verdict])


def _check_decidable(state: str, holder: str | None, me: str, *, decided: bool) -> None:
    """Raise Conflict unless this reviewer may decide now, without revealing other verdicts."""
    hint = "continue with the next one"
    if decided:
        raise Conflict(
            "you have already decided this candidate", "undo your decision to decide again"
        )
    if state == CandidateState.waiting or (
        state == CandidateState.showing and holder in {me, None}
    ):
        return
    if state == CandidateState.showing:
        raise Conflict("your lease expired and another reviewer holds this candidate now", hint)
    if state == CandidateState.withdrawn:
        raise Conflict("the round of this candidate was closed", hint)
    if state == CandidateState.removed:
        raise Conflict("this candidate was taken down", hint)
    raise Conflict("this candidate is already decided", hint)


_STANDING = sa.text(f"""
    select exists (
            select from decisions d where d.candidate_id = :candidate and d.reviewer_id = :reviewer
                and {IS_STANDING}
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
            dwell_ms, channel, key,
            checkpoint_id, propensity, final)
        values (:candidate, :reviewer, :verdict, cast(:reasons as text[]), cast(:layers as text[]),
            :comment,
            :dwell_ms, :channel, :key, :checkpoint, :propensity, :final)
        on conflict (key) do nothing returning id),
    moved as (
        update candidates set state = :state, decided = :decided, priority = priority - :step,
            settled_by = case when :state in ('accepted', 'rejected') then :reviewer end
        from kept where candidates.id = :candidate),
    freed as (delete from leases using kept where subject = :candidate),
    finished as (
        update claims set unfinished = false from kept where reviewer_id = :reviewer
            and candidate_id = :candidate)
    select id from kept""")

# An undo or a skip ends a turn. A standing decision does not, so repeating it yields the same key.
_TURN = sa.text(
    "select count(*) from decisions where candidate_id = :candidate and verdict in ('undo', 'skip')"
)
