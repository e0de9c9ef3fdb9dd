"""Webhooks: receivers of events, and their pending deliveries.

A delivery is written in the transaction of its event (curation.db.engine), so that none is lost
and none is sent for an event that was rolled back.
"""

from __future__ import annotations

import base64
import secrets
import uuid
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from curation.db.engine import Transaction, event_name
from curation.db.paging import find_place, read_page
from curation.db.tables import events, webhook_deliveries, webhooks
from curation.domain import JobName
from curation.errors import NotFound, Refused

EVENT_NAMES = tuple(
    event_name(kind)
    for kind in (
        "round opened",
        "round paused",
        "round closed",
        "seeds imported",
        "sample withdrawn",
        "sample restored",
        "snapshot frozen",
        "tag moved",
        "training cancelled",
        "checkpoint registered",
        "checkpoint promoted",
        "checkpoint evaluated",
        "reviewer paused",
        "reviewer resumed",
        "webhook disabled",
    )
)
"""The names of the events that a webhook may subscribe to; `round.closed` is "round closed".

Events that reveal gold or single verdicts are not among them.
"""

TEST_EVENT = "webhook tested"


def add_webhook(tx: Transaction, url: str, names: Sequence[str], actor: str) -> tuple[int, str]:
    """Add a webhook, whose URL was checked, and return its id and its secret.

    Args:
        tx: The transaction.
        url: The URL of the receiver.
        names: Names of events, of EVENT_NAMES.
        actor: Who adds it.

    Raises:
        Refused: No name is given, or one is unknown.
    """
    unknown = [name for name in names if name not in EVENT_NAMES]
    if unknown or not names:
        problem = f"there is no event {unknown[0]!r}" if unknown else "no event is named"
        raise Refused(problem, f"events: {', '.join(EVENT_NAMES)}")
    # 256 bits, in the form of the Standard Webhooks specification.
    secret = "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()
    row = {"url": url, "events": sorted(set(names)), "secret": secret, "created_by": actor}
    id_ = int(tx.scalar(sa.insert(webhooks).values(row).returning(webhooks.c.id)))
    tx.log(actor, "webhook added", f"webhook {id_}", url=url, events=row["events"])
    return id_, secret


def list_webhooks(tx: Transaction) -> list[dict[str, Any]]:
    """Return all webhooks without their secrets, each with its deliveries counted by state."""
    columns = [column for column in webhooks.c if column.name != "secret"]
    counts = [
        sa.func.count().filter(webhook_deliveries.c.state == state).label(state)
        for state in ("pending", "delivered", "failed")
    ]
    query = sa.select(*columns, *counts).select_from(
        webhooks.outerjoin(webhook_deliveries, webhook_deliveries.c.webhook_id == webhooks.c.id)
    )
    rows = tx.execute(query.group_by(webhooks.c.id).order_by(webhooks.c.id)).mappings()
    return [dict(row) for row in rows]


def remove_webhook(tx: Transaction, id_: int, actor: str) -> None:
    """Remove a webhook with its deliveries. Raises NotFound."""
    removed = sa.delete(webhooks).where(webhooks.c.id == id_).returning(webhooks.c.url)
    url = tx.scalar(removed)
    if url is None:
        raise _no_webhook(id_)
    tx.log(actor, "webhook removed", f"webhook {id_}", url=url)


def enable_webhook(tx: Transaction, id_: int, actor: str) -> None:
    """Enable a disabled webhook; its waiting deliveries are sent now. Raises NotFound."""
    values = {"active": True, "disabled_reason": None, "failing_since": None}
    if not tx.execute(sa.update(webhooks).where(webhooks.c.id == id_).values(values)).rowcount:
        raise _no_webhook(id_)
    pending = webhook_deliveries.c.webhook_id == id_, webhook_deliveries.c.state == "pending"
    tx.execute(sa.update(webhook_deliveries).where(*pending).values(next_attempt_at=sa.func.now()))
    tx.log(actor, "webhook enabled", f"webhook {id_}")
    tx.enqueue(JobName.deliver_webhooks)


def add_test_delivery(tx: Transaction, id_: int, actor: str) -> uuid.UUID:
    """Log a test event with a delivery to one webhook, and return the delivery's id.

    Raises:
        NotFound: There is no such webhook.
        Refused: The webhook is disabled.
    """
    active = tx.scalar(sa.select(webhooks.c.active).where(webhooks.c.id == id_))
    if active is None:
        raise _no_webhook(id_)
    if not active:
        raise Refused(f"webhook {id_} is disabled", f"enable it: layerloop webhook enable {id_}")
    tx.log(actor, TEST_EVENT, f"webhook {id_}")
    event = sa.select(sa.func.max(events.c.id)).where(
        events.c.kind == TEST_EVENT, events.c.subject == f"webhook {id_}"
    )
    delivery = uuid.uuid4()
    row = {"id": delivery, "webhook_id": id_, "event_id": tx.scalar(event), "state": "pending"}
    tx.execute(sa.insert(webhook_deliveries).values(row))
    return delivery


def list_deliveries(
    tx: Transaction,
    *,
    webhook: int | None = None,
    state: str = "",
    limit: int = 0,
    after: uuid.UUID | None = None,
) -> list[dict[str, Any]]:
    """Return deliveries, newest first.

    Args:
        tx: The transaction.
        webhook: Only those of this webhook.
        state: Only those in this state: pending, delivered or failed.
        limit: The largest number; 0 for no limit.
        after: The last delivery of the page before; None for the first page.

    Raises:
        NotFound: There is no delivery `after`.
    """
    query = sa.select(webhook_deliveries, events.c.kind, events.c.subject).join_from(
        webhook_deliveries, events, events.c.id == webhook_deliveries.c.event_id
    )
    if webhook is not None:
        query = query.where(webhook_deliveries.c.webhook_id == webhook)
    query = query.where(webhook_deliveries.c.state == state) if state else query
    order = [webhook_deliveries.c.created_at, webhook_deliveries.c.id]
    place = find_place(tx, order, after)
    rows = read_page(tx, query, order, limit=limit, after=place)
    return [row | {"event": event_name(row["kind"])} for row in rows]


def replay(
    tx: Transaction, *, delivery: uuid.UUID | None = None, webhook: int | None = None
) -> int:
    """Send deliveries again, under the same message ids, and return their number.

    Args:
        tx: The transaction.
        delivery: One delivery, in any state.
        webhook: All failed deliveries of a webhook.

    Raises:
        NotFound: There is no such delivery.
    """
    selected = (
        webhook_deliveries.c.id == delivery
        if delivery is not None
        else sa.and_(
            webhook_deliveries.c.webhook_id == webhook, webhook_deliveries.c.state == "failed"
        )
    )
    values = {"state": "pending", "attempts": 0, "next_attempt_at": sa.func.now()}
    count = int(tx.execute(sa.update(webhook_deliveries).where(selected).values(values)).rowcount)
    if delivery is not None and not count:
        raise NotFound(
            f"there is no delivery {delivery}", "'layerloop webhook deliveries' lists them"
        )
    tx.enqueue(JobName.deliver_webhooks)
    return count


def _no_webhook(id_: int) -> NotFound:
    return NotFound(f"there is no webhook {id_}", "'layerloop webhook list' lists them")
