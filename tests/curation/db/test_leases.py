"""Leases expire, are released once, and never block others."""

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
        round_id = make_round(tx)
        return round_id, list(make_candidates(tx, store, round_id, count, state))


def held(database: Database) -> dict[uuid.UUID, str]:
    with database.transaction() as tx:
        return {row.subject: row.holder for row in tx.execute(sa.select(leases_table))}


def test_a_lease_is_claimed_renewed_and_released(database, store):
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


def test_a_claim_takes_over_expired_leases(database, store):
    _, ids = made(database, store, 1, CandidateState.showing)
    lease(database, ids, "generate", "long gone")
    lease(database, ids, "review", "reviewer 1")
    assert held(database) == {ids[0]: "reviewer 1"}


def test_expiry_releases_generating_candidates_and_sends_a_job(database, store):
    round_id, ids = made(database, store, 3, CandidateState.generating)
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
        assert tx.jobs == [Job("generate", (round_id,))]
    assert states(database, round_id) == {"requested": 2, "failed": 1}
    assert held(database) == {}
    with database.transaction() as tx:
        note = tx.scalar(sa.select(candidates.c.note).where(candidates.c.state == "failed"))
    assert note == f"its generation was interrupted {leases.MAX_ATTEMPTS} times"


def test_expiry_releases_shown_candidates_without_a_job(database, store):
    round_id, ids = made(database, store, 2, CandidateState.showing)
    lease(database, ids, "review", "reviewer 1", seconds=0)
    with database.transaction() as tx:
        assert leases.expire(tx) == {"waiting": 2}
        assert tx.jobs == []
    assert states(database, round_id) == {"waiting": 2}


def test_expiry_releases_a_training_run(database):
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


def test_a_lease_of_a_candidate_in_another_state_is_only_deleted(database, store):
    round_id, ids = made(database, store, 1, CandidateState.accepted)
    lease(database, ids, "review", "reviewer 1", seconds=0)
    with database.transaction() as tx:
        assert leases.expire(tx) == Counter()
    assert held(database) == {}
    assert states(database, round_id) == {"accepted": 1}


def test_expiry_works_in_batches_and_skips_locked_rows(database, store):
    round_id, ids = made(database, store, 7, CandidateState.showing)
    lease(database, ids, "review", "reviewer 1", seconds=0)
    with database.transaction() as busy:
        busy.execute(sa.select(candidates.c.id).where(candidates.c.id == ids[0]).with_for_update())
        with database.transaction() as tx:
            assert sum(leases.expire(tx, limit=4).values()) in {3, 4}
        with database.transaction() as tx:
            leases.expire(tx, limit=4)
        assert states(database, round_id) == {"waiting": 6, "showing": 1}
        assert set(held(database)) == {ids[0]}
    with database.transaction() as tx:
        assert leases.expire(tx) == {"waiting": 1}


def test_concurrent_expiries_release_each_subject_once(database, store):
    round_id, ids = made(database, store, 40, CandidateState.generating)
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
    assert states(database, round_id) == {"requested": 40}


def test_a_release_does_not_count_as_an_attempt(database, store):
    round_id, ids = made(database, store, 3, CandidateState.generating)
    with database.transaction() as tx:
        tx.execute(sa.update(candidates).values(attempts=leases.MAX_ATTEMPTS))
    lease(database, ids[:2])
    lease(database, ids[2:], holder="w2")
    with database.transaction() as tx:
        assert leases.release_holder(tx, "w1") == {"requested": 2}
        assert tx.jobs == [Job("generate", (round_id,))]
        attempts = (
            tx.execute(sa.select(candidates.c.attempts).where(candidates.c.state == "requested"))
            .scalars()
            .all()
        )
    assert attempts == [leases.MAX_ATTEMPTS - 1] * 2
    assert held(database) == {ids[2]: "w2"}


def test_releasing_a_workers_leases_keeps_those_of_reviewers(database, store):
    _, drawing = made(database, store, 2, CandidateState.generating)
    lease(database, drawing)
    round_id, showing = made(database, store, 1, CandidateState.showing)
    lease(database, showing, "review", "reviewer 1")
    with database.transaction() as tx:
        assert leases.release_workers(tx) == {"requested": 2}
    assert held(database) == {showing[0]: "reviewer 1"}
    assert states(database, round_id) == {"showing": 1}


@pytest.mark.parametrize("purpose", ["rest", ""])
def test_the_database_accepts_the_purposes_of_leases_only(database, purpose):
    with pytest.raises(sa.exc.IntegrityError):
        lease(database, [uuid.uuid4()], purpose)
