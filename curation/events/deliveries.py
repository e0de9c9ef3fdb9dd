"""Deliveries of webhooks: claim, send without an open transaction, store the outcome."""

from __future__ import annotations

import logging
import random
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC
from typing import Any

import sqlalchemy as sa

from curation.db.engine import Database, Transaction, event_name
from curation.db.tables import webhook_deliveries, webhooks
from curation.db.time_spans import seconds
from curation.domain import canonical_json
from curation.errors import LayerloopError

log = logging.getLogger("layerloop.webhooks")

SendWebhook = Callable[[str, str, str, bytes], int]
"""A function that sends a message: URL, secret, message id and body to the HTTP status."""

RETRY_SECONDS = (5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400)
"""Seconds until the next attempt, after each failed one; the last attempt comes after 3 days."""

JITTER = 0.2
"""Share by which a wait varies at random, so that deliveries are not sent all at once."""

CLAIM_SECONDS = 120
"""Seconds after which a claimed delivery may be claimed again, if its worker was killed."""

BATCH = 32
THREADS = 8

DISABLE_AFTER_DAYS = 5
"""A webhook is disabled after so many days of failures only."""

HTTP_GONE = 410
"""The status by which a receiver ends its subscription; its webhook is disabled."""

KEEP_DAYS = 30
"""Days after which finished deliveries are removed."""


@dataclass(frozen=True)
class Outcome:
    """The result of one attempt: the HTTP status, or the error without one."""

    status: int | None
    error: str | None

    @property
    def delivered(self) -> bool:
        """Whether the receiver accepted the message."""
        return self.status is not None and 200 <= self.status < 300


def deliveries_due(tx: Transaction) -> bool:
    """Return whether a delivery waits for an attempt."""
    return bool(tx.scalar(_DUE))


def deliver(database: Database, send: SendWebhook, only: uuid.UUID | None = None) -> list[Outcome]:
    """Send a batch of due deliveries, or one delivery, and return the outcomes.

    Args:
        database: The database.
        send: Function that sends a message.
        only: A delivery to send now, due or not.
    """
    # Claim in a short transaction: the time of the next attempt is moved past this attempt.
    with database.transaction() as tx:
        claimed = (
            tx.execute(_CLAIM, {"seconds": CLAIM_SECONDS, "batch": BATCH, "only": only})
            .mappings()
            .all()
        )
    if not claimed:
        return []
    # Send with no transaction open.
    with ThreadPoolExecutor(THREADS) as pool:
        outcomes = list(pool.map(lambda row: _attempt(send, row), claimed))
    # Store each outcome in a transaction of its own.
    for row, outcome in zip(claimed, outcomes, strict=True):
        with database.transaction() as tx:
            _store_outcome(tx, row, outcome)
    return outcomes


def deliver_all_due(database: Database, send: SendWebhook) -> int:
    """Send due deliveries until none is left, and return the number of attempts."""
    attempts = 0
    with database.transaction() as tx:
        tx.execute(_REMOVE_OLD, {"days": KEEP_DAYS})
    while outcomes := deliver(database, send):
        attempts += len(outcomes)
    return attempts


def message_body(row: sa.RowMapping) -> bytes:
    """Return the JSON document of a delivery: type, time and data of its event."""
    data = {"id": row["event_id"], "actor": row["actor"], "subject": row["subject"]}
    message = {
        "type": event_name(row["kind"]),
        "timestamp": row["occurred_at"].astimezone(UTC).isoformat(),
        "data": data | {"details": row["data"]},
    }
    return canonical_json(message).encode()


def message_id(delivery: uuid.UUID) -> str:
    """Return the id of a delivery's message, the same at each attempt."""
    return f"msg_{delivery.hex}"


def retry_wait(
    attempts: int, draw: Callable[[float, float], float] = random.uniform
) -> float | None:
    """Return the seconds until the next attempt; None after the last one.

    Args:
        attempts: Attempts so far, from 1.
        draw: Function that draws a number between two bounds.
    """
    if attempts > len(RETRY_SECONDS):
        return None
    return RETRY_SECONDS[attempts - 1] * draw(1 - JITTER, 1 + JITTER)


