"""The mark of an instance that was moved to other servers, against work in the old one."""

from __future__ import annotations

import sqlalchemy as sa

from curation.db.engine import Database, Transaction
from curation.db.tables import events
from curation.errors import Conflict

SUBJECT = "instance"
MOVED = "instance moved"
REOPENED = "instance reopened"


def mark_moved(tx: Transaction, actor: str, target: str) -> None:
    """Mark the instance as moved.

    Args:
        tx: The transaction.
        actor: Name of the person, for the event log.
        target: Address of the new database, without credentials.
    """
    tx.log(actor, MOVED, SUBJECT, target=target)


def reopen(tx: Transaction, actor: str) -> bool:
    """Remove the mark; return whether the instance was marked."""
    marked = find_target(tx) is not None
    if marked:
        tx.log(actor, REOPENED, SUBJECT)
    return marked


def find_target(tx: Transaction) -> str | None:
    """Return where the instance was moved to, or None if it was not moved."""
    query = (
        sa.select(events.c.kind, events.c.data)
        .where(events.c.subject == SUBJECT, events.c.kind.in_((MOVED, REOPENED)))
        .order_by(events.c.id.desc())
        .limit(1)
    )
    last = tx.execute(query).one_or_none()
    return str(last.data["target"]) if last is not None and last.kind == MOVED else None


def check_not_moved(database: Database) -> None:
    """Raise Conflict if the instance was moved."""
    with database.transaction() as tx:
        target = find_target(tx)
    if target is not None:
        raise Conflict(
            f"this instance was moved to {target}",
            "use that one; 'layerloop instance reopen' allows work in this one again",
        )
