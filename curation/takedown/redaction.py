"""Redaction of the audit log: content of events is emptied, and the chain still proves the rest.

A redacted event keeps its number, kind, time and seal. Its subject stays, or becomes a pseudonym of
a person; its data is {"redacted": takedown}. The event "events redacted", which is sealed like any
other, lists the numbers: the check of the chain accepts exactly these events without their content.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection
from typing import Any

import sqlalchemy as sa

from curation.db.engine import Database, Transaction
from curation.db.tables import events
from curation.events.chain import REDACTED, seal_events
from curation.takedown.selectors import blocks

ALLOW = "set local layerloop.takedown = 'on'"
"""Lets the rest of a transaction change rows of append-only tables (revision 0031)."""


def redact_events(
    database: Database,
    takedown: uuid.UUID,
    condition: sa.ColumnElement[bool],
    replaced: dict[str, Any] | None = None,
) -> int:
    """Empty the data of events, and log which ones; the call is idempotent.

    Args:
        database: The database.
        takedown: Id of the takedown.
        condition: Condition on the table `events`.
        replaced: Other columns to set, as expressions.

    Returns:
        The number of events.
    """
    # The seal is of the event as it was, so that it has to be made before.
    seal_events(database, wait=True)
    wanted = sa.select(events.c.id).where(condition, ~events.c.data.has_key("redacted"))
    with database.transaction() as tx:
        ids = list(tx.execute(wanted.where(events.c.kind != REDACTED)).scalars())
    for block in blocks(ids):
        with database.transaction() as tx:
            _redact(tx, takedown, block, replaced or {})
    return len(ids)


def of_samples(ids: Collection[str]) -> sa.ColumnElement[bool]:
    """Return the condition on events about samples.

    Args:
        ids: Ids of samples, as hex digits.
    """
    return events.c.subject.in_([f"sample {one}" for one in ids])


def _redact(tx: Transaction, takedown: uuid.UUID, ids: list[int], replaced: dict[str, Any]) -> None:
    tx.connection.exec_driver_sql(ALLOW)
    values = {"data": {"redacted": str(takedown)}} | replaced
    tx.execute(sa.update(events).where(events.c.id.in_(ids)).values(values))
    tx.log("takedown", REDACTED, f"takedown {takedown}", events=ids)
