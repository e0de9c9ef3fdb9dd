"""Claims of screening: each generated candidate is measured by one worker at a time."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, UUID

from curation.db import leases
from curation.db.engine import Transaction
from curation.domain import JobName
from curation.rounds.generation import alike_attempts


def claim_generated(
    tx: Transaction, round_id: int, holder: str, count: int, seconds: int
) -> list[uuid.UUID]:
    """Lease up to `count` generated candidates of an open round; other workers skip them.

    Args:
        tx: The transaction.
        round_id: The round.
        holder: The name of the worker.
        count: The maximum number to claim.
        seconds: The duration of the leases.

    Returns:
        The ids of the claimed candidates.
    """
    rows = tx.execute(_FREE, {"round": round_id, "count": count}).all()
    rows = sorted(rows, key=lambda row: row.attempts)
    ids = alike_attempts([(row.id, row.attempts) for row in rows], count)
    if not ids:
        return []
    # Another worker may have claimed some since this transaction's snapshot; theirs stay.
    params = {"ids": ids, "holder": holder, "seconds": seconds}
    claimed = [row.subject for row in tx.execute(_CLAIM, params)]
    tx.execute(_COUNT_ATTEMPT, {"ids": claimed})
    return sorted(claimed)


def release_unmeasured(
    tx: Transaction, ids: Sequence[uuid.UUID], round_id: int, holder: str
) -> None:
    """Release candidates that could not be read for now: the attempt does not count.

    Args:
        tx: The transaction.
        ids: The candidates.
        round_id: Their round.
        holder: The name of the worker.
    """
    held = leases.release_held(tx, ids, "screen", holder)
    if held:
        tx.execute(_REFUND, {"ids": held})
        tx.enqueue(JobName.screen, round_id)


def _sql(text: str) -> sa.TextClause:
    return sa.text(text).bindparams(sa.bindparam("ids", type_=ARRAY(UUID)))


_FREE = sa.text("""
    select c.id, c.attempts from candidates c
    join rounds r on r.id = c.round_id and r.state = 'open'
    where c.round_id = :round and c.state = 'generated'
        and not exists (select from leases l where l.subject = c.id)
    order by c.id limit :count for update of c skip locked""")

_CLAIM = _sql("""
    insert into leases (subject, purpose, holder, expires_at)
    select id, 'screen', :holder, now() + make_interval(secs => :seconds) from unnest(:ids) id
    on conflict (subject) do nothing returning subject""")

_COUNT_ATTEMPT = _sql("update candidates set attempts = attempts + 1 where id = any(:ids)")

_REFUND = _sql("""
    update candidates set attempts = greatest(attempts - 1, 0)
    where id = any(:ids) and state = 'generated'""")
