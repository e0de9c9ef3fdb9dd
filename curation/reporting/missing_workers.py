"""Work that waits while no worker takes any: what `layerloop doctor` and the report of a round say of it."""

from __future__ import annotations

from collections.abc import Mapping

import sqlalchemy as sa

from curation.db.engine import Transaction

IDLE_SECONDS = 60
"""How long work may wait before a worker is missed."""

START_WORKERS = (
    "start 'layerloop worker --queue gpu' and 'layerloop worker --queue cpu', or 'layerloop up'"
)

_WAITING = sa.text("""
    with due as (
        select case c.state when 'requested' then 'drawings' else 'screenings' end as kind
        from candidates c join rounds r on r.id = c.round_id
        where r.state = 'open' and c.state in ('requested', 'drawn')
          and c.changed_at < now() - make_interval(secs => :seconds)
          and (cast(:round as integer) is null or r.id = :round)
        union all
        select 'trainings' from training_runs
        where cast(:round as integer) is null
          and state = 'requested' and at < now() - make_interval(secs => :seconds))
    select kind, count(*) as count from due
    where not exists (select from leases where purpose in ('draw', 'train', 'caption') and expires_at > now())
    group by kind""")


def count_untaken(tx: Transaction, number: int | None = None) -> dict[str, int]:
    """Count by kind the work that has waited for IDLE_SECONDS while nobody works, in one round or everywhere."""
    rows = tx.execute(_WAITING, {"seconds": IDLE_SECONDS, "round": number})
    return {row.kind: row.count for row in sorted(rows)}


def tell_untaken(untaken: Mapping[str, int]) -> str:
    """Say in words what waits."""
    return f"for over {IDLE_SECONDS} s no worker has taken: " + ", ".join(
        f"{n} {kind}" for kind, n in untaken.items()
    )
