"""Webhook deliveries: stored with their event, retried until they succeed, and kept for a replay."""

from __future__ import annotations

import threading
import uuid
from datetime import timedelta

import pytest
import sqlalchemy as sa

from curation.adapters.webhook_sender import WebhookSender, parse_networks
from curation.db.tables import events, webhook_deliveries, webhooks
from curation.domain import JobName
from curation.errors import NotFound, Refused
from curation.events import deliveries
from curation.events import webhooks as hooks
from tests.support.webhook_receiver import receiver

SEND = WebhookSender(parse_networks("127.0.0.0/8")).send
NAMES = ["round.closed", "snapshot.frozen"]


@pytest.fixture
def hook(database):
    """Yield a receiver, with a webhook that sends to it."""
    with receiver() as found:
        with database.transaction() as tx:
            found.id, found.secret = hooks.add_webhook(tx, found.url, NAMES, "ann")
        yield found


def log(database, kind="round closed", subject="round 1") -> None:
    with database.transaction() as tx:
        tx.log("ann", kind, subject, withdrawn=3)


def rows(database, table=webhook_deliveries) -> list[dict]:
    with database.transaction() as tx:
        return [dict(row) for row in tx.execute(sa.select(table)).mappings()]


def make_due(database) -> None:
    with database.transaction() as tx:
        tx.execute(sa.update(webhook_deliveries).values(next_attempt_at=sa.func.now()))


def test_an_event_is_delivered_once_with_its_data(database, hook):
    log(database)
    log(database, "round paused")
    assert deliveries.deliver_all_due(database, SEND) == 1
    assert deliveries.deliver_all_due(database, SEND) == 0
    [(message, payload)] = hook.received
    [row] = rows(database)
    assert message == f"msg_{row['id'].hex}"
    assert (row["state"], row["attempts"], row["last_status"]) == ("delivered", 1, 204)
    assert payload["type"] == "round.closed"
    [event] = [event for event in rows(database, events) if event["kind"] == "round closed"]
    assert payload["timestamp"] == event["created_at"].astimezone(deliveries.UTC).isoformat()
    assert payload["data"] == {
        "id": event["id"],
        "actor": "ann",
        "subject": "round 1",
        "details": {"withdrawn": 3},
    }


def test_an_event_that_is_rolled_back_is_not_delivered(database, hook):
    sent = []
    database.send = sent.append

    def fail() -> None:
        with database.transaction() as tx:
            tx.log("ann", "round closed", "round 1")
            tx.connection.exec_driver_sql("select 1 / 0")

    with pytest.raises(sa.exc.DBAPIError):
        fail()
    assert (rows(database), sent) == ([], [])
    log(database)
    assert [job.name for job in sent] == [JobName.deliver_webhooks]
    log(database, "round paused")
    assert len(sent) == 1, "no webhook subscribes to this event"


def test_a_failed_attempt_is_repeated_later_under_the_same_id(database, hook):
    hook.statuses = [500, 302, 429]
    log(database)
    for attempt in range(1, 4):
        make_due(database)
        [outcome] = deliveries.deliver(database, SEND)
        assert not outcome.delivered
        [row] = rows(database)
        assert (row["state"], row["attempts"]) == ("pending", attempt)
        assert str(outcome.status) in row["last_error"]
        assert deliveries.deliver(database, SEND) == [], "not due yet"
        assert rows(database, webhooks)[0]["failing_since"] is not None
    make_due(database)
    assert deliveries.deliver(database, SEND)[0].delivered
    assert len({message for message, _ in hook.received}) == 1
    assert len(hook.received) == 4
    assert rows(database, webhooks)[0]["failing_since"] is None


def test_the_intervals_between_attempts_grow_and_end():
    waits = [deliveries.retry_wait(attempt, lambda low, high: 1) for attempt in range(1, 11)]
    assert waits == [*deliveries.RETRY_SECONDS, None]
    drawn = {deliveries.retry_wait(2) for _ in range(20)}
    assert len(drawn) > 1
    assert all(240 <= wait <= 360 for wait in drawn)


def test_after_the_last_attempt_it_has_failed_until_it_is_replayed(database, hook):
    log(database)
    with database.transaction() as tx:
        tx.execute(sa.update(webhook_deliveries).values(attempts=len(deliveries.RETRY_SECONDS)))
    hook.statuses = [503]
    deliveries.deliver(database, SEND)
    [row] = rows(database)
    assert row["state"] == "failed"
    assert deliveries.deliver_all_due(database, SEND) == 0
    with database.transaction() as tx:
        assert hooks.replay(tx, webhook=hook.id) == 1
    assert deliveries.deliver_all_due(database, SEND) == 1
    with database.transaction() as tx:
        assert hooks.replay(tx, delivery=row["id"]) == 1
        with pytest.raises(NotFound):
            hooks.replay(tx, delivery=uuid.uuid4())
    assert deliveries.deliver_all_due(database, SEND) == 1
    assert [message for message, _ in hook.received] == [f"msg_{row['id'].hex}"] * 3


