"""What an operator watches: workers with their leases, queues, webhooks, and labeling projects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY

from curation.db.engine import Transaction, event_name
from curation.db.workers import WorkerProcess
from curation.events.webhooks import list_webhooks
from curation.labeling import projects
from curation.reporting import instance_status
from curation.reporting.instance_status import QueueStatus, RoundStatus


@dataclass(frozen=True)
class HeldLeases:
    """Leases of one worker for one purpose, and the seconds until the first of them expires."""

    purpose: str
    count: int
    seconds_left: float


@dataclass(frozen=True)
class LastDelivery:
    """The newest delivery of a webhook: its event, its state and its last error."""

    event: str
    state: str
    attempts: int
    error: str | None
    created_at: datetime


@dataclass(frozen=True)
class WebhookStatus:
    """A webhook with its deliveries of the last weeks.

    `receiver` is the origin of its URL only, since a path or a query may be a secret.
    """

    id: int
    receiver: str
    events: Sequence[str]
    active: bool
    disabled_reason: str | None
    failing_since: datetime | None
    pending: int
    delivered: int
    failed: int
    last: LastDelivery | None


@dataclass(frozen=True)
class Operations:
    """The state of an instance for its operator; `trouble` are sentences for people.

    `held` are the leases by worker.
    """

    workers: Sequence[WorkerProcess]
    held: Mapping[str, Sequence[HeldLeases]]
    rounds: Sequence[RoundStatus]
    queues: Sequence[QueueStatus]
    webhooks: Sequence[WebhookStatus]
    projects: Sequence[Mapping[str, Any]]
    excluded_rounds: Sequence[Mapping[str, Any]]
    trouble: Sequence[str]


def read_operations(tx: Transaction, *, labeling: bool) -> Operations:
    """Return what an operator watches; its cost does not grow with closed rounds.

    Args:
        tx: The transaction.
        labeling: Whether rounds are labeled in another tool than the review page.
    """
    status = instance_status.read_status(tx)
    return Operations(
        workers=status.workers,
        held=_list_held(tx, [worker.id for worker in status.workers]),
        rounds=status.rounds,
        queues=status.queues,
        webhooks=_list_webhooks(tx),
        projects=projects.list_projects(tx, closed=False),
        excluded_rounds=projects.list_excluded_rounds(tx) if labeling else [],
        trouble=status.trouble,
    )


def _list_held(tx: Transaction, workers: Sequence[str]) -> dict[str, list[HeldLeases]]:
    """Return the leases of workers that have not expired, by worker."""
    held: dict[str, list[HeldLeases]] = {}
    for row in tx.execute(_HELD, {"workers": list(workers)}):
        found = HeldLeases(row.purpose, row.n, float(row.seconds_left))
        held.setdefault(row.holder, []).append(found)
    return held


def _list_webhooks(tx: Transaction) -> list[WebhookStatus]:
    last = {row.webhook_id: row for row in tx.execute(_LAST_DELIVERIES)}
    return [
        WebhookStatus(
            id=row["id"],
            receiver="{0.scheme}://{0.hostname}".format(urlsplit(row["url"])),
            events=row["events"],
            active=row["active"],
            disabled_reason=row["disabled_reason"],
            failing_since=row["failing_since"],
            pending=row["pending"],
            delivered=row["delivered"],
            failed=row["failed"],
            last=_last(last.get(row["id"])),
        )
        for row in list_webhooks(tx)
    ]


def _last(row: sa.Row[Any] | None) -> LastDelivery | None:
    if row is None:
        return None
    error = None if row.state == "delivered" else row.last_error
    return LastDelivery(event_name(row.kind), row.state, row.attempts, error, row.created_at)


_HELD = sa.text("""
    select holder, purpose, count(*) as n,
        extract(epoch from min(expires_at) - now()) as seconds_left
    from leases where holder = any(:workers) and expires_at > now()
    group by holder, purpose order by holder, purpose""").bindparams(
    sa.bindparam("workers", type_=ARRAY(sa.Text))
)

_LAST_DELIVERIES = sa.text("""
    select w.id as webhook_id, d.state, d.attempts, d.last_error, d.created_at, e.kind
    from webhooks w cross join lateral (
        select * from webhook_deliveries d where d.webhook_id = w.id
        order by d.created_at desc, d.id desc limit 1) d
    join events e on e.id = d.event_id""")
