"""Failures of the store, of a worker or of one candidate: rounds end, and nothing else fails."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from curation.db import workers
from curation.db.tables import candidates
from curation.rounds import work
from tests.support.factories import states
from tests.support.s3_proxy import S3Proxy, s3_proxy
from tests.support.servers import wait_for
from tests.support.worker_processes import WorkerInstance, worker_instance

pytestmark = pytest.mark.slow


@pytest.fixture
def proxy(s3_server) -> Iterator[S3Proxy]:
    with s3_proxy(s3_server.endpoint) as made:
        yield made


@pytest.fixture
def instance(tmp_path: Path, database_address: str, s3_server, proxy) -> Iterator[WorkerInstance]:
    with worker_instance(tmp_path / "i", database_address, s3_server, proxy.endpoint) as made:
        yield made


@pytest.fixture
def local_instance(tmp_path: Path, database_address: str) -> Iterator[WorkerInstance]:
    with worker_instance(tmp_path / "i", database_address) as made:
        yield made


def for_seconds(seconds: float, fault: Callable[[str, int], str | None]):
    """The fault until some seconds after the first request."""
    began: list[float] = []

    def until(method: str, number: int) -> str | None:
        began.append(time.monotonic())
        return fault(method, number) if began[-1] - began[0] < seconds else None

    return until


@pytest.mark.parametrize(
    ("name", "seconds", "fault"),
    [
        ("503", 8, lambda _method, _number: "503"),
        ("resets", 8, lambda _method, round_id: "reset" if round_id % 10 < 3 else None),
        ("errors", 8, lambda _method, round_id: "500" if round_id % 10 < 3 else None),
        (
            "wrong bytes",
            300,
            lambda method, round_id: "wrong" if method == "GET" and round_id % 4 == 0 else None,
        ),
    ],
)
def test_errors_of_the_store_fail_no_candidate(instance, proxy, name, seconds, fault) -> None:
    proxy.fault = for_seconds(seconds, fault)
    instance.start("generate", "screen")
    round_id = instance.open_round(48)
    counts = instance.wait_for_round(round_id)
    assert proxy.faults > 0
    assert "failed" not in counts
    assert sum(counts.values()) == 48


def test_a_worker_reports_that_the_store_is_away(instance, proxy) -> None:
    proxy.fault = lambda method, _number: "503" if method == "GET" else None
    instance.start("generate", "screen")
    round_id = instance.open_round(8)

    def is_reported() -> bool:
        with instance.database.transaction() as tx:
            return any(
                "the object store fails" in (worker.reason or "")
                for worker in workers.list_live_workers(tx)
            )

    wait_for("the reason", is_reported, 90)
    proxy.fault = lambda _method, _number: None
    assert "failed" not in instance.wait_for_round(round_id)


def test_a_worker_that_is_killed_three_times_fails_no_candidate(local_instance) -> None:
    round_id = local_instance.open_round(40)
    for _ in range(3):
        process = local_instance.start("generate", "screen", TEST_SECONDS_EACH="0.1")
        wait_for(
            "the generation",
            lambda: states(local_instance.database, round_id).get("generating", 0) > 0,
            60,
        )
        process.send_signal(signal.SIGKILL)
        process.wait(20)
    local_instance.start("generate", "screen")
    counts = local_instance.wait_for_round(round_id)
    assert "failed" not in counts
    assert sum(counts.values()) == 40


def test_a_candidate_that_kills_its_worker_fails_alone(local_instance) -> None:
    round_id = local_instance.open_round(24)
    with local_instance.database.transaction() as tx:
        seed = tx.scalar(sa.select(candidates.c.seed).order_by(candidates.c.id).offset(7).limit(1))
    deadline = time.monotonic() + 240
    process: subprocess.Popen[bytes] | None = None
    # What a supervisor does.
    while local_instance.left(round_id) and time.monotonic() < deadline:
        if process is None or process.poll() is not None:
            process = local_instance.start("generate", "screen", TEST_POISON=str(seed))
        time.sleep(0.2)
    counts = states(local_instance.database, round_id)
    assert counts.pop("failed") == 1, local_instance.story()
    assert sum(counts.values()) == 23
    with local_instance.database.transaction() as tx:
        [(reason, count)] = work.fail_reasons(tx, round_id).items()
        assert "interrupted" in reason
        assert count == 1


def test_a_worker_that_cannot_load_a_model_fails_no_candidate(local_instance) -> None:
    local_instance.start("generate", TEST_CANNOT_LOAD="1")
    local_instance.wait_for_workers(1)
    round_id = local_instance.open_round(32)

    def paused() -> bool:
        with local_instance.database.transaction() as tx:
            return any(
                worker.state == "paused" and "no graphics card" in (worker.reason or "")
                for worker in workers.list_live_workers(tx)
            )

    wait_for("the pause", paused, 60)
    local_instance.start("generate", "screen")
    counts = local_instance.wait_for_round(round_id)
    assert "failed" not in counts
    assert sum(counts.values()) == 32
    assert set(local_instance.generated().values()) == {1}


def test_several_workers_share_rounds_and_do_nothing_twice(instance, proxy) -> None:
    for _ in range(3):
        instance.start("generate", "screen", TEST_SECONDS_EACH="0.05")
    instance.wait_for_workers(3)
    first, second = instance.open_round(48), instance.open_round(48)
    for round_id in (first, second):
        assert "failed" not in instance.wait_for_round(round_id)
    generated = instance.generated()
    assert (len(generated), set(generated.values())) == (96, {1})
    assert len(list(instance.notes.iterdir())) == 3, "each worker generated some"
    assert (len(proxy.read), set(proxy.read.values())) == (96, {1})


def test_a_worker_drains_within_thirty_seconds(local_instance) -> None:
    process = local_instance.start("generate", TEST_SECONDS_EACH="0.2")
    round_id = local_instance.open_round(64)
    wait_for(
        "the generation",
        lambda: states(local_instance.database, round_id).get("generating", 0) > 0,
        60,
    )
    process.terminate()
    assert process.wait(30) == 0
    counts = states(local_instance.database, round_id)
    assert "generating" not in counts
    assert sum(counts.values()) == 64
    with local_instance.database.transaction() as tx:
        assert tx.scalar(sa.text("select count(*) from leases")) == 0
        assert workers.list_live_workers(tx) == []
