"""Verdicts: the state that each leads to, and the lock under which it does."""

from __future__ import annotations

import uuid
from typing import Any, Final

import sqlalchemy as sa

from curation.datasets.samples import add_samples, samples_of, withdraw_sample_of
from curation.db.engine import Transaction
from curation.domain import CandidateState, Verdict
from curation.errors import NotFound

AFTER: Final = {
    Verdict.accept: CandidateState.accepted,
    Verdict.reject: CandidateState.rejected,
    Verdict.skip: CandidateState.waiting,
}
"""Where a verdict by itself leaves a candidate."""
STANDS: Final = "(d.verdict in ('accept', 'reject') and not exists (select from decisions u where u.undoes = d.id))"
"""In SQL: whether the row d of decisions is a verdict that was not undone."""
CONSENSUS: Final = "consensus"
"""The name in which, and the desk at which, a re-aggregation decides."""
UPHELD: Final = f"""({STANDS} and d.desk <> '{CONSENSUS}'
    and c.state = case d.verdict when 'accept' then 'accepted' else 'rejected' end)"""
"""In SQL: whether the row d of decisions is somebody's verdict that stands, and that its candidate c has come to."""
DECIDED: Final = (CandidateState.accepted, CandidateState.rejected)


def lock_candidate(tx: Transaction, candidate: uuid.UUID) -> sa.Row[Any]:
    """The candidate's row, locked. All that follows is read by later statements, and so sees whoever was faster."""
    row: sa.Row[Any] | None = tx.execute(_LOCK, {"candidate": candidate}).one_or_none()
    if row is None:
        raise NotFound(f"there is no candidate {candidate}")
    return row


def settle(tx: Transaction, candidate: uuid.UUID, state: CandidateState) -> None:
    """Bring a candidate that is locked, and waits or is decided, to accepted or rejected, its sample with it."""
    before = lock_candidate(tx, candidate).state
    if before in DECIDED:  # the law knows no other way from one to the other
        tx.execute(_MOVE, {"candidate": candidate, "state": CandidateState.showing})
    tx.execute(_MOVE, {"candidate": candidate, "state": state})
    if state is CandidateState.accepted:
        add_samples(tx, samples_of(tx, [candidate]))
    elif before == CandidateState.accepted:
        withdraw_sample_of(tx, candidate)


# First the lease, then the candidate, as everybody who needs both: the lock on c is taken on the joined row.
_LOCK = sa.text("""
    with held as materialized (select subject from leases where subject = :candidate for update)
    select c.state, c.round_id, c.propensity, c.decided, c.slice,
        coalesce(g.round_id, c.round_id) as shown_in
    from candidates c left join held on held.subject = c.id
    left join gold g on g.candidate_id = c.id
    where c.id = :candidate for update of c""")

_MOVE = sa.text("update candidates set state = :state where id = :candidate")
