"""Leases run out, are handed back once, and never stand in anybody's way."""

from __future__ import annotations

import threading
import uuid
from collections import Counter

import pytest
import sqlalchemy as sa

from curation.checkpoints.registry import claim_run, find_run, request_training
from curation.db import leases
from curation.db.engine import Database
from curation.db.tables import candidates
from curation.db.tables import leases as leases_table
from curation.domain import CandidateState, Job, TrainingRequest
from curation.object_store import FolderStore
from tests.support.factories import make_candidates, make_checkpoint, make_round, states


def lease(
    database: Database, ids, purpose: str = "generate", holder: str = "w1", seconds: int = 60
) -> None:
    with database.transaction() as tx:
        leases.claim(tx, ids, purpose, holder, seconds)


def expire(database: Database) -> None:
    with database.transaction() as tx:
        tx.execute(
            sa.update(leases_table).values(expires_at=sa.text("now() - interval '1 second'"))
        )


def made(
    database: Database, store: FolderStore, count: int, state: CandidateState
) -> tuple[int, list[uuid.UUID]]:
    with database.transaction() as tx:
        number = make_round(tx)
        return number, list(make_candidates(tx, store, number, count, state))


def held(database: Database) -> dict[uuid.UUID, str]:
    with database.transaction() as tx:
        return {row.subject: row.holder for row in tx.execute(sa.select(leases_table))}


def test_claim_renew_release(database, store):
    _, ids = made(database, store, 3, CandidateState.generating)
    lease(database, ids[:2])
    lease(database, ids[2:], holder="w2")
    expire(database)
    with database.transaction() as tx:
        assert leases.renew(tx, "w1", "generate", 60) == set(ids[:2]), "not swept yet: still ours"
        assert leases.renew(tx, "w1", "review", 60) == frozenset()
        assert sum(leases.expire(tx).values()) == 1
    with database.transaction() as tx:
        leases.delete_leases(tx, ids[:1])
    assert held(database) == {ids[1]: "w1"}


def test_claim_takes_over_what_is_left_behind(database, store):
    _, ids = made(database, store, 1, CandidateState.showing)
    lease(database, ids, "generate", "long gone")
    lease(database, ids, "review", "reviewer 1")
    assert held(database) == {ids[0]: "reviewer 1"}


def test_sweep_hands_back_drawing_and_asks_again(database, store):
    number, ids = made(database, store, 3, CandidateState.generating)
    lease(database, ids)
    with database.transaction() as tx:
        assert leases.expire(tx) == Counter(), "a lease that runs is left alone"
        tx.execute(
            sa.update(candidates)
            .where(candidates.c.id == ids[0])
            .values(attempts=leases.MAX_ATTEMPTS)
        )
    expire(database)
    with database.transaction() as tx:
        assert leases.expire(tx) == {"requested": 2, "failed": 1}
        assert tx.jobs == [Job("generate", (number,))]
    assert states(database, number) == {"requested": 2, "failed": 1}
    assert held(database) == {}
    with database.transaction() as tx:
        note = tx.scalar(sa.select(candidates.c.note).where(candidates.c.state == "failed"))
    assert note == f"its generation was interrupted {leases.MAX_ATTEMPTS} times"


def test_sweep_hands_back_showing_without_a_job(database, store):
    number, ids = made(database, store, 2, CandidateState.showing)
    lease(database, ids, "review", "reviewer 1", seconds=0)
    with database.transaction() as tx:
        assert leases.expire(tx) == {"waiting": 2}
        assert tx.jobs == []
    assert states(database, number) == {"waiting": 2}


def test_sweep_hands_back_a_training_run(database):
    with database.transaction() as tx:
        made_by = make_checkpoint(tx)
        snapshot = tx.scalar(
            sa.text("select snapshot_id from checkpoints where id = :id").bindparams(id=made_by)
        )
        run = request_training(
            tx, TrainingRequest("whole", "tiny", snapshot, None, None, 0), "test"
        )
        assert claim_run(tx, run, "w1", 0)
    with database.transaction() as tx:
        assert leases.expire(tx) == {"requested": 1}
        assert tx.jobs == [Job("train", (str(run),))]
        assert find_run(tx, run)["state"] == "requested"


def test_a_lease_whose_subject_moved_on_is_only_dropped(database, store):
    number, ids = made(database, store, 1, CandidateState.accepted)
    lease(database, ids, "review", "reviewer 1", seconds=0)
    with database.transaction() as tx:
        assert leases.expire(tx) == Counter()
    assert held(database) == {}
    assert states(database, number) == {"accepted": 1}


def test_sweep_works_in_batches_and_skips_what_is_locked(database, store):
    number, ids = made(database, store, 7, CandidateState.showing)
    lease(database, ids, "review", "reviewer 1", seconds=0)
    with database.transaction() as busy:
        busy.execute(sa.select(candidates.c.id).where(candidates.c.id == ids[0]).with_for_update())
        with database.transaction() as tx:
            assert sum(leases.expire(tx, limit=4).values()) in {3, 4}
        with database.transaction() as tx:
            leases.expire(tx, limit=4)
        assert states(database, number) == {"waiting": 6, "showing": 1}
        assert set(held(database)) == {ids[0]}
    with database.transaction() as tx:
        assert leases.expire(tx) == {"waiting": 1}


def test_sweeps_at_once_hand_back_each_subject_once(database, store):
    number, ids = made(database, store, 40, CandidateState.generating)
    lease(database, ids, seconds=0)
    counts: list[Counter[str]] = []
    barrier = threading.Barrier(4)

    def sweep() -> None:
        barrier.wait()
        with database.transaction() as tx:
            counts.append(leases.expire(tx))

    threads = [threading.Thread(target=sweep) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sum((c for c in counts), Counter()) == {"requested": 40}
    assert states(database, number) == {"requested": 40}


def test_hand_back_is_no_attempt(database, store):
    number, ids = made(database, store, 3, CandidateState.generating)
    with database.transaction() as tx:
        tx.execute(sa.update(candidates).values(attempts=leases.MAX_ATTEMPTS))
    lease(database, ids[:2])
    lease(database, ids[2:], holder="w2")
    with database.transaction() as tx:
        assert leases.release_holder(tx, "w1") == {"requested": 2}
        assert tx.jobs == [Job("generate", (number,))]
        attempts = (
            tx.execute(sa.select(candidates.c.attempts).where(candidates.c.state == "requested"))
            .scalars()
            .all()
        )
    assert attempts == [leases.MAX_ATTEMPTS - 1] * 2
    assert held(database) == {ids[2]: "w2"}


def test_hand_back_work_leaves_reviewers_alone(database, store):
    _, drawing = made(database, store, 2, CandidateState.generating)
    lease(database, drawing)
    number, showing = made(database, store, 1, CandidateState.showing)
    lease(database, showing, "review", "reviewer 1")
    with database.transaction() as tx:
        assert leases.release_workers(tx) == {"requested": 2}
    assert held(database) == {showing[0]: "reviewer 1"}
    assert states(database, number) == {"showing": 1}


@pytest.mark.parametrize("purpose", ["rest", ""])
def test_the_database_knows_the_purposes(database, purpose):
    with pytest.raises(sa.exc.IntegrityError):
        lease(database, [uuid.uuid4()], purpose)
