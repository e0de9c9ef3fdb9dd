"""Undoing: a decision is voided by a row of its own, and its candidate handed back to whoever decided."""

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
from curation.review.claims import note_claims
from curation.review.consensus import Consensus, has_final
from curation.review.queue import read_cards
from curation.review.reviewers import Paused, holder_of
from curation.review.verdicts import AFTER, lock_candidate
from curation.rounds.lifecycle import GOLD


@dataclass(frozen=True)
class Undone:
    """The answer to an undo: its own number, and the candidate, held by the reviewer again."""

    decision: int
    card: ReviewItem


def undo(
    tx: Transaction,
    reviewer_id: int,
    decision: int | None,
    *,
    key: uuid.UUID,
    seconds: int,
    page: uuid.UUID | None = None,
) -> Undone:
    """Void the reviewer's own decision (None: the last that stands) and hand the candidate back to them.

    The decision stays and a row that undoes it is added; an accepted candidate's sample is withdrawn. The same key
    again gives the same answer. A vote among several is taken back alone, and the candidate opened again. In a paused
    round too: the reviewer has seen the candidate, and `page` is the page that shows it again. Raises
    NotFound, Paused, and Conflict where the candidate has moved on since.
    """
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
        return Undone(earlier.id, read_cards(tx, [earlier.candidate_id])[0])
    target = tx.execute(_UNDOABLE, {"reviewer": reviewer_id, "decision": decision}).one_or_none()
    if target is None:
        raise NotFound(
            "there is no decision of yours to undo",
            "each can be undone once, and only by who made it",
        )
    row = lock_candidate(tx, target.candidate_id)
    known = tx.execute(
        _ROUND, {"round": row.shown_in, "own": row.round_id, "reviewer": reviewer_id}
    ).one()
    if known.paused is not None:
        raise Paused(known.paused)
    if known.state == "closed":
        raise Conflict(
            f"round {row.shown_in} is closed", "the verdicts of a closed round are history"
        )
    vote = _is_vote(target, known)
    _check_undoable(tx, target, row, known, vote=vote)
    values = {
        "key": key,
        "candidate": target.candidate_id,
        "decision": target.id,
        "reviewer": reviewer_id,
    }
    fewer = int(vote and known.purpose != GOLD)
    undone = tx.execute(_UNDO, values | {"fewer": fewer}).scalar()
    if undone is None:
        raise Conflict("this decision was undone a moment ago", "load the page again")
    leases.claim(tx, [target.candidate_id], "review", holder_of(reviewer_id), seconds)
    note_claims(tx, reviewer_id, [target.candidate_id], page)
    if row.state == CandidateState.accepted:
        withdraw_sample_of(tx, target.candidate_id)
    return Undone(int(undone), read_cards(tx, [target.candidate_id])[0])


def _is_vote(target: sa.Row[Any], known: sa.Row[Any]) -> bool:
    """Whether a decision was one of several: undone, it leaves the others as they are."""
    several = known.purpose == GOLD or Consensus.read(known.consensus).overlap > 1
    return several and not target.final and target.verdict != Verdict.skip


def _check_undoable(
    tx: Transaction, target: sa.Row[Any], row: sa.Row[Any], known: sa.Row[Any], *, vote: bool
) -> None:
    """Raise Conflict where the candidate has moved on. A vote is taken back even from under somebody else's eyes."""
    if vote:
        if row.state == CandidateState.withdrawn or has_final(tx, target.candidate_id):
            raise Conflict(
                "this candidate is decided for good by now", "an adjudicator's decision is final"
            )
        return
    full = target.verdict == Verdict.skip and row.decided >= Consensus.read(known.consensus).overlap
    if row.state != AFTER[Verdict(target.verdict)] or full:
        # What became of it is not said: that would be somebody else's verdict.
        raise Conflict(
            "the candidate has moved on since",
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

# Shared, so that the round cannot be closed between this look and the commit.
_ROUND = sa.text("""
    select shown.state, own.purpose, own.consensus, me.paused
    from rounds shown join rounds own on own.id = :own join reviewers me on me.id = :reviewer
    where shown.id = :round for share of shown""")

_UNDO = sa.text("""
    with kept as (
        insert into decisions (candidate_id, reviewer_id, verdict, desk, key, undoes, checkpoint_id,
            propensity)
        select candidate_id, reviewer_id, 'undo', desk, :key, id, checkpoint_id, propensity
        from decisions
        where id = :decision and reviewer_id = :reviewer
        on conflict do nothing returning id)
    , moved as (
        update candidates set state = 'showing', decided = decided - :fewer
        from kept where candidates.id = :candidate)
    select id from kept""")