def _attempt(send: SendWebhook, row: sa.RowMapping) -> Outcome:
    try:
        status = send(row["url"], row["secret"], message_id(row["id"]), message_body(row))
    except LayerloopError as error:
        return Outcome(None, error.message[:500])
    except Exception as error:  # an error of one receiver must not stop the others
        log.exception("a webhook could not be sent")
        return Outcome(None, type(error).__name__)
    outcome = Outcome(status, None)
    return outcome if outcome.delivered else Outcome(status, f"the receiver answered {status}")


def _store_outcome(tx: Transaction, row: sa.RowMapping, outcome: Outcome) -> None:
    """Store the outcome of an attempt, unless the delivery was claimed again meanwhile."""
    wait = retry_wait(row["attempts"])
    values: dict[str, Any] = {"last_status": outcome.status, "last_error": outcome.error}
    if outcome.delivered:
        values |= {"state": "delivered", "delivered_at": sa.func.now()}
    elif wait is None:
        values |= {"state": "failed"}
    else:
        values |= {"next_attempt_at": sa.func.now() + seconds(wait)}
    unchanged = (
        webhook_deliveries.c.id == row["id"],
        webhook_deliveries.c.attempts == row["attempts"],
        webhook_deliveries.c.state == "pending",
    )
    if tx.execute(sa.update(webhook_deliveries).where(*unchanged).values(values)).rowcount:
        _update_webhook(tx, row, outcome)


def _update_webhook(tx: Transaction, row: sa.RowMapping, outcome: Outcome) -> None:
    """Record since when a webhook fails, and disable it after DISABLE_AFTER_DAYS."""
    of_row = webhooks.c.id == row["webhook_id"]
    if outcome.delivered:
        failing = webhooks.c.failing_since.is_not(None)
        tx.execute(sa.update(webhooks).where(of_row, failing).values(failing_since=None))
        return
    since = sa.func.coalesce(webhooks.c.failing_since, sa.func.now())
    tx.execute(sa.update(webhooks).where(of_row).values(failing_since=since))
    failed_too_long = webhooks.c.failing_since < sa.func.now() - sa.func.make_interval(
        0, 0, 0, DISABLE_AFTER_DAYS
    )
    reason = (
        "the receiver answered 410 Gone"
        if outcome.status == HTTP_GONE
        else f"it failed for {DISABLE_AFTER_DAYS} days: {outcome.error}"
    )
    is_final = sa.true() if outcome.status == HTTP_GONE else failed_too_long
    disabled = sa.update(webhooks).where(of_row, webhooks.c.active, is_final)
    if tx.execute(disabled.values(active=False, disabled_reason=reason)).rowcount:
        log.warning("webhook %s is disabled: %s", row["webhook_id"], reason)
        tx.log("webhooks", "webhook disabled", f"webhook {row['webhook_id']}", reason=reason)


_DUE = sa.text("""
select exists (
    select from webhook_deliveries d join webhooks w on w.id = d.webhook_id
    where d.state = 'pending' and d.next_attempt_at <= now() and w.active)""")

_CLAIM = sa.text("""
update webhook_deliveries d
set attempts = d.attempts + 1, next_attempt_at = now() + make_interval(secs => :seconds)
from webhooks w, events e
where w.id = d.webhook_id and e.id = d.event_id and d.id in (
    select c.id from webhook_deliveries c join webhooks v on v.id = c.webhook_id
    where c.state = 'pending' and v.active
        and (c.id = cast(:only as uuid)
            or (cast(:only as uuid) is null and c.next_attempt_at <= now()))
    order by c.next_attempt_at limit :batch for update of c skip locked)
returning d.id, d.webhook_id, d.event_id, d.attempts, w.url, w.secret,
    e.actor, e.kind, e.subject, e.data, e.created_at as occurred_at""")

_REMOVE_OLD = sa.text("""
delete from webhook_deliveries
where state <> 'pending' and created_at < now() - make_interval(days => :days)""")
