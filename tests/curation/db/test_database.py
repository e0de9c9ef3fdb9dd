"""The database: transactions are atomic, jobs are sent after the commit, and an unreachable server is an error."""

from __future__ import annotations

import threading
import time
import uuid

import pytest
import sqlalchemy as sa

from curation.db.engine import Database
from curation.db.tables import events, prompts
from curation.domain import Job
from curation.errors import Unreachable
from tests.support.servers import free_port


def count(database: Database) -> int:
    with database.transaction() as tx:
        return int(tx.scalar(sa.select(sa.func.count()).select_from(events)))


def test_a_committed_transaction_is_kept(database):
    with database.transaction() as tx:
        tx.log("somebody", "did", 7, how="well", deep={"a": [1, 2]})
    with database.transaction() as tx:
        row = tx.execute(sa.select(events)).one()
    assert (row.actor, row.kind, row.subject, row.data) == (
        "somebody",
        "did",
        "7",
        {"how": "well", "deep": {"a": [1, 2]}},
    )
    assert row.created_at.tzinfo is not None


def test_an_error_rolls_everything_back(database):
    def half() -> None:
        with database.transaction() as tx:
            tx.log("somebody", "did", 1)
            raise RuntimeError("half-way")

    with pytest.raises(RuntimeError, match="half-way"):
        half()
    assert count(database) == 0


def test_jobs_are_sent_after_the_commit_once_each_and_in_order(database):
    seen: list[tuple[Job, int]] = []
    database.send = lambda job: seen.append((job, count(database)))
    with database.transaction() as tx:
        tx.log("somebody", "asked", 1)
        tx.enqueue("generate", 1)
        tx.enqueue("screen", 1)
        tx.enqueue("generate", 1)
        assert seen == []
    assert seen == [(Job("generate", (1,)), 1), (Job("screen", (1,)), 1)]


def test_a_transaction_that_fails_sends_nothing(database):
    sent: list[Job] = []
    database.send = sent.append

    def refused_by_the_database() -> None:
        with database.transaction() as tx:
            tx.enqueue("generate", 1)
            tx.execute(sa.insert(prompts), {"id": uuid.uuid4(), "text": None})

    with pytest.raises(sa.exc.IntegrityError):
        refused_by_the_database()
    assert sent == []


def test_one_view_sees_one_moment(database):
    with database.transaction(repeatable_read=True) as tx:
        before = tx.scalar(sa.select(sa.func.count()).select_from(events))
        with database.transaction() as other:
            other.log("somebody else", "came", 1)
        assert tx.scalar(sa.select(sa.func.count()).select_from(events)) == before == 0
    with database.transaction() as tx:
        assert tx.scalar(sa.text("show transaction_isolation")) == "read committed", (
            "the pooled connection is as before"
        )
    assert count(database) == 1


def test_many_threads_have_a_connection_each(database):
    together = threading.Barrier(12, timeout=20)

    def work() -> None:
        with database.transaction() as tx:
            tx.log("thread", "came", 1)
            together.wait()  # all twelve are inside at once

    threads = [threading.Thread(target=work) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert count(database) == 12


def test_a_connection_that_died_in_the_pool_is_replaced(database):
    assert count(database) == 0
    killer = sa.create_engine(database.engine.url, poolclass=sa.NullPool)
    with killer.connect() as connection:
        others = "datname = current_database() and pid <> pg_backend_pid()"
        connection.exec_driver_sql(
            f"select pg_terminate_backend(pid) from pg_stat_activity where {others}"
        )
    time.sleep(0.1)
    assert count(database) == 0


def test_an_unreachable_server_is_an_error_without_the_password():
    database = Database(f"postgresql://me:hush@127.0.0.1:{free_port()}/nothing")
    with pytest.raises(Unreachable, match="does not answer") as error, database.transaction():
        pass
    assert "hush" not in error.value.message
    assert error.value.hint
    database.close()
