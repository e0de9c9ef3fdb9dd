"""Generation and screening as jobs: claims, failures of the store that are no attempts, and retries."""

from __future__ import annotations

import errno
import json
import threading
from pathlib import Path

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from curation import jobs
from curation.adapters.celery_queue import CeleryQueue, make_app
from curation.cli.main import app
from curation.db import leases, workers
from curation.db.engine import Database
from curation.db.tables import candidate_layers, candidates
from curation.db.workers import WorkerProcess, WorkerState
from curation.domain import CandidateState, Prompt
from curation.errors import Unreachable
from curation.jobs import uploads
from curation.jobs.trouble import InstanceTrouble, breakers
from curation.object_store import FolderStore
from curation.reporting import round_report
from curation.rounds import lifecycle, work
from curation.runtime.context import AppContext
from curation.screening import candidates as measuring
from curation.screening.claims import claim_generated
from tests.support.factories import make_candidates, make_checkpoint, make_round, states


class FailingStore(FolderStore):
    """A store that raises a given error in every n-th call."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.error: BaseException | None = None
        self.every = 1
        self.calls = 0
        self.read: list[str] = []
        self.lock = threading.Lock()

    def _fail(self) -> None:
        with self.lock:
            self.calls += 1
            failing = self.error is not None and self.calls % self.every == 0
        if failing and self.error is not None:
            raise self.error

    def put(self, source: bytes | Path) -> str:
        self._fail()
        return super().put(source)

    def get(self, sha256: str) -> bytes:
        self._fail()
        self.read.append(sha256)
        return super().get(sha256)


@pytest.fixture(autouse=True)
def closed_breakers():
    yield
    for breaker in breakers.values():
        breaker.succeed()


@pytest.fixture
def context(settings, database, tmp_path, monkeypatch) -> AppContext:
    monkeypatch.setattr(uploads, "UPLOAD_PATIENCE_SECONDS", 0.2)
    named = {"generator": "tests.support.sleeping_generator:load"}
    settings = settings.model_copy(update=named)
    queue = CeleryQueue(make_app(settings, settings.database))
    return AppContext(settings, database, FailingStore(tmp_path / "objects"), queue)


def open_round(context: AppContext, quota: int, priority: int = 0) -> int:
    with context.database.transaction() as tx:
        return lifecycle.open_round(
            tx,
            checkpoint=make_checkpoint(tx, f"{quota} {priority}"),
            prompt_list=[Prompt("x")],
            quota=quota,
            actor="test",
            priority=priority,
        )


def attempts(database: Database) -> set[int]:
    with database.transaction() as tx:
        return set(tx.execute(sa.select(candidates.c.attempts)).scalars())


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        Unreachable("the object store fails: 503"),
        ConnectionResetError("reset"),
    ],
)
def test_an_unreachable_store_costs_no_attempt(context, error) -> None:
    round_id = open_round(context, 20)
    context.store.error = error
    for _ in range(2 * leases.MAX_ATTEMPTS):
        with pytest.raises(InstanceTrouble, match="could not be stored"):
            jobs.generate(context, round_id)
    assert states(context.database, round_id) == {"requested": 20}
    assert attempts(context.database) == {0}
    context.store.error = None
    jobs.generate(context, round_id)
    assert states(context.database, round_id) == {"generated": 20}


def test_one_failed_put_does_not_discard_the_others(context) -> None:
    round_id = open_round(context, 16)
    context.store.error, context.store.every = OSError(errno.ENOSPC, "full"), 1
    lost: list[str] = []
    put = context.store.put

    def put_most(source):
        if len(lost) < 3 or source in lost:
            lost.append(source)
            raise OSError(errno.ENOSPC, "full")
        return FolderStore.put(context.store, source)

    object.__setattr__(context.store, "put", put_most)
    with pytest.raises(InstanceTrouble, match="3 of 16"):
        jobs.generate(context, round_id)
    object.__setattr__(context.store, "put", put)
    assert states(context.database, round_id) == {"generated": 13, "requested": 3}
    assert attempts(context.database) == {0}


def test_screening_reads_no_object_in_a_transaction_and_each_once(context) -> None:
    with context.database.transaction() as tx:
        round_id = make_round(tx)
        make_candidates(tx, context.store, round_id, 70, CandidateState.generated)
    jobs.screen(context, round_id)
    assert "generated" not in states(context.database, round_id)
    assert len(context.store.read) == len(set(context.store.read)) == 70
    with context.database.transaction() as tx:
        assert tx.scalar(sa.text("select count(*) from leases")) == 0


def test_the_guard_finds_a_read_in_a_transaction(context, monkeypatch) -> None:
    """The guard of all tests: a store that is read in a transaction fails the test."""
    with context.database.transaction() as tx:
        [candidate_id] = make_candidates(
            tx, context.store, make_round(tx), 1, CandidateState.generated
        )

    def find_and_read(tx, ids, *rest):
        found = find_measurable(tx, ids, *rest)
        FolderStore.get(context.store, found[0].objects[0])
        return found

    find_measurable = measuring.find_measurable
    monkeypatch.setattr(jobs.screening, "find_measurable", find_and_read)
    with context.database.transaction() as tx:
        round_id = tx.scalar(
            sa.select(candidates.c.round_id).where(candidates.c.id == candidate_id)
        )
    with pytest.raises(AssertionError, match="in a transaction"):
        jobs.screen(context, round_id)


def test_several_workers_never_claim_the_same_to_screen(context) -> None:
    with context.database.transaction() as tx:
        round_id = make_round(tx)
        make_candidates(tx, context.store, round_id, 60, CandidateState.generated)
    claimed: list[object] = []
    barrier = threading.Barrier(6)

    def claim(name: str) -> None:
        barrier.wait()
        for _ in range(3):
            with context.database.transaction() as tx:
                claimed.extend(claim_generated(tx, round_id, name, 10, 60))

    threads = [threading.Thread(target=claim, args=(f"worker {n}",)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(claimed) == len(set(claimed)) == 60


def test_an_unreachable_store_fails_no_screening(context) -> None:
    with context.database.transaction() as tx:
        round_id = make_round(tx)
        make_candidates(tx, context.store, round_id, 8, CandidateState.generated)
    context.store.error = Unreachable("the object store fails: 503")
    for _ in range(2 * leases.MAX_ATTEMPTS):
        with pytest.raises(InstanceTrouble, match="could not be read"):
            jobs.screen(context, round_id)
    assert states(context.database, round_id) == {"generated": 8}
    context.store.error = None
    jobs.screen(context, round_id)
    assert not {"generated", "failed"} & set(states(context.database, round_id))


def test_a_layer_that_is_gone_fails_after_some_attempts_and_is_retried(context) -> None:
    with context.database.transaction() as tx:
        round_id = make_round(tx)
        make_candidates(tx, context.store, round_id, 1, CandidateState.generated)
        sha = tx.scalar(sa.select(candidate_layers.c.sha256))
    path = context.store.folder / sha[:2] / sha[2:]
    data = path.read_bytes()
    path.unlink()
    for _ in range(leases.MAX_ATTEMPTS):
        assert states(context.database, round_id) == {"generated": 1}
        with pytest.raises(InstanceTrouble):
            jobs.screen(context, round_id)
    assert states(context.database, round_id) == {"failed": 1}
    with context.database.transaction() as tx:
        assert work.fail_reasons(tx, round_id) == {"no object ...": 1}
        text = round_report.as_text(round_report.round_report(tx, round_id))
    assert "no object ...: 1" in text or "no object ..." in text
    assert f"layerloop round retry {round_id}" in text
    path.write_bytes(data)
    environment = {
        "LAYERLOOP_DATABASE": context.settings.database,
        "LAYERLOOP_HOME": str(context.settings.home),
    }
    ran = CliRunner().invoke(app, ["round", "retry", str(round_id), "--json"], env=environment)
    assert json.loads(ran.stdout)["reasons"] == {"no object ...": 1}
    assert states(context.database, round_id) == {"generated": 1}
    jobs.screen(context, round_id)
    assert states(context.database, round_id).keys() <= {"refused", "waiting", "screened"}


def test_rounds_of_a_higher_priority_come_first_and_equal_ones_in_turn(context) -> None:
    low, high, other = open_round(context, 2), open_round(context, 3, 5), open_round(context, 4)
    with context.database.transaction() as tx:
        assert {work.next_to_generate(tx).round_id for _ in range(5)} == {high}
        work.set_priority(tx, high, 0, "test")
        assert {work.next_to_generate(tx).round_id for _ in range(60)} == {low, high, other}
        work.set_priority(tx, low, 1, "test")
    jobs.generate(context, other)  # a priority overrules the round of the message
    assert states(context.database, low) == {"generated": 2}
    assert states(context.database, other) == {"requested": 4}


@pytest.mark.parametrize(
    ("sharing", "left", "size"), [(1, 3, 16), (4, 200, 16), (4, 20, 3), (8, 1, 1)]
)
def test_the_last_batches_of_a_round_are_small(context, sharing, left, size) -> None:
    round_id = open_round(context, left)
    with context.database.transaction() as tx:
        for name in range(sharing):
            idle = WorkerProcess(str(name), "host", 1, ["generate"], "1", WorkerState.idle)
            workers.record_worker(tx, idle)
        assert work.shared_batch(tx, round_id, "generate", 16) == size


def test_pauses_are_logged_once_and_without_details(context) -> None:
    with context.database.transaction() as tx:
        for name, seconds in (("a", 3), ("b", 19)):
            reason = f"screen pauses for {seconds} s: the object store fails: 503 at http://host"
            workers.record_worker(
                tx,
                WorkerProcess(name, "host", 1, ["screen"], "1", WorkerState.paused, reason=reason),
            )
        assert workers.list_pauses(tx) == ["screen pauses: the object store fails"]


def test_a_breaker_pauses_longer_each_time_and_ends_with_a_success() -> None:
    breaker = breakers["train"]
    pauses = [breaker.fail(Unreachable("away")) for _ in range(8)]
    assert breaker.is_open
    assert pauses[0] < 2 < pauses[4] <= 25
    assert max(pauses) <= 25
    breaker.succeed()
    assert not breaker.is_open
    assert not breaker.is_probing
