"""Undo: void a decision by a row of its own and lease its candidate to the reviewer again."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from curation.datasets.samples import withdraw_sample_of
from curation.db import leases
from curation.db.engine import Transaction
from curation.domain import CandidateState, ReviewItem, Verdict
from curation.errors import Conflict, NotFound
from curation.review.claims import record_claims
from curation.review.consensus import ConsensusSettings, has_final_decision
from curation.review.queue import read_items
from curation.review.reviewers import ReviewerPausedError, lease_holder_name
from curation.review.verdicts import STATE_AFTER_VERDICT, lock_candidate
from curation.rounds.lifecycle import GOLD_PURPOSE


@dataclass(frozen=True)
class UndoResult:
    """The response to an undo: its number, and the item, leased to the reviewer again."""

    decision: int
    item: ReviewItem


def undo(
    tx: Transaction,
    reviewer_id: int,
    decision: int | None,
    *,
    key: uuid.UUID,
    seconds: int,
    page: uuid.UUID | None = None,
) -> UndoResult:
    """Void the reviewer's own decision and lease the candidate to them again.

    The decision stays and a row that undoes it is added; an accepted candidate's sample is
    withdrawn. One vote among several is withdrawn alone and the candidate reopened. Undo works in a
    paused round too, since the reviewer has seen the candidate.

    Args:
        tx: The transaction of the request.
        reviewer_id: The reviewer.
        decision: The decision; None for their last standing one.
        key: The idempotency key; a repeated key gives the same answer.
        seconds: The duration of the new lease.
        page: The page that shows the candidate again; None for callers without pages.

    Returns:
        The number of the undo and the item.

    Raises:
        NotFound: There is no such decision of this reviewer.
        ReviewerPausedError: The reviewer is paused.
        Conflict: The candidate has moved on, the round is closed, or the key was used otherwise.
    """
    # A retry is answered as the first request was.
    earlier = tx.execute(_EARLIER_UNDO, {"key": key}).one_or_none()
    if earlier is not None:
        if (
            earlier.reviewer_id != reviewer_id
            or earlier.verdict != Verdict.undo
            or decision not in {None, earlier.undoes}
        ):
            raise Conflict(
                "this key was used for another decision", "make a new key for every decision"
            )
        return UndoResult(earlier.id, read_items(tx, [earlier.candidate_id])[0])
    target = tx.execute(_UNDOABLE, {"reviewer": reviewer_id, "decision": decision}).one_or_none()
    if target is None:
        raise NotFound(
            "you have no decision to undo",
            "a decision can be undone once, and only by the reviewer who made it",
        )
    # Lock the candidate, then check that the decision may still be undone.
    row = lock_candidate(tx, target.candidate_id)
    known = tx.execute(
        _ROUND, {"round": row.shown_in, "own": row.round_id, "reviewer": reviewer_id}
    ).one()
    if known.paused is not None:
        raise ReviewerPausedError(known.paused)
    if known.state == "closed":
        raise Conflict(f"round {row.shown_in} is closed", "decisions of a closed round are final")
    vote = _is_vote(target, known)
    _check_undoable(tx, target, row, known, vote=vote)
    values = {
        "key": key,
        "candidate": target.candidate_id,
        "decision": target.id,
        "reviewer": reviewer_id,
    }
    fewer = int(vote and known.purpose != GOLD_PURPOSE)
    undone = tx.execute(_UNDO, values | {"fewer": fewer}).scalar()
    if undone is None:
        raise Conflict("this decision has just been undone", "reload the page")
    # Give the candidate back to the reviewer, and withdraw its sample.
    leases.claim(tx, [target.candidate_id], "review", lease_holder_name(reviewer_id), seconds)
    record_claims(tx, reviewer_id, [target.candidate_id], page)
    if row.state == CandidateState.accepted:
        withdraw_sample_of(tx, target.candidate_id)
    return UndoResult(int(undone), read_items(tx, [target.candidate_id])[0])


def _is_vote(target: sa.Row[Any], known: sa.Row[Any]) -> bool:
    """Return whether a decision is one of several, so that undoing it leaves the others."""
    several = known.purpose == GOLD_PURPOSE or ConsensusSettings.read(known.consensus).overlap > 1
    return several and not target.final and target.verdict != Verdict.skip


def _check_undoable(
    tx: Transaction, target: sa.Row[Any], row: sa.Row[Any], known: sa.Row[Any], *, vote: bool
) -> None:
    """Raise Conflict if the candidate has moved on.

    A vote can be withdrawn even while another reviewer is looking at the candidate.
    """
    if row.state == CandidateState.removed:
        raise Conflict("this candidate was taken down", "a takedown is final")
    if vote:
        if row.state == CandidateState.withdrawn or has_final_decision(tx, target.candidate_id):
            raise Conflict(
                "this candidate has a final decision", "an adjudicator's decision is final"
            )
        return
    full = (
        target.verdict == Verdict.skip
        and row.decided >= ConsensusSettings.read(known.consensus).overlap
    )
    if row.state != STATE_AFTER_VERDICT[Verdict(target.verdict)] or full:
        # Do not reveal the new state: it would be another reviewer's verdict.
        raise Conflict(
            "the candidate has changed since your decision",
            "only the last decision on a candidate can be undone",
        )


_EARLIER_UNDO = sa.text(
    "select id, candidate_id, reviewer_id, verdict, undoes from decisions where key = :key"
)

_UNDOABLE = sa.text("""
    select d.id, d.candidate_id, d.verdict, d.final from decisions d
    where d.reviewer_id = :reviewer and d.verdict <> 'undo'
        and (cast(:decision as bigint) is null or d.id = :decision)
        and not exists (select from decisions u where u.undoes = d.id)
    order by d.id desc limit 1""")

# A shared lock, so that the round cannot be closed between this query and the commit.
_ROUND = sa.text("""
    select shown.state, own.purpose, own.consensus, me.paused
    from rounds shown join rounds own on own.id = :own join reviewers me on me.id = :reviewer
    where shown.id = :round for share of shown""")

_UNDO = sa.text("""
    with kept as (
        insert into decisions (candidate_id, reviewer_id, verdict, channel, key, undoes,
        checkpoint_id,
            propensity)
        select candidate_id, reviewer_id, 'undo', channel, :key, id, checkpoint_id, propensity
        from decisions
        where id = :decision and reviewer_id = :reviewer
        on conflict do nothing returning id)
    , moved as (
        update candidates set state = 'showing', decided = decided - :fewer
        from kept where candidates.id = :candidate)
    select id from kept""")
