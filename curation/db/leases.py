"""Leases: who may work on what until when, and what becomes of work whose lease ran out."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Collection, Sequence
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, UUID

from curation.db.engine import Transaction

MOST_ATTEMPTS = 3
"""A candidate whose drawing was cut off so often is set aside: it may be what kills the workers."""

SWEEP_AT_ONCE = 500
"""Leases handed back in one transaction: few enough that a sweep never holds locks for long."""


def claim(
    tx: Transaction, subjects: Collection[uuid.UUID], purpose: str, holder: str, seconds: int
) -> None:
    """Lease subjects to a holder; the caller holds their rows locked and has moved them into the matching state."""
    if subjects:
        tx.execute(
            _CLAIM,
            {"ids": list(subjects), "purpose": purpose, "holder": holder, "seconds": seconds},
        )


def renew(tx: Transaction, holder: str, purpose: str, seconds: int) -> frozenset[uuid.UUID]:
    """Extend every lease of a holder and purpose; returns what it holds.

    A lease that ran out but was not swept yet is renewed too: nobody else has the subject.
    """
    rows = tx.execute(_RENEW, {"holder": holder, "purpose": purpose, "seconds": seconds})
    return frozenset(row.subject for row in rows)


def renew_used(
    tx: Transaction,
    holder: str,
    purpose: str,
    seconds: int,
    subjects: Collection[uuid.UUID],
    page: uuid.UUID | None,
) -> frozenset[uuid.UUID]:
    """Extend the leases of a holder on these subjects alone, for one page; returns those it has.

    A lease is renewed by use: what the holder has and does not name here runs out.
    """
    if not subjects:
        return frozenset()
    asked = {
        "holder": holder,
        "purpose": purpose,
        "seconds": seconds,
        "ids": list(subjects),
        "page": page,
    }
    return frozenset(row.subject for row in tx.execute(_RENEW_USED, asked))


def release(tx: Transaction, subjects: Collection[uuid.UUID]) -> None:
    """Drop leases whose work is done; the subjects' states are the caller's business."""
    if subjects:
        tx.execute(_RELEASE, {"ids": list(subjects)})


def sweep(tx: Transaction, limit: int = SWEEP_AT_ONCE) -> Counter[str]:
    """Hand back up to `limit` subjects whose leases ran out, and ask for their jobs again; counts by where they went.

    A candidate being drawn goes back to "requested", or to "failed" after MOST_ATTEMPTS; one being shown goes back to
    "waiting"; a run of training or captions goes back to "requested". Call again while the counts add up to `limit`.
    Claims never look at expired leases themselves: one `or` in their condition made them a thousand times slower at a
    million rows.
    """
    due = tx.execute(_EXPIRED, {"limit": limit}).all()
    return _hand_back(tx, due, most_attempts=MOST_ATTEMPTS)


def hand_back(tx: Transaction, holder: str) -> Counter[str]:
    """Give up everything a holder has, because it stops or is sent away; what was begun counts as no attempt."""
    return _hand_back(tx, tx.execute(_HELD, {"holder": holder}).all(), most_attempts=None)


def hand_back_used(
    tx: Transaction, holder: str, subjects: Collection[uuid.UUID], page: uuid.UUID | None = None
) -> Counter[str]:
    """Give up a holder's leases on these subjects; those that another of its pages uses by now stay."""
    asked = {"holder": holder, "ids": list(subjects), "page": page}
    return (
        _hand_back(tx, tx.execute(_HELD_USED, asked).all(), most_attempts=None)
        if subjects
        else Counter()
    )


def hand_back_dead(tx: Transaction, holder: str) -> Counter[str]:
    """Give up everything of a holder whose process was killed; unlike in `hand_back`, its attempts count."""
    return _hand_back(tx, tx.execute(_HELD, {"holder": holder}).all(), most_attempts=MOST_ATTEMPTS)


def hand_back_work(tx: Transaction, alive: Collection[str] = ()) -> Counter[str]:
    """Give up all work but that of holders known to be alive, for an instance that is alone in its home."""
    return _hand_back(tx, tx.execute(_WORK, {"alive": list(alive)}).all(), most_attempts=None)


def find_lease(tx: Transaction, subject: uuid.UUID) -> tuple[str, datetime] | None:
    """Return who holds a subject and until when, or None."""
    row = tx.execute(_FIND, {"subject": subject}).first()
    return (row.holder, row.expires_at) if row else None


