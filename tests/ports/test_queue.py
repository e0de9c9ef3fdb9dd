"""The contract of the queue on every broker: a nudge comes soon, only after its commit, and its loss harms nobody."""

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
from curation.settings import EMBEDDED, Settings
from tests.support.factories import fresh_database, named
from tests.support.servers import free_port, own_rabbitmq, wait_for

WORKER = Path(__file__).with_name("queue_worker.py")


@dataclass
class Line:
    """A broker, a sender to it, and workers at its other end."""

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

    def noted(self, line: str) -> bool:
        return line in self.lines()

    def lines(self) -> list[str]:
        return self.notes.read_text().splitlines() if self.notes.exists() else []

    def wait_for(self, line: str, seconds: float = 30) -> None:
        try:
            wait_for(repr(line), lambda: self.noted(line), seconds)
        except AssertionError:
            raise AssertionError(self.notes.with_suffix(".log").read_text()[-3_000:]) from None


@pytest.fixture(scope="module", params=["pgmq", "rabbitmq", "redis"])
def line(
    request: pytest.FixtureRequest,
    postgres_address: str,
    template_database: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Line]:
    """One broker, and a name of this run's own in it, so that runs side by side take nothing from each other."""
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
        address = named(postgres_address, name)
        app = make_app(settings, address)
        queue = CeleryQueue(app)
        yield Line(settings, address, prefix, queue, tmp_path_factory.mktemp("queue") / "notes")
        with app.connection_for_write() as connection:
            for one in app.amqp.queues.values():
                one.bind(connection.default_channel).delete()
        queue.close()


@pytest.fixture(scope="module")
def worker(line: Line) -> Iterator[subprocess.Popen[bytes]]:
    """Yield a worker for the CPU's jobs that lives through the tests which do it no harm."""
    process = line.start_worker()
    yield process
    assert process.poll() is None, "the worker died on the way"
    process.terminate()
    assert process.wait(20) == 0


def test_a_job_is_run_by_a_worker_soon(line, worker):
    line.wait_for(f"screen {line.send('screen')}")  # the first waits for the worker to come up
    started = time.monotonic()
    line.wait_for(f"screen {line.send('screen')}", 5)
    assert time.monotonic() - started < 2


def test_a_job_leaves_after_its_commit_and_never_after_a_rollback(line, worker):
    database = Database(line.database_address, send=line.queue.send)
    kept, lost = uuid.uuid4().hex, uuid.uuid4().hex

    def half() -> None:
        with database.transaction() as tx:
            tx.enqueue("screen", lost)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        half()
    with database.transaction() as tx:
        tx.enqueue("screen", kept)
        tx.enqueue("screen", kept)  # asked for twice in one transaction, sent once
        time.sleep(0.5)
        assert not line.noted(f"screen {kept}")
    line.wait_for(f"screen {kept}")
    line.wait_for(
        f"screen {line.send('screen')}"
    )  # what was sent later has come, so nothing else is under way
    assert line.lines().count(f"screen {kept}") == 1
    assert not line.noted(f"screen {lost}")
    database.close()


def test_a_job_that_fails_does_not_end_the_worker(line, worker):
    token = line.send("fail")
    line.wait_for(f"fail {token}")
    line.wait_for(f"screen {line.send('screen')}")
    assert line.lines().count(f"fail {token}") == 1, (
        "a message is not repeated: workers look for work in the database"
    )


def test_a_job_nobody_knows_is_let_go(line, worker):
    line.send("no_such_job")
    line.wait_for(f"screen {line.send('screen')}")


def test_a_pickled_message_is_never_opened(line, worker, tmp_path):
    line.wait_for(f"screen {line.send('screen')}")
    trap = tmp_path / "sprung"

    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(trap),)

    with line.queue.app.connection_for_write() as connection:
        queue = line.queue.app.amqp.queues["screen"]
        connection.Producer().publish(
            pickle.dumps(Trap()), exchange=queue.exchange, routing_key=queue.routing_key, declare=[queue],
            content_type="application/x-python-serialize", content_encoding="binary",
            headers={"task": "layerloop.screen", "id": "1"},
        )  # fmt: skip
    line.wait_for(f"screen {line.send('screen')}")
    assert not trap.exists()


def test_jobs_that_load_weights_wait_for_a_worker_of_the_gpu(line, worker):
    token = line.send("generate")
    line.wait_for(f"screen {line.send('screen')}")
    assert not line.noted(f"generate {token}")
    other = line.start_worker("gpu")
    line.wait_for(f"generate {token}")  # sent before the worker was there: the broker kept it
    other.terminate()
    assert other.wait(20) == 0
    assert {job for jobs in QUEUE_JOBS.values() for job in jobs} == set(JobName)
    kinds = [queue_for(job) for job in JobName]
    assert (
        set(kinds)
        == set(expand_queues(["cpu", "gpu"]))
        == {"generate", "train", "screen", "review"}
    )
    assert expand_queues(["train", "gpu"]) == ("generate", "train")
    with pytest.raises(Refused, match="tpu"):
        expand_queues(["tpu"])


