"""Listing and export of the event log."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC
from typing import Any

import sqlalchemy as sa

from curation.db.engine import Transaction
from curation.db.paging import read_page
from curation.db.tables import event_seals, events

PAGE_SIZE = 1_000


def list_events(
    tx: Transaction,
    *,
    kind: str = "",
    actor: str = "",
    subject: str = "",
    limit: int = 0,
    after: int | None = None,
) -> list[dict[str, Any]]:
    """Return events, newest first; empty filters are ignored.

    Args:
        tx: The transaction.
        kind: Kind of the events, such as "signed in".
        actor: Who acted.
        subject: The object that the events are about.
        limit: The largest number; 0 for no limit.
        after: The last event of the page before; None for the first page.
    """
    query = sa.select(events)
    for column, value in ((events.c.kind, kind), (events.c.actor, actor)):
        query = query.where(column == value) if value else query
    query = query.where(events.c.subject == subject) if subject else query
    place = None if after is None else [after]
    return read_page(tx, query, [events.c.id], limit=limit, after=place)


def export_events(tx: Transaction, after: int = 0) -> Iterator[dict[str, Any]]:
    """Return sealed events in the order of the chain, each with its position and hash.

    Args:
        tx: The transaction.
        after: The position after which the export begins.
    """
    query = sa.select(event_seals.c.position, event_seals.c.hash, events).join_from(
        event_seals, events, events.c.id == event_seals.c.event_id
    )
    while True:
        page = query.where(event_seals.c.position > after).order_by(event_seals.c.position)
        rows = tx.execute(page.limit(PAGE_SIZE)).mappings().all()
        for row in rows:
            created_at = row["created_at"].astimezone(UTC).isoformat(timespec="microseconds")
            yield dict(row) | {"created_at": created_at}
        if len(rows) < PAGE_SIZE:
            return
        after = rows[-1]["position"]
