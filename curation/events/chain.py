"""The hash chain over the event log: events are sealed in order, and a check finds any change.

Transactions append events without waiting for each other. A trigger queues each new event in the
table `unsealed_events`; a sealing step, of which one runs at a time, takes committed events from
this queue and appends a seal for each, which holds the hash of the event and of the seal before.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC
from typing import Any

import sqlalchemy as sa

from curation.db.advisory_locks import AdvisoryLock, lock, try_lock
from curation.db.engine import Database, Transaction
from curation.db.tables import event_seals, events
from curation.domain import canonical_json
from curation.errors import Refused

log = logging.getLogger("layerloop.audit")

BATCH = 1_000
"""Events sealed in one transaction."""

PAGE = 5_000
"""Seals that a check reads at a time."""

REDACTED = "events redacted"
"""Kind of the event that lists the events whose content a takedown emptied."""

FIRST = "0" * 64
"""The hash before the first seal."""


@dataclass(frozen=True)
class Head:
    """The newest seal: all events up to its position are covered by its hash."""

    position: int
    hash: str

    def __str__(self) -> str:
        return f"{self.position}:{self.hash}"

    @staticmethod
    def parse(text: str) -> Head:
        """Return the head of its text POSITION:HASH. Raises Refused."""
        found = re.fullmatch(r"([0-9]{1,18}):([0-9a-f]{64})", text.strip())
        if found is None:
            raise Refused(
                f"{text!r} is no head of the audit log",
                "'layerloop audit verify' prints one, as POSITION:HASH",
            )
        return Head(int(found[1]), found[2])


@dataclass(frozen=True)
class Verification:
    """The result of a check: the head, the number of sealed events, and the problems found."""

    head: Head
    events: int
    problems: tuple[str, ...]
    # Events whose content a takedown emptied, which their seals no longer cover.
    redacted: int = 0


def seal_events(database: Database, *, wait: bool = False) -> Head:
    """Seal all committed events that have no seal, and return the head.

    Args:
        database: The database.
        wait: Wait for another process that seals; otherwise leave the work to it.
    """
    sealed = 0
    while True:
        with database.transaction() as tx:
            count = _seal_batch(tx, wait=wait)
            sealed += count
            if count < BATCH:
                head = get_head(tx)
                break
    if sealed:
        log.info("audit log sealed to %s", head)
    return head


def get_head(tx: Transaction) -> Head:
    """Return the newest seal; position 0 before the first."""
    query = sa.select(event_seals.c.position, event_seals.c.hash)
    row = tx.execute(query.order_by(event_seals.c.position.desc()).limit(1)).first()
    return Head(0, FIRST) if row is None else Head(row.position, row.hash)


def verify_chain(tx: Transaction, head: Head | None = None) -> Verification:
    """Check every event against the chain.

    Args:
        tx: A transaction with a single view of the database.
        head: A head that was kept elsewhere, which the chain must contain.

    Returns:
        The problems: events that were changed, removed, inserted or reordered.
    """
    problems: list[str] = []
    last = Head(0, FIRST)
    listed = tx.execute(sa.select(events.c.data).where(events.c.kind == REDACTED)).scalars()
    allowed = frozenset(number for data in listed for number in data.get("events", ()))
    redacted = 0
    for row in _sealed_events(tx):
        # What redacts is sealed itself, so that no event is redacted without a trace.
        if row["id"] in allowed and set(row["data"] or ()) == {"redacted"}:
            redacted += 1
        else:
            problems += _check_seal(row, last)
        # Continue from the stored hash, so that each problem is reported once.
        last = Head(row["position"], row["seal"])
        if head is not None and head.position == last.position and head.hash != last.hash:
            problems.append(f"the seal at position {head.position} is not the one in the head")
    if head is not None and head.position > last.position:
        problems.append(
            f"the head is at position {head.position}, but the log ends at {last.position}"
        )
    for row in tx.execute(_INSERTED).mappings():
        problems.append(f"event {row['id']} ({row['kind']}) was inserted without a seal")
    for row in tx.execute(_LOST).mappings():
        problems.append(f"event {row['event_id']} was removed before it was sealed")
    return Verification(last, last.position, tuple(problems), redacted)


def event_hash(previous: str, position: int, event: Mapping[str, Any]) -> str:
    """Return the hash of a seal: SHA-256 of the hash before and the event as canonical JSON.

    Args:
        previous: The hash of the seal before.
        position: The position of the seal, from 1.
        event: The row of the event.
    """
    content = {name: event[name] for name in ("id", "actor", "kind", "subject", "data")}
    content |= {
        "position": position,
        "created_at": event["created_at"].astimezone(UTC).isoformat(timespec="microseconds"),
    }
    return hashlib.sha256(f"{previous}\n{canonical_json(content)}".encode()).hexdigest()


def _seal_batch(tx: Transaction, *, wait: bool) -> int:
    """Seal up to BATCH events, and return how many left the queue."""
    if wait:
        lock(tx, AdvisoryLock.seal_events)
    elif not try_lock(tx, AdvisoryLock.seal_events):
        return 0
    taken = list(tx.execute(_TAKE, {"batch": BATCH}).scalars())
    if not taken:
        return 0
    # Rows of a restored copy may be in the queue although they are sealed.
    sealed = sa.exists().where(event_seals.c.event_id == events.c.id)
    unsealed = sa.select(events).where(events.c.id.in_(taken), ~sealed).order_by(events.c.id)
    last = get_head(tx)
    seals = []
    for event in tx.execute(unsealed).mappings():
        position = last.position + 1
        last = Head(position, event_hash(last.hash, position, dict(event)))
        seals.append({"position": position, "event_id": event["id"], "hash": last.hash})
    if seals:
        tx.execute(sa.insert(event_seals), seals)
    return len(taken)


def _sealed_events(tx: Transaction) -> Iterator[sa.RowMapping]:
    """Return all seals in their order, each with its event, by pages."""
    position = 0
    while True:
        rows = tx.execute(_PAGE, {"after": position, "page": PAGE}).mappings().all()
        yield from rows
        if len(rows) < PAGE:
            return
        position = rows[-1]["position"]


def _check_seal(row: sa.RowMapping, last: Head) -> Iterator[str]:
    position = last.position + 1
    if row["position"] != position:
        missing = f"{position} to {row['position'] - 1}"
        yield f"the seals at positions {missing} were removed"
        return
    if row["id"] is None:
        yield f"event {row['event_id']} at position {position} was removed"
    elif event_hash(last.hash, position, dict(row)) != row["seal"]:
        yield f"event {row['id']} ({row['kind']}) at position {position} was changed or moved"


_TAKE = sa.text("""
delete from unsealed_events where event_id in (
    select event_id from unsealed_events order by event_id limit :batch)
returning event_id""")

_PAGE = sa.select(
    event_seals.c.position, event_seals.c.event_id, event_seals.c.hash.label("seal"), events
).select_from(event_seals.outerjoin(events, events.c.id == event_seals.c.event_id))
_PAGE = (
    _PAGE.where(event_seals.c.position > sa.bindparam("after"))
    .order_by(event_seals.c.position)
    .limit(sa.bindparam("page"))
)

_INSERTED = sa.text("""
select id, kind from events e
where not exists (select from event_seals s where s.event_id = e.id)
    and not exists (select from unsealed_events u where u.event_id = e.id)
order by id limit 100""")

_LOST = sa.text("""
select event_id from unsealed_events u
where not exists (select from events e where e.id = u.event_id) order by event_id limit 100""")