def test_a_worker_asked_to_stop_ends_its_job_and_says_so(line):
    process = line.start_worker("gpu")
    token = line.send("train")
    line.wait_for(f"begin {token}")
    process.terminate()
    assert process.wait(20) == 0
    lines = line.lines()
    begun = lines.index(f"begin {token}")
    assert lines[begun : begun + 3] == [f"begin {token}", "stopping", f"end {token}"]


def test_a_killed_worker_loses_a_nudge_at_most_and_asking_again_is_enough(line):
    process = line.start_worker("gpu")
    token = line.send("train")
    line.wait_for(f"begin {token}")
    process.send_signal(signal.SIGKILL)
    process.wait(20)
    waiting = line.send("generate")  # nobody is there to take it
    process = line.start_worker("gpu")
    line.send("train", token)  # as the sweep does, when the lease of the dead one has run out
    line.wait_for(f"end {token}")
    line.wait_for(f"generate {waiting}", 45)
    process.terminate()
    assert process.wait(20) == 0


@pytest.mark.slow
@pytest.mark.parametrize("broker", ["pgmq", "rabbitmq", "redis"])
def test_a_job_longer_than_the_time_out_of_the_broker_runs_once(
    broker, request, postgres_address, template_database, tmp_path
):
    """RabbitMQ closes a channel that holds a message for 2 s here; the others deliver it again after 2 s."""
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
        settings, database_address = Settings(queue=address), named(postgres_address, name)
        queue = CeleryQueue(make_app(settings, database_address))
        stack.callback(queue.close)
        line = Line(settings, database_address, prefix, queue, tmp_path / "notes")
        worker = line.start_worker("gpu", TEST_TRAIN_SECONDS="8", TEST_VISIBILITY="2")
        try:
            first = line.send("train")
            line.wait_for(f"begin {first}", 60)
            # These would be fetched ahead, and held for as long as the job runs.
            others = [line.send("generate") for _ in range(3)]
            line.wait_for(f"end {first}", 30)
            for token in others:
                line.wait_for(f"generate {token}", 30)
            assert worker.poll() is None
            for note in (f"begin {first}", *(f"generate {token}" for token in others)):
                assert line.lines().count(note) == 1
            log = line.notes.with_suffix(".log").read_text()
            assert "PRECONDITION" not in log
            assert "does not answer" not in log
        finally:
            worker.terminate()
            worker.wait(30)


@pytest.mark.parametrize("scheme", ["pgmq", "amqp", "redis"])
def test_a_broker_that_is_away_costs_a_transaction_nothing(scheme, database, caplog):
    port = free_port()
    broker = EMBEDDED if scheme == "pgmq" else f"{scheme}://127.0.0.1:{port}//"
    queue = CeleryQueue(
        make_app(Settings(queue=broker), f"postgresql://postgres@127.0.0.1:{port}/layerloop")
    )
    database.send = queue.send
    started = time.monotonic()
    for number in range(50):
        with database.transaction() as tx:
            tx.log("test", "asked", number)
            tx.enqueue("screen", number)
    assert time.monotonic() - started < 15, (
        "fifty transactions wait for one time-out, not for fifty"
    )
    with database.transaction() as tx:
        assert tx.connection.exec_driver_sql("select count(*) from events").scalar() == 50
    assert "waits for an idle worker" in caplog.text
    queue.close()


@pytest.mark.slow
def test_sender_and_worker_live_on_when_the_database_was_killed(postgres_folder, tmp_path):
    address = embedded_postgres.start_server(postgres_folder)
    settings = Settings(queue=EMBEDDED)
    queue = CeleryQueue(make_app(settings, address))
    line = Line(settings, address, celery_queue.PREFIX, queue, tmp_path / "notes")
    worker = line.start_worker()
    try:
        line.wait_for(f"screen {line.send('screen')}")
        os.kill(
            int((postgres_folder / "data" / "postmaster.pid").read_text().split()[0]),
            signal.SIGKILL,
        )
        line.send("screen")  # may be lost
        assert embedded_postgres.start_server(postgres_folder) == address
        time.sleep(celery_queue.BACKOFF_SECONDS)
        line.wait_for(f"screen {line.send('screen')}")
        assert worker.poll() is None
    finally:
        worker.terminate()
        worker.wait(30)
        queue.close()


def test_an_address_of_another_kind_is_refused_with_a_hint():
    with pytest.raises(Refused, match="sqs") as error:
        make_app(Settings(queue="sqs://somewhere"), "postgresql://x/y")
    assert "LAYERLOOP_QUEUE" in error.value.hint
