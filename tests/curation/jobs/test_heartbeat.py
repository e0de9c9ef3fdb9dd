"""Workers record their state; a lost one is no longer listed, and is removed."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from curation.db import workers
from curation.db.tables import workers as table
from curation.db.workers import WorkerState
from curation.jobs.heartbeat import worker_heartbeat
from curation.runtime.lease_holders import WORKER_ID
from tests.support.servers import wait_for


def live(database, queue: str | None = None) -> list[workers.WorkerProcess]:
    with database.transaction() as tx:
        return workers.list_live_workers(tx, queue)


def test_a_worker_is_listed_with_its_job_until_it_ends(database) -> None:
    with worker_heartbeat(database, ["generate", "train"]) as heartbeat:
        [found] = live(database)
        assert (found.id, found.state, found.queues) == (
            WORKER_ID,
            WorkerState.idle,
            ["generate", "train"],
        )
        assert live(database, "screen") == []
        heartbeat.update(WorkerState.busy, job="generate 3")
        wait_for("the change", lambda: live(database, "train")[0].job == "generate 3", 5)
        heartbeat.update(WorkerState.paused, reason="x" * 900, error="RuntimeError: no card")
        wait_for("the reason", lambda: live(database)[0].state is WorkerState.paused, 5)
        [found] = live(database)
        assert (len(found.reason or ""), found.job) == (500, None)
        heartbeat.update(WorkerState.draining)
        heartbeat.update(WorkerState.idle)
        wait_for("the end", lambda: live(database)[0].state is WorkerState.draining, 5)
        assert live(database)[0].last_error == "RuntimeError: no card"
    assert live(database) == []


@pytest.mark.parametrize(("state", "counted"), [("idle", 1), ("busy", 1), ("paused", 0)])
def test_only_workers_that_claim_are_counted(database, state: str, counted: int) -> None:
    worker = workers.WorkerProcess("a", "host", 1, ["screen"], "1", WorkerState(state))
    with database.transaction() as tx:
        workers.record_worker(tx, worker)
        assert workers.count_live_workers(tx, "screen") == counted
        assert workers.count_live_workers(tx, "train") == 0


def test_a_lost_worker_is_neither_listed_nor_kept(database) -> None:
    with database.transaction() as tx:
        for name in ("here", "lost"):
            workers.record_worker(
                tx, workers.WorkerProcess(name, "host", 1, ["screen"], "1", WorkerState.idle)
            )
        past = sa.text("now() - make_interval(secs => 31)")
        tx.execute(sa.update(table).where(table.c.id == "lost").values(seen_at=past))
    assert [worker.id for worker in live(database)] == ["here"]
    with database.transaction() as tx:
        assert workers.remove_lost_workers(tx) == 1
        assert workers.remove_lost_workers(tx) == 0
