"""Leases on candidates and runs: claim, renewal, release and expiry."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Collection, Sequence
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, UUID

from curation.db.engine import Transaction
from curation.domain import JobName

MAX_ATTEMPTS = 5
"""Attempts after which a candidate fails, since its generation may be what kills workers."""

DRAW = JobName.draw_comparisons
"""Purpose of the leases on what a comparison draws."""

ATTEMPT_SHARES = (1.0, 0.25)
"""Share of a full batch by the number of earlier attempts; beyond them, one candidate a batch.

The failure of a batch does not show which of its candidates caused it. They are tried again in
smaller batches, and only a candidate that fails alone reaches MAX_ATTEMPTS.
"""

EXPIRE_BATCH_SIZE = 500
"""Expired leases that one transaction releases, so that it never holds locks for long."""


def claim(
    tx: Transaction, subjects: Collection[uuid.UUID], purpose: str, holder: str, seconds: int
) -> None:
    """Lease subjects to a holder.

    The caller has locked their rows, and has moved them to the matching state.

    Args:
        tx: The transaction.
        subjects: Ids of candidates or runs.
        purpose: One of generate, screen, fit, review, train, caption, loop, draw_comparisons and
            compare.
        holder: Name of the process or the reviewer.
        seconds: Time until the lease expires.
    """
    if subjects:
        tx.execute(
            _CLAIM,
            {"ids": list(subjects), "purpose": purpose, "holder": holder, "seconds": seconds},
        )


def try_claim(tx: Transaction, subject: uuid.UUID, purpose: str, holder: str, seconds: int) -> bool:
    """Lease a subject that has no row to lock, unless it is leased already.

    Args:
        tx: The transaction.
        subject: Id of the work.
        purpose: Purpose of the lease.
        holder: Name of the holder.
        seconds: Time until the lease expires.

    Returns:
        Whether the holder has the lease now.
    """
    params = {"subject": subject, "purpose": purpose, "holder": holder, "seconds": seconds}
    return bool(tx.execute(_TRY_CLAIM, params).rowcount)


def batch_size(attempts: int, full: int) -> int:
    """Return the size of a batch of candidates that were attempted before.

    Args:
        attempts: Number of earlier attempts of each.
        full: Size of a batch of fresh candidates.
    """
    if attempts >= len(ATTEMPT_SHARES):
        return 1
    return max(1, int(full * ATTEMPT_SHARES[attempts]))


def renew(tx: Transaction, holder: str, purpose: str, seconds: int) -> frozenset[uuid.UUID]:
    """Renew every lease of a holder for a purpose.

    An expired lease that was not released yet is renewed too, since no other holder has it.

    Args:
        tx: The transaction.
        holder: Name of the holder.
        purpose: Purpose of the leases.
        seconds: Time from now until they expire.

    Returns:
        The subjects of the leases.
    """
    rows = tx.execute(_RENEW, {"holder": holder, "purpose": purpose, "seconds": seconds})
    return frozenset(row.subject for row in rows)


def renew_in_use(
    tx: Transaction,
    holder: str,
    purpose: str,
    seconds: int,
    subjects: Collection[uuid.UUID],
    page: uuid.UUID | None,
) -> frozenset[uuid.UUID]:
    """Renew the leases that a page of a holder still uses; all others expire.

    Args:
        tx: The transaction.
        holder: Name of the holder.
        purpose: Purpose of the leases.
        seconds: Time from now until they expire.
        subjects: The subjects that are still used.
        page: Id of the browser page, if known.

    Returns:
        Those of the subjects that the holder has a lease on.
    """
    if not subjects:
        return frozenset()
    params = {
        "holder": holder,
        "purpose": purpose,
        "seconds": seconds,
        "ids": list(subjects),
        "page": page,
    }
    return frozenset(row.subject for row in tx.execute(_RENEW_USED, params))


def delete_leases(tx: Transaction, subjects: Collection[uuid.UUID]) -> None:
    """Delete leases on finished work; the caller sets the states of the subjects."""
    if subjects:
        tx.execute(_RELEASE, {"ids": list(subjects)})


def release_held(
    tx: Transaction, subjects: Collection[uuid.UUID], purpose: str, holder: str
) -> list[uuid.UUID]:
    """Delete a holder's leases on subjects, and return those; lost leases are left out.

    The caller sets the states of the returned subjects.

    Args:
        tx: The transaction.
        subjects: Ids of candidates or runs.
        purpose: Purpose of the leases.
        holder: Name of the holder.
    """
    params = {"ids": list(subjects), "purpose": purpose, "holder": holder}
    return [row.subject for row in tx.execute(_RELEASE_HELD, params)]


def expire(tx: Transaction, limit: int = EXPIRE_BATCH_SIZE) -> Counter[str]:
    """Release expired leases, and enqueue their jobs again.

    A candidate in generation returns to "requested", or fails after MAX_ATTEMPTS; a candidate in
    review returns to "waiting"; a training or captioning run returns to "requested". Claims do not
    consider expired leases themselves: a single `or` in their condition made them a thousand times
    slower at a million rows.

    Args:
        tx: The transaction.
        limit: Largest number of leases; call again while the counts add up to it.

    Returns:
        The number of subjects by their new state.
    """
    expired = tx.execute(_EXPIRED, {"limit": limit}).all()
    return _return_subjects(tx, expired, max_attempts=MAX_ATTEMPTS)


def release_holder(tx: Transaction, holder: str) -> Counter[str]:
    """Release all leases of a holder that stops; its unfinished work does not count as an attempt.

    Returns:
        The number of subjects by their new state.
    """
    return _return_subjects(tx, tx.execute(_HELD, {"holder": holder}).all(), max_attempts=None)


def release_unused(
    tx: Transaction, holder: str, subjects: Collection[uuid.UUID], page: uuid.UUID | None = None
) -> Counter[str]:
    """Release a holder's leases on subjects, except those that another page uses by now.

    Args:
        tx: The transaction.
        holder: Name of the holder.
        subjects: The subjects.
        page: Id of the browser page that releases them, if known.

    Returns:
        The number of subjects by their new state.
    """
    params = {"holder": holder, "ids": list(subjects), "page": page}
    return (
        _return_subjects(tx, tx.execute(_HELD_USED, params).all(), max_attempts=None)
        if subjects
        else Counter()
    )


def release_dead_holder(tx: Transaction, holder: str) -> Counter[str]:
    """Release all leases of a holder whose process was killed; its work counts as an attempt."""
    return _return_subjects(
        tx, tx.execute(_HELD, {"holder": holder}).all(), max_attempts=MAX_ATTEMPTS
    )


def release_workers(tx: Transaction, alive: Collection[str] = ()) -> Counter[str]:
    """Release the leases of all workers, for the only process of a home.

    Args:
        tx: The transaction.
        alive: Holders that keep their leases.

    Returns:
        The number of subjects by their new state.
    """
    return _return_subjects(tx, tx.execute(_WORK, {"alive": list(alive)}).all(), max_attempts=None)


def find_lease(tx: Transaction, subject: uuid.UUID) -> tuple[str, datetime] | None:
    """Return the holder of the lease on a subject and when it expires; None without a lease."""
    row = tx.execute(_FIND, {"subject": subject}).first()
    return (row.holder, row.expires_at) if row else None


def _return_subjects(
    tx: Transaction, leases: Sequence[sa.Row[tuple[uuid.UUID, str]]], max_attempts: int | None
) -> Counter[str]:
    """Return leased subjects to the state before the claim, and delete the leases.

    Rows that another transaction has locked are skipped, so that this never waits. Every
    transaction locks the lease before its subject; otherwise two could deadlock.
    """
    counts: Counter[str] = Counter()
    by_purpose: dict[str, list[uuid.UUID]] = {}
    for lease in leases:
        by_purpose.setdefault(lease.purpose, []).append(lease.subject)
    # These have no state besides the lease.
    for purpose in ("fit", "loop", "compare"):
        delete_leases(tx, by_purpose.pop(purpose, []))
    for purpose, ids in by_purpose.items():
        # Lock the subjects, delete their leases, set their states, and enqueue their jobs.
        free = [row.id for row in tx.execute(_LOCK.get(purpose, _LOCK_CANDIDATES), {"ids": ids})]
        delete_leases(tx, free)
        for row in _reset_state(tx, purpose, free, max_attempts):
            counts[row.state] += 1
            if row.state in ("requested", "generated"):
                # Rounds and comparisons have jobs by number, runs by their own id.
                job = row.job_id if purpose in ("generate", "screen", DRAW) else str(row.id)
                tx.enqueue(JobName(purpose), job)
    return counts


def _reset_state(
    tx: Transaction, purpose: str, ids: Sequence[uuid.UUID], max_attempts: int | None
) -> Sequence[sa.Row[tuple[uuid.UUID]]]:
    if purpose in _RETURN:
        return tx.execute(_RETURN[purpose], {"ids": ids}).all()  # type: ignore[no-any-return]
    if purpose == "review":
        return tx.execute(_RETURN_TO_WAITING, {"ids": ids}).all()  # type: ignore[no-any-return]
    # Without a limit the attempt does not count: it is subtracted again.
    params = {
        "ids": ids,
        "max_attempts": 2**15 - 1 if max_attempts is None else max_attempts,
        "refund": int(max_attempts is None),
    }
    if purpose == DRAW:
        return tx.execute(_RETURN_DRAWINGS, params).all()  # type: ignore[no-any-return]
    query = _RETURN_TO_GENERATED if purpose == "screen" else _RETURN_TO_REQUESTED
    return tx.execute(query, params).all()  # type: ignore[no-any-return]


def _sql(text: str) -> sa.TextClause:
    statement = sa.text(text)
    return (
        statement.bindparams(sa.bindparam("ids", type_=ARRAY(UUID)))
        if ":ids" in text
        else statement
    )


_UNTIL = "now() + make_interval(secs => :seconds)"

_CLAIM = _sql(f"""
    insert into leases (subject, purpose, holder, expires_at)
    select id, :purpose, :holder, {_UNTIL} from unnest(:ids) id
    on conflict (subject) do update
    set purpose = excluded.purpose, holder = excluded.holder, expires_at = excluded.expires_at,
        page = excluded.page""")

_TRY_CLAIM = _sql(f"""
    insert into leases (subject, purpose, holder, expires_at)
    values (:subject, :purpose, :holder, {_UNTIL})
    on conflict (subject) do update
    set holder = excluded.holder, expires_at = excluded.expires_at
    where leases.expires_at <= now()""")

# Rows are locked in a fixed order, so that two pages of a reviewer cannot deadlock.
_RENEW = _sql(f"""
    with held as materialized (
        select subject from leases where holder = :holder and purpose = :purpose
        order by subject for update)
    update leases set expires_at = {_UNTIL} from held
    where leases.subject = held.subject returning leases.subject""")

_RENEW_USED = _sql(f"""
    with held as materialized (
        select subject from leases
        where subject = any(:ids) and holder = :holder and purpose = :purpose
        order by subject for update)
    update leases set expires_at = {_UNTIL}, page = cast(:page as uuid) from held
    where leases.subject = held.subject returning leases.subject""")

_RELEASE = _sql("delete from leases where subject = any(:ids)")

_RELEASE_HELD = _sql("""
    delete from leases
    where subject = any(:ids) and purpose = :purpose and holder = :holder returning subject""")

_EXPIRED = _sql("""
    select subject, purpose from leases where expires_at <= now() order by expires_at limit :limit
    for update skip locked""")

_HELD = _sql("select subject, purpose from leases where holder = :holder for update skip locked")

_HELD_USED = _sql("""
    select subject, purpose from leases where subject = any(:ids) and holder = :holder
        and (cast(:page as uuid) is null or page is null or page = cast(:page as uuid))
    for update skip locked""")

_WORK = _sql("""
    select subject, purpose from leases
    where purpose not in ('review', 'compare') and holder <> all(:alive)
    for update skip locked""").bindparams(sa.bindparam("alive", type_=ARRAY(sa.Text)))

_FIND = _sql("select holder, expires_at from leases where subject = :subject")

_LOCK_CANDIDATES = _sql("select id from candidates where id = any(:ids) for update skip locked")

_LOCK = {
    purpose: _sql(f"select id from {table} where id = any(:ids) for update skip locked")
    for purpose, table in (
        ("train", "training_runs"),
        ("caption", "caption_runs"),
        (DRAW, "comparison_drawings"),
    )
}

_RETURN_TO_REQUESTED = _sql("""
    update candidates set
        state = case when attempts >= :max_attempts then 'failed' else 'requested' end,
        note = case when attempts >= :max_attempts
            then 'its generation was interrupted ' || attempts || ' times' else note end,
        attempts = greatest(attempts - :refund, 0)
    where id = any(:ids) and state = 'generating' returning id, round_id as job_id, state""")

_RETURN_TO_GENERATED = _sql("""
    update candidates set
        state = case when attempts >= :max_attempts then 'failed' else 'generated' end,
        note = case when attempts >= :max_attempts
            then 'its screening was interrupted ' || attempts || ' times' else note end,
        attempts = greatest(attempts - :refund, 0)
    where id = any(:ids) and state = 'generated' returning id, round_id as job_id, state""")

_RETURN_DRAWINGS = _sql("""
    update comparison_drawings set
        state = case when attempts >= :max_attempts then 'failed' else 'requested' end,
        note = case when attempts >= :max_attempts
            then 'it was interrupted ' || attempts || ' times' else note end,
        attempts = greatest(attempts - :refund, 0)
    where id = any(:ids) and state = 'generating' returning id, comparison_id as job_id, state""")

_RETURN_TO_WAITING = _sql("""
    update candidates set state = 'waiting'
    where id = any(:ids) and state = 'showing' returning id, round_id as job_id, state""")

_RETURN = {
    purpose: _sql(f"""
        update {table} set state = 'requested'
        where id = any(:ids) and state = 'running' returning id, state""")
    for purpose, table in (("train", "training_runs"), ("caption", "caption_runs"))
}
