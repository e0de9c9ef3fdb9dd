"""The audit log: direct changes in the database are found, and concurrent commits are sealed."""

from __future__ import annotations

import random
import threading
import time

import pytest
import sqlalchemy as sa

from curation.db.engine import Database
from curation.db.tables import event_seals, events, unsealed_events
from curation.errors import Refused
from curation.events import chain
from curation.events.chain import Head
from curation.events.listing import export_events, list_events


@pytest.fixture
def sealed(database) -> Head:
    """Six sealed events."""
    for index in range(6):
        with database.transaction() as tx:
            tx.log("ann", "round opened", f"round {index}", quota=index, share=0.1 * index)
    return chain.seal_events(database)


def verify(database, head=None) -> tuple[str, ...]:
    with database.transaction(repeatable_read=True) as tx:
        return chain.verify_chain(tx, head).problems


def tamper(database, *statements: str) -> None:
    """Change the database as its owner can: without triggers."""
    with database.transaction() as tx:
        tx.connection.exec_driver_sql("set local session_replication_role = replica")
        for statement in statements:
            tx.connection.exec_driver_sql(statement)


def event_id(database, position: int) -> int:
    with database.transaction() as tx:
        return int(
            tx.scalar(sa.select(event_seals.c.event_id).where(event_seals.c.position == position))
        )


def test_an_untouched_log_has_no_problem(database, sealed):
    assert sealed.position == 6
    assert verify(database, sealed) == ()
    with database.transaction() as tx:
        tx.log("ann", "round closed", "round 1")
    # Not sealed yet: the head stays, and the event is no problem.
    assert verify(database, sealed) == ()
    later = chain.seal_events(database)
    assert later.position == 7
    assert verify(database, sealed) == verify(database, later) == ()
    assert chain.seal_events(database) == later


@pytest.mark.parametrize(
    "change",
    [
        "update events set actor = 'bob' where id = {id}",
        "update events set kind = 'round paused' where id = {id}",
        "update events set subject = 'round 9' where id = {id}",
        "update events set data = data || '{{\"quota\": 7}}' where id = {id}",
        "update events set created_at = created_at + interval '1 us' where id = {id}",
    ],
)
def test_a_changed_event_is_found(database, sealed, change):
    id_ = event_id(database, 3)
    tamper(database, change.replace("{{", "{").replace("}}", "}").replace("{id}", str(id_)))
    [problem] = verify(database)
    assert problem.startswith(f"event {id_} (")
    assert "position 3 was changed or moved" in problem


def test_a_removed_event_is_found(database, sealed):
    id_ = event_id(database, 3)
    tamper(database, f"delete from events where id = {id_}")
    assert verify(database) == (f"event {id_} at position 3 was removed",)


def test_an_event_removed_with_its_seal_is_found(database, sealed):
    id_ = event_id(database, 3)
    both = (
        f"delete from events where id = {id_}",
        f"delete from event_seals where event_id = {id_}",
    )
    tamper(database, *both)
    assert verify(database) == ("the seals at positions 3 to 3 were removed",)
    tamper(
        database,
        *(f"update event_seals set position = {p - 1} where position = {p}" for p in (4, 5, 6)),
    )
    assert "at position 3 was changed or moved" in verify(database)[0]


def test_an_event_inserted_without_the_trigger_is_found(database, sealed):
    tamper(
        database,
        "insert into events (actor, kind, subject, created_at)"
        " values ('eve', 'signed in', 'reviewer eve', now() - interval '1 day')",
    )
    [problem] = verify(database)
    assert "(signed in) was inserted without a seal" in problem


def test_an_event_inserted_with_a_seal_is_found(database, sealed):
    tamper(
        database,
        *(f"update event_seals set position = {p + 1} where position = {p}" for p in (6, 5, 4, 3)),
        "insert into events (id, actor, kind, subject) overriding system value"
        " values (1000, 'eve', 'signed in', 'reviewer eve')",
        f"insert into event_seals (position, event_id, hash) values (3, 1000, '{'0' * 64}')",
    )
    assert len(verify(database)) == 5


