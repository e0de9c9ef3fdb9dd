"""Detection of missing workers: work that waits while no worker takes any."""

from __future__ import annotations

from collections.abc import Mapping

import sqlalchemy as sa

from curation.db.engine import Transaction

IDLE_SECONDS = 60
"""The time after which waiting work indicates a missing worker."""

START_WORKERS = (
    "start 'layerloop worker --queue gpu' and 'layerloop worker --queue cpu', or 'layerloop up'"
)

_WAITING = sa.text("""
    with due as (
        select case c.state when 'requested' then 'drawings' else 'screenings' end as kind
        from candidates c join rounds r on r.id = c.round_id
        where r.state = 'open' and c.state in ('requested', 'generated')
          and c.changed_at < now() - make_interval(secs => :seconds)
          and (cast(:round as integer) is null or r.id = :round)
        union all
        select 'trainings' from training_runs
        where cast(:round as integer) is null
          and state = 'requested' and created_at < now() - make_interval(secs => :seconds))
    select kind, count(*) as count from due
    where not exists (
        select from leases where purpose in ('generate', 'train', 'caption') and expires_at > now())
    group by kind""")


def count_waiting_work(tx: Transaction, number: int | None = None) -> dict[str, int]:
    """Count the work that has waited for IDLE_SECONDS while no worker holds a lease.

    Args:
        tx: The transaction.
        number: Only count candidates of this round; None counts everything.

    Returns:
        The counts by kind of work.
    """
    rows = tx.execute(_WAITING, {"seconds": IDLE_SECONDS, "round": number})
    return {row.kind: row.count for row in sorted(rows)}


def describe_waiting_work(waiting: Mapping[str, int]) -> str:
    """Return a sentence on waiting work."""
    work = ", ".join(f"{n} {kind}" for kind, n in waiting.items())
    return f"no worker has taken for over {IDLE_SECONDS} s: {work}"
