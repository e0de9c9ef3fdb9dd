"""The contract of queues: messages arrive soon, only after their commit, and may be lost."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from curation.adapters import celery_queue, embedded_postgres
from curation.adapters.celery_queue import (
    QUEUE_JOBS,
    CeleryQueue,
    expand_queues,
    make_app,
    queue_for,
)
from curation.db.engine import Database
from curation.domain import Job, JobName
from curation.errors import Refused
from curation.settings import Settings
from curation.storage_settings import EMBEDDED
from tests.support.factories import fresh_database, with_database
from tests.support.servers import free_port, own_rabbitmq, wait_for

WORKER = Path(__file__).with_name("queue_worker.py")


@dataclass
class QueueCase:
    """A queue on one broker, and the workers that receive from it."""

    settings: Settings
    database_address: str
    prefix: str
    queue: CeleryQueue
    notes: Path

    def start_worker(self, queue: str = "cpu", **environment: str) -> subprocess.Popen[bytes]:
        with self.notes.with_suffix(".log").open("ab") as log:
            command = [
                sys.executable,
                WORKER,
                self.settings.queue,
                self.database_address,
                self.prefix,
                queue,
                self.notes,
            ]
            return subprocess.Popen(
                [str(part) for part in command],
                stdout=log,
                stderr=log,
                env=os.environ | environment,
            )

    def send(self, job: str, token: str | None = None) -> str:
        token = token or uuid.uuid4().hex
        self.queue.send(Job(job, (token,)))
        return token

    def has_note(self, note: str) -> bool:
        return note in self.read_notes()

    def read_notes(self) -> list[str]:
        return self.notes.read_text().splitlines() if self.notes.exists() else []

    def wait_for(self, note: str, seconds: float = 30) -> None:
        try:
            wait_for(repr(note), lambda: self.has_note(note), seconds)
        except AssertionError:
            raise AssertionError(self.notes.with_suffix(".log").read_text()[-3_000:]) from None


@pytest.fixture(scope="module", params=["pgmq", "rabbitmq", "redis"])
def case(
    request: pytest.FixtureRequest,
    postgres_address: str,
    template_database: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[QueueCase]:
    """Yield a queue on one broker, under a prefix of its own, so that parallel runs do not mix."""
    broker = (
        EMBEDDED if request.param == "pgmq" else request.getfixturevalue(f"{request.param}_address")
    )
    prefix = f"test_{uuid.uuid4().hex[:8]}."
    settings = Settings(queue=broker)
    with (
        fresh_database(postgres_address, template_database) as name,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(celery_queue, "PREFIX", prefix)
        address = with_database(postgres_address, name)
        app = make_app(settings, address)
        queue = CeleryQueue(app)
        yield QueueCase(
            settings, address, prefix, queue, tmp_path_factory.mktemp("queue") / "notes"
        )
        with app.connection_for_write() as connection:
            for broker_queue in app.amqp.queues.values():
                broker_queue.bind(connection.default_channel).delete()
        queue.close()


@pytest.fixture(scope="module")
def worker(case: QueueCase) -> Iterator[subprocess.Popen[bytes]]:
    """Yield a worker for CPU jobs, shared by the tests that do not stop it."""
    process = case.start_worker()
    yield process
    assert process.poll() is None, "the worker died during the tests"
    process.terminate()
    assert process.wait(20) == 0


def test_a_job_is_run_by_a_worker_soon(case, worker):
    case.wait_for(f"screen {case.send('screen')}")  # the first job waits for the worker to start
    started = time.monotonic()
    case.wait_for(f"screen {case.send('screen')}", 5)
    assert time.monotonic() - started < 2


def test_a_job_is_sent_after_its_commit_and_never_after_a_rollback(case, worker):
    database = Database(case.database_address, send=case.queue.send)
    committed, rolled_back = uuid.uuid4().hex, uuid.uuid4().hex

    def roll_back() -> None:
        with database.transaction() as tx:
            tx.enqueue("screen", rolled_back)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        roll_back()
    with database.transaction() as tx:
        tx.enqueue("screen", committed)
        tx.enqueue("screen", committed)  # enqueued twice in one transaction, sent once
        time.sleep(0.5)
        assert not case.has_note(f"screen {committed}")
    case.wait_for(f"screen {committed}")
    case.wait_for(
        f"screen {case.send('screen')}"
    )  # a later message has arrived, so no earlier one is pending
    assert case.read_notes().count(f"screen {committed}") == 1
    assert not case.has_note(f"screen {rolled_back}")
    database.close()


def test_a_job_that_fails_does_not_end_the_worker(case, worker):
    token = case.send("fail")
    case.wait_for(f"fail {token}")
    case.wait_for(f"screen {case.send('screen')}")
    assert case.read_notes().count(f"fail {token}") == 1, (
        "a message is not repeated: workers look for work in the database"
    )


def test_an_unknown_job_is_ignored(case, worker):
    case.send("no_such_job")
    case.wait_for(f"screen {case.send('screen')}")


def test_a_pickled_message_is_never_unpickled(case, worker, tmp_path):
    case.wait_for(f"screen {case.send('screen')}")
    marker = tmp_path / "unpickled"

    class CreatesFolder:
        def __reduce__(self):
            return os.mkdir, (str(marker),)

    with case.queue.app.connection_for_write() as connection:
        queue = case.queue.app.amqp.queues["screen"]
        connection.Producer().publish(
            pickle.dumps(CreatesFolder()), exchange=queue.exchange, routing_key=queue.routing_key, declare=[queue],
            content_type="application/x-python-serialize", content_encoding="binary",
            headers={"task": "layerloop.screen", "id": "1"},
        )  # fmt: skip
    case.wait_for(f"screen {case.send('screen')}")
    assert not marker.exists()


def test_jobs_that_load_weights_wait_for_a_gpu_worker(case, worker):
    token = case.send("generate")
    case.wait_for(f"screen {case.send('screen')}")
    assert not case.has_note(f"generate {token}")
    gpu_worker = case.start_worker("gpu")
    case.wait_for(f"generate {token}")  # sent before the worker started: the broker kept it
    gpu_worker.terminate()
    assert gpu_worker.wait(20) == 0
    assert {job for jobs in QUEUE_JOBS.values() for job in jobs} == set(JobName)
    queues = [queue_for(job) for job in JobName]
    assert (
        set(queues)
        == set(expand_queues(["cpu", "gpu"]))
        == {"generate", "train", "screen", "review"}
    )
    assert expand_queues(["train", "gpu"]) == ("generate", "train")
    with pytest.raises(Refused, match="tpu"):
        expand_queues(["tpu"])


def test_sigterm_stops_a_worker_after_its_job(case):
    process = case.start_worker("gpu")
    token = case.send("train")
    case.wait_for(f"begin {token}")
    process.terminate()
    assert process.wait(20) == 0
    lines = case.read_notes()
    begun = lines.index(f"begin {token}")
    assert lines[begun : begun + 3] == [f"begin {token}", "stopping", f"end {token}"]


def test_a_job_of_a_killed_worker_runs_when_it_is_sent_again(case):
    process = case.start_worker("gpu")
    token = case.send("train")
    case.wait_for(f"begin {token}")
    process.send_signal(signal.SIGKILL)
    process.wait(20)
    pending = case.send("generate")  # no worker is running
    process = case.start_worker("gpu")
    case.send("train", token)  # as reconciliation does after the lease of the killed worker
    case.wait_for(f"end {token}")
    case.wait_for(f"generate {pending}", 45)
    process.terminate()
    assert process.wait(20) == 0


@pytest.mark.slow
@pytest.mark.parametrize("broker", ["pgmq", "rabbitmq", "redis"])
def test_a_job_longer_than_the_timeout_of_the_broker_runs_once(
    broker, request, postgres_address, template_database, tmp_path
):
    """RabbitMQ here closes a channel after 2 s without ack; the others redeliver after 2 s."""
    with ExitStack() as stack:
        if broker == "rabbitmq":
            (tmp_path / "broker").mkdir()
            limits = "{consumer_timeout, 2000}, {channel_tick_interval, 500}"
            address = stack.enter_context(own_rabbitmq(tmp_path / "broker", limits))
        else:
            address = EMBEDDED if broker == "pgmq" else request.getfixturevalue("redis_address")
        name = stack.enter_context(fresh_database(postgres_address, template_database))
        prefix = f"test_{uuid.uuid4().hex[:8]}."
        stack.enter_context(pytest.MonkeyPatch.context()).setattr(celery_queue, "PREFIX", prefix)
        settings, database_address = Settings(queue=address), with_database(postgres_address, name)
        queue = CeleryQueue(make_app(settings, database_address))
        stack.callback(queue.close)
        case = QueueCase(settings, database_address, prefix, queue, tmp_path / "notes")
        worker = case.start_worker("gpu", TEST_TRAIN_SECONDS="8", TEST_VISIBILITY="2")
        try:
            first = case.send("train")
            case.wait_for(f"begin {first}", 60)
            # With a prefetch, the worker would hold these as long as the job runs.
            others = [case.send("generate") for _ in range(3)]
            case.wait_for(f"end {first}", 30)
            for token in others:
                case.wait_for(f"generate {token}", 30)
            assert worker.poll() is None
            for note in (f"begin {first}", *(f"generate {token}" for token in others)):
                assert case.read_notes().count(note) == 1
            log = case.notes.with_suffix(".log").read_text()
            assert "PRECONDITION" not in log
            assert "does not answer" not in log
        finally:
            worker.terminate()
            worker.wait(30)


@pytest.mark.parametrize("scheme", ["pgmq", "amqp", "redis"])
def test_transactions_commit_while_the_broker_is_down(scheme, database, caplog):
    port = free_port()
    broker = EMBEDDED if scheme == "pgmq" else f"{scheme}://127.0.0.1:{port}//"
    queue = CeleryQueue(
        make_app(Settings(queue=broker), f"postgresql://postgres@127.0.0.1:{port}/layerloop")
    )
    database.send = queue.send
    started = time.monotonic()
    for index in range(50):
        with database.transaction() as tx:
            tx.log("test", "enqueued", index)
            tx.enqueue("screen", index)
    assert time.monotonic() - started < 15, "fifty transactions wait for one timeout, not for fifty"
    with database.transaction() as tx:
        assert tx.connection.exec_driver_sql("select count(*) from events").scalar() == 50
    assert "waits for an idle worker" in caplog.text
    queue.close()


@pytest.mark.slow
def test_sender_and_worker_survive_a_killed_database(postgres_folder, tmp_path):
    address = embedded_postgres.start_server(postgres_folder)
    settings = Settings(queue=EMBEDDED)
    queue = CeleryQueue(make_app(settings, address))
    case = QueueCase(settings, address, celery_queue.PREFIX, queue, tmp_path / "notes")
    worker = case.start_worker()
    try:
        case.wait_for(f"screen {case.send('screen')}")
        os.kill(
            int((postgres_folder / "data" / "postmaster.pid").read_text().split()[0]),
            signal.SIGKILL,
        )
        case.send("screen")  # may be lost
        assert embedded_postgres.start_server(postgres_folder) == address
        time.sleep(celery_queue.BACKOFF_SECONDS)
        case.wait_for(f"screen {case.send('screen')}")
        assert worker.poll() is None
    finally:
        worker.terminate()
        worker.wait(30)
        queue.close()


def test_an_unsupported_broker_is_refused_with_a_hint():
    with pytest.raises(Refused, match="sqs") as error:
        make_app(Settings(queue="sqs://somewhere"), "postgresql://x/y")
    assert "LAYERLOOP_QUEUE" in error.value.hint