def _hand_back(
    tx: Transaction, leases: Sequence[sa.Row[tuple[uuid.UUID, str]]], most_attempts: int | None
) -> Counter[str]:
    """Move leased subjects back. Rows that someone is moving right now are left to them, so that nothing waits here.

    Whoever needs both locks a lease first and its subject second, or they could wait for each other.
    """
    counts: Counter[str] = Counter()
    by_purpose: dict[str, list[uuid.UUID]] = {"draw": [], "review": [], "train": [], "caption": []}
    for lease in leases:
        by_purpose[lease.purpose].append(lease.subject)
    for purpose, ids in by_purpose.items():
        if not ids:
            continue
        free = [row.id for row in tx.execute(_LOCK.get(purpose, _LOCK_CANDIDATES), {"ids": ids})]
        release(tx, free)
        for row in _move_back(tx, purpose, free, most_attempts):
            counts[row.state] += 1
            if row.state == "requested":
                tx.ask(purpose, row.round_id if purpose == "draw" else str(row.id))
    return counts


def _move_back(
    tx: Transaction, purpose: str, ids: Sequence[uuid.UUID], most: int | None
) -> Sequence[sa.Row[tuple[uuid.UUID]]]:
    if purpose in _BACK:
        return tx.execute(_BACK[purpose], {"ids": ids}).all()  # type: ignore[no-any-return]  # Transaction.execute
    if purpose == "review":
        return tx.execute(_BACK_TO_WAITING, {"ids": ids}).all()  # type: ignore[no-any-return]  # says Any on purpose
    given_up = {
        "ids": ids,
        "most": 2**15 - 1 if most is None else most,
        "refund": int(most is None),
    }
    return tx.execute(_BACK_TO_DRAWING, given_up).all()  # type: ignore[no-any-return]


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

# In one order, so that two pages of one reviewer that renew at once cannot block each other for good.
_RENEW = _sql(f"""
    with held as materialized (
        select subject from leases where holder = :holder and purpose = :purpose order by subject for update)
    update leases set expires_at = {_UNTIL} from held where leases.subject = held.subject returning leases.subject""")

_RENEW_USED = _sql(f"""
    with held as materialized (
        select subject from leases where subject = any(:ids) and holder = :holder and purpose = :purpose
        order by subject for update)
    update leases set expires_at = {_UNTIL}, page = cast(:page as uuid) from held
    where leases.subject = held.subject returning leases.subject""")

_RELEASE = _sql("delete from leases where subject = any(:ids)")

_EXPIRED = _sql("""
    select subject, purpose from leases where expires_at <= now() order by expires_at limit :limit
    for update skip locked""")

_HELD = _sql("select subject, purpose from leases where holder = :holder for update skip locked")

_HELD_USED = _sql("""
    select subject, purpose from leases where subject = any(:ids) and holder = :holder
        and (cast(:page as uuid) is null or page is null or page = cast(:page as uuid))
    for update skip locked""")

_WORK = _sql("""
    select subject, purpose from leases where purpose <> 'review' and holder <> all(:alive)
    for update skip locked""").bindparams(sa.bindparam("alive", type_=ARRAY(sa.Text)))

_FIND = _sql("select holder, expires_at from leases where subject = :subject")

_LOCK_CANDIDATES = _sql("select id from candidates where id = any(:ids) for update skip locked")

_LOCK = {
    purpose: _sql(f"select id from {table} where id = any(:ids) for update skip locked")
    for purpose, table in (("train", "training_runs"), ("caption", "caption_runs"))
}

_BACK_TO_DRAWING = _sql("""
    update candidates set
        state = case when attempts >= :most then 'failed' else 'requested' end,
        note = case when attempts >= :most then 'its drawing was cut off ' || attempts || ' times' else note end,
        attempts = greatest(attempts - :refund, 0)
    where id = any(:ids) and state = 'drawing' returning id, round_id, state""")

_BACK_TO_WAITING = _sql("""
    update candidates set state = 'waiting' where id = any(:ids) and state = 'showing' returning id, round_id, state""")

_BACK = {
    purpose: _sql(f"""
        update {table} set state = 'requested' where id = any(:ids) and state = 'running' returning id, state""")
    for purpose, table in (("train", "training_runs"), ("caption", "caption_runs"))
}