def test_reordered_events_are_found(database, sealed):
    first, second = event_id(database, 2), event_id(database, 5)
    tamper(
        database,
        f"update event_seals set event_id = 1000 where event_id = {first}",
        f"update event_seals set event_id = {first} where event_id = {second}",
        f"update event_seals set event_id = {second} where event_id = 1000",
    )
    assert len(verify(database)) == 2


def test_an_event_removed_before_it_was_sealed_is_found(database, sealed):
    with database.transaction() as tx:
        tx.log("ann", "round closed", "round 1")
        id_ = tx.scalar(sa.select(unsealed_events.c.event_id))
    tamper(database, f"delete from events where id = {id_}")
    assert verify(database) == (f"event {id_} was removed before it was sealed",)


def test_only_a_known_head_shows_that_the_end_was_cut(database, sealed):
    ids = (event_id(database, 5), event_id(database, 6))
    tamper(
        database,
        "delete from event_seals where position >= 5",
        f"delete from events where id in {ids}",
    )
    assert verify(database) == ()
    assert verify(database, sealed) == ("the head is at position 6, but the log ends at 4",)


def test_only_a_known_head_shows_that_the_chain_was_recomputed(database, sealed):
    tamper(
        database,
        f"update events set actor = 'bob' where id = {event_id(database, 3)}",
        "delete from event_seals",
        "insert into unsealed_events select id from events",
    )
    anew = chain.seal_events(database)
    assert anew.position == 6
    assert verify(database) == ()
    assert verify(database, sealed) == ("the seal at position 6 is not the one in the head",)
    assert Head.parse(f" {anew} ") == anew
    for wrong in ("", "6", anew.hash, f"6:{anew.hash[1:]}", f"-6:{anew.hash}"):
        with pytest.raises(Refused, match="no head"):
            Head.parse(wrong)


def test_concurrent_commits_are_all_sealed_in_one_chain(database, database_address):
    """Transactions commit in another order than they took their ids, while two processes seal."""
    done, heads = threading.Event(), []
    draw = random.Random(7)
    pauses = [[draw.random() / 200 for _ in range(20)] for _ in range(6)]

    def write(worker: int) -> None:
        for index, pause in enumerate(pauses[worker]):
            with database.transaction() as tx:
                tx.log(f"worker {worker}", "checkpoint evaluated", index)
                time.sleep(pause)

    def seal() -> None:
        own = Database(database_address)
        while not done.is_set():
            heads.append(chain.seal_events(own))
        own.close()

    sealers = [threading.Thread(target=seal) for _ in range(2)]
    writers = [threading.Thread(target=write, args=(worker,)) for worker in range(6)]
    for thread in (*sealers, *writers):
        thread.start()
    for thread in writers:
        thread.join(60)
    done.set()
    for thread in sealers:
        thread.join(60)
    head = chain.seal_events(database, wait=True)
    assert head.position == 120
    for kept in {str(head) for head in heads if head.position}:
        assert verify(database, Head.parse(kept)) == ()
    with database.transaction() as tx:
        assert tx.scalar(sa.select(sa.func.count()).select_from(unsealed_events)) == 0


def test_more_events_than_one_batch_or_page_are_sealed_and_exported(database, monkeypatch):
    monkeypatch.setattr(chain, "BATCH", 7)
    monkeypatch.setattr(chain, "PAGE", 5)
    monkeypatch.setattr("curation.events.listing.PAGE_SIZE", 4)
    rows = [{"actor": "a", "kind": "k", "subject": str(n), "data": {}} for n in range(30)]
    with database.transaction() as tx:
        tx.execute(sa.insert(events), rows)
    head = chain.seal_events(database)
    assert head.position == 30
    assert verify(database, head) == ()
    with database.transaction() as tx:
        exported = list(export_events(tx))
        assert [event["position"] for event in exported] == list(range(1, 31))
        assert exported[-1]["hash"] == head.hash
        assert len(list(export_events(tx, 25))) == 5
        assert len(list_events(tx, kind="k", actor="a", limit=9)) == 9
        assert [row["subject"] for row in list_events(tx, subject="3")] == ["3"]
        assert list_events(tx, actor="b") == []
