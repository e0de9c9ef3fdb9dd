"""Detection of missing workers: work that waits while no worker holds a lease."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import sqlalchemy as sa

from curation.db.counts import count_states
from curation.db.engine import Transaction

IDLE_SECONDS = 60
"""The time after which waiting work indicates a missing worker."""

START_WORKERS = (
    "start 'layerloop worker --queue gpu' and 'layerloop worker --queue cpu', or 'layerloop up'"
)

WORK_BY_STATE = {"requested": "drawings", "generated": "screenings"}
"""Kinds of work, by the state of the candidates that wait for it."""

# Work is taken by id, so the first candidate has waited longest. The lateral joins read one row
# each by the partial indexes, however many candidates wait.
_WAITING = sa.text("""
    with idle as (
        select not exists (select from leases
            where purpose in ('generate', 'screen', 'train', 'caption')
              and expires_at > now()) as idle)
    select r.id, first.state from rounds r cross join lateral (
        (select state, changed_at from candidates
            where round_id = r.id and state = 'requested' order by attempts, id limit 1)
        union all
        (select state, changed_at from candidates
            where round_id = r.id and state = 'generated' order by id limit 1)) first
    where r.state = 'open' and (cast(:round as integer) is null or r.id = :round)
        and first.changed_at < now() - make_interval(secs => :seconds)
        and (select idle from idle)
    union all
    select null, 'trainings' from training_runs
    where cast(:round as integer) is null and state = 'requested'
        and retry_at is null and created_at < now() - make_interval(secs => :seconds)
        and (select idle from idle)""")


def count_waiting_work(tx: Transaction, round_id: int | None = None) -> dict[str, int]:
    """Count the work that has waited for IDLE_SECONDS while no worker holds a lease.

    Args:
        tx: The transaction.
        round_id: Only count candidates of this round; None counts everything.

    Returns:
        The counts by kind of work.
    """
    rows = tx.execute(_WAITING, {"seconds": IDLE_SECONDS, "round": round_id}).all()
    counted = count_states(tx, {row.id for row in rows if row.id is not None})
    work: Counter[str] = Counter()
    for row in rows:
        work[WORK_BY_STATE.get(row.state, row.state)] += counted[row.id][row.state] if row.id else 1
    return dict(sorted(work.items()))


def describe_waiting_work(waiting: Mapping[str, int]) -> str:
    """Return a sentence on waiting work."""
    work = ", ".join(f"{n} {kind}" for kind, n in waiting.items())
    return f"no worker has taken for over {IDLE_SECONDS} s: {work}"