@pytest.mark.parametrize(("status", "days"), [(410, 0), (500, 6)])
def test_a_receiver_that_is_gone_or_fails_for_days_is_disabled(database, hook, status, days):
    hook.statuses = [status]
    log(database)
    with database.transaction() as tx:
        since = sa.func.now() - timedelta(days=days)
        tx.execute(sa.update(webhooks).values(failing_since=since))
    deliveries.deliver(database, SEND)
    [webhook] = rows(database, webhooks)
    assert not webhook["active"]
    assert webhook["disabled_reason"]
    assert "webhook disabled" in {row["kind"] for row in rows(database, events)}
    log(database)
    make_due(database)
    assert len(rows(database)) == 1, "a disabled webhook gets no new deliveries"
    assert deliveries.deliver_all_due(database, SEND) == 0
    with database.transaction() as tx, pytest.raises(Refused, match="disabled"):
        hooks.add_test_delivery(tx, hook.id, "ann")
    with database.transaction() as tx:
        hooks.enable_webhook(tx, hook.id, "ann")
    assert deliveries.deliver_all_due(database, SEND) == 1


def test_two_workers_do_not_send_one_delivery_at_the_same_time(database, hook):
    hook.pause.clear()
    log(database)
    first = threading.Thread(target=deliveries.deliver, args=(database, SEND))
    first.start()
    while not hook.requests:
        first.join(0.01)
    assert deliveries.deliver(database, SEND) == []
    hook.pause.set()
    first.join(30)
    assert len(hook.received) == 1


def test_the_outcome_of_a_lost_claim_is_not_kept(database, hook):
    """A worker that was slower than its claim must not overwrite what the next one stored."""
    log(database)

    def slow(*message) -> int:
        make_due(database)
        assert deliveries.deliver(database, SEND)[0].delivered
        return 500

    assert deliveries.deliver(database, slow)[0].status == 500
    [row] = rows(database)
    assert (row["state"], row["attempts"], row["last_status"]) == ("delivered", 2, 204)


def test_an_unexpected_error_of_one_receiver_does_not_stop_others(database, hook):
    log(database)

    def broken(*message) -> int:
        raise ZeroDivisionError

    assert deliveries.deliver(database, broken) == [deliveries.Outcome(None, "ZeroDivisionError")]
    assert rows(database)[0]["state"] == "pending"


def test_a_test_event_is_sent_to_one_webhook_only(database, hook):
    with database.transaction() as tx:
        hooks.add_webhook(tx, hook.url, NAMES, "ann")
        delivery = hooks.add_test_delivery(tx, hook.id, "ann")
    [outcome] = deliveries.deliver(database, SEND, delivery)
    assert outcome.status == 204
    assert [payload["type"] for _, payload in hook.received] == ["webhook.tested"]
    with database.transaction() as tx:
        [listed] = hooks.list_deliveries(tx, webhook=hook.id, state="delivered", limit=5)
        assert listed["event"] == "webhook.tested"
        assert [row["delivered"] for row in hooks.list_webhooks(tx)] == [1, 0]


def test_webhooks_are_added_listed_without_secret_and_removed(database, hook):
    with database.transaction() as tx:
        for wrong in ([], ["round.closed", "decision.made"]):
            with pytest.raises(Refused, match="event"):
                hooks.add_webhook(tx, hook.url, wrong, "ann")
        assert hook.secret not in str(hooks.list_webhooks(tx))
    log(database)
    assert hook.secret not in str(rows(database, events))
    with database.transaction() as tx:
        hooks.remove_webhook(tx, hook.id, "ann")
        with pytest.raises(NotFound):
            hooks.remove_webhook(tx, hook.id, "ann")
        with pytest.raises(NotFound):
            hooks.enable_webhook(tx, hook.id, "ann")
    assert (rows(database), rows(database, webhooks)) == ([], [])


def test_old_deliveries_are_removed(database, hook):
    log(database)
    deliveries.deliver_all_due(database, SEND)
    with database.transaction() as tx:
        old = sa.func.now() - timedelta(days=deliveries.KEEP_DAYS + 1)
        tx.execute(sa.update(webhook_deliveries).values(created_at=old))
    deliveries.deliver_all_due(database, SEND)
    assert rows(database) == []
