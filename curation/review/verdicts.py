"""Verdicts: the state that each leads to, and the row lock under which it is applied."""

from __future__ import annotations

import uuid
from typing import Any, Final

import sqlalchemy as sa

from curation.datasets.samples import add_samples, samples_from_candidates, withdraw_sample_of
from curation.db.engine import Transaction
from curation.domain import CandidateState, Verdict
from curation.errors import NotFound

STATE_AFTER_VERDICT: Final = {
    Verdict.accept: CandidateState.accepted,
    Verdict.reject: CandidateState.rejected,
    Verdict.skip: CandidateState.waiting,
}
"""The state of a candidate after a single verdict."""
IS_STANDING: Final = """(d.verdict in ('accept', 'reject')
    and not exists (select from decisions u where u.undoes = d.id))"""
"""SQL condition: row d of decisions is a verdict that was not undone."""
CONSENSUS: Final = "consensus"
"""The reviewer name and the interface of decisions made by re-aggregation."""
IS_UPHELD: Final = f"""({IS_STANDING} and d.channel <> '{CONSENSUS}'
    and c.state = case d.verdict when 'accept' then 'accepted' else 'rejected' end)"""
"""SQL condition: row d of decisions stands and agrees with the state of its candidate c."""
DECIDED_STATES: Final = (CandidateState.accepted, CandidateState.rejected)


def lock_candidate(tx: Transaction, candidate: uuid.UUID) -> sa.Row[Any]:
    """Lock a candidate and return its row. Raises NotFound.

    Later statements of the transaction see everything that earlier lock holders committed.
    """
    row: sa.Row[Any] | None = tx.execute(_LOCK, {"candidate": candidate}).one_or_none()
    if row is None:
        raise NotFound(f"there is no candidate {candidate}")
    return row


def apply_final_state(tx: Transaction, candidate: uuid.UUID, state: CandidateState) -> None:
    """Move a locked candidate that waits or is decided to accepted or rejected.

    Its sample is added or withdrawn accordingly.
    """
    before = lock_candidate(tx, candidate).state
    if before in DECIDED_STATES:
        # The state machine has no direct transition between accepted and rejected.
        tx.execute(_MOVE, {"candidate": candidate, "state": CandidateState.showing})
    tx.execute(_MOVE, {"candidate": candidate, "state": state})
    if state is CandidateState.accepted:
        add_samples(tx, samples_from_candidates(tx, [candidate]))
    elif before == CandidateState.accepted:
        withdraw_sample_of(tx, candidate)


# Lock order: the lease, then the candidate, as everywhere; c is locked through the joined row.
_LOCK = sa.text("""
    with held as materialized (select subject from leases where subject = :candidate for update)
    select c.state, c.round_id, c.propensity, c.decided, c.slice,
        coalesce(g.round_id, c.round_id) as shown_in
    from candidates c left join held on held.subject = c.id
    left join gold g on g.candidate_id = c.id
    where c.id = :candidate for update of c""")

_MOVE = sa.text("update candidates set state = :state where id = :candidate")
