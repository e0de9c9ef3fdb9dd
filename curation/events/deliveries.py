"""Deliveries of webhooks: claimed, sent with no transaction open, and kept with their outcome."""

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
"""Send to a URL, with a secret, a message of this id and body, and return the status."""

RETRY_SECONDS = (5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400)
"""Seconds until the next attempt, after each failed one; the last attempt comes after 3 days."""

JITTER = 0.2
"""Share by which a wait is longer or shorter, so that deliveries do not come all at once."""

CLAIM_SECONDS = 120
"""Seconds after which a claimed delivery may be claimed again; its worker was killed."""

BATCH = 32
THREADS = 8

DISABLE_AFTER_DAYS = 5
"""A webhook that only failed for these days is disabled."""

GONE = 410
"""The status with which a receiver says that it wants no more; its webhook is disabled."""

KEEP_DAYS = 30
"""Days after which finished deliveries are removed."""


@dataclass(frozen=True)
class Outcome:
    """The result of one attempt: the status, or why there was none."""

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
    # Keep each outcome in a transaction of its own.
    for row, outcome in zip(claimed, outcomes, strict=True):
        with database.transaction() as tx:
            _keep(tx, row, outcome)
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
    except Exception as error:  # of one receiver, which must not stop the others
        log.exception("a webhook could not be sent")
        return Outcome(None, type(error).__name__)
    outcome = Outcome(status, None)
    return outcome if outcome.delivered else Outcome(status, f"the receiver answered {status}")


def _keep(tx: Transaction, row: sa.RowMapping, outcome: Outcome) -> None:
    """Store the outcome of an attempt, unless the delivery was claimed again meanwhile."""
    wait = retry_wait(row["attempts"])
    values: dict[str, Any] = {"last_status": outcome.status, "last_error": outcome.error}
    if outcome.delivered:
        values |= {"state": "delivered", "delivered_at": sa.func.now()}
    elif wait is None:
        values |= {"state": "failed"}
    else:
        values |= {"next_attempt_at": sa.func.now() + seconds(wait)}
    mine = (
        webhook_deliveries.c.id == row["id"],
        webhook_deliveries.c.attempts == row["attempts"],
        webhook_deliveries.c.state == "pending",
    )
    if tx.execute(sa.update(webhook_deliveries).where(*mine).values(values)).rowcount:
        _judge_receiver(tx, row, outcome)


def _judge_receiver(tx: Transaction, row: sa.RowMapping, outcome: Outcome) -> None:
    """Note since when a receiver fails, and disable its webhook after a long time."""
    which = webhooks.c.id == row["webhook_id"]
    if outcome.delivered:
        failing = webhooks.c.failing_since.is_not(None)
        tx.execute(sa.update(webhooks).where(which, failing).values(failing_since=None))
        return
    since = sa.func.coalesce(webhooks.c.failing_since, sa.func.now())
    tx.execute(sa.update(webhooks).where(which).values(failing_since=since))
    long = webhooks.c.failing_since < sa.func.now() - sa.func.make_interval(
        0, 0, 0, DISABLE_AFTER_DAYS
    )
    reason = (
        "the receiver answered 410 Gone"
        if outcome.status == GONE
        else f"it failed for {DISABLE_AFTER_DAYS} days: {outcome.error}"
    )
    ends = sa.true() if outcome.status == GONE else long
    disabled = sa.update(webhooks).where(which, webhooks.c.active, ends)
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
