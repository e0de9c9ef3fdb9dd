"""The status of the instance for people and for Prometheus, from the same queries."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable

import pytest
import sqlalchemy as sa
from prometheus_client.parser import text_string_to_metric_families
from typer.testing import CliRunner

from curation.cli.main import app
from curation.db import leases, workers
from curation.db.engine import Database
from curation.db.tables import caption_runs, pending_jobs
from curation.db.workers import WorkerProcess, WorkerState
from curation.domain import CandidateState
from curation.object_store import FolderStore
from curation.reporting.instance_status import read_status
from curation.runtime.instance_metrics import instance_registry
from curation.runtime.metrics import render_metrics
from curation.settings import Settings
from tests.support.factories import make_candidates, make_round
from tests.support.servers import free_port


@pytest.fixture
def busy(database: Database, store: FolderStore) -> int:
    """Fill an instance with work and problems; return its round."""
    with database.transaction() as tx:
        round_id = make_round(tx)
        waiting = make_candidates(tx, store, round_id, 3, CandidateState.waiting)
        make_candidates(tx, store, make_round(tx), 2, CandidateState.failed)
        leases.claim(tx, waiting[:1], "review", "ada", 60)
        for name, state, reason in (
            ("one", WorkerState.busy, None),
            ("two", WorkerState.paused, "cannot load the weights"),
        ):
            worker = WorkerProcess(name, "host", 7, ["gpu"], "0.1.0", state, reason, "generate 1")
            workers.record_worker(tx, worker)
        tx.execute(sa.insert(pending_jobs), {"name": "screen", "args": "[1]"})
        tx.execute(sa.text("update pending_jobs set created_at = now() - interval '90 seconds'"))
        run = {"id": uuid.uuid4(), "model": "a/captioner", "prompt": "", "background": 128}
        run |= {"max_tokens": 20, "recaption": False, "max_samples": 5, "state": "failed"}
        tx.execute(
            sa.insert(caption_runs).values(
                run | {"error": "no memory", "finished_at": sa.func.now()}
            )
        )
    return round_id


def test_the_status_lists_work_and_problems(database: Database, busy: int) -> None:
    with database.transaction() as tx:
        found = read_status(tx)
    states = {row.round_id: dict(row.candidates) for row in found.rounds}
    assert states == {busy: {"waiting": 3}, busy + 1: {"failed": 2}}
    assert [(queue.job, queue.count) for queue in found.queues] == [("screen", 1)]
    assert 90 <= found.queues[0].oldest_seconds < 120
    assert found.leases == {"review": 1}
    assert [worker.id for worker in found.workers] == ["one", "two"]
    text = "\n".join(found.trouble)
    assert "worker two is paused: cannot load the weights" in text
    assert f"round {busy + 1}: 2 candidates failed" in text
    assert "failed: no memory" in text
    assert found.labeling_lag_seconds is None


def test_closed_rounds_are_not_read(database: Database, busy: int) -> None:
    with database.transaction() as tx:
        tx.execute(sa.text("update rounds set state = 'closed', closed_at = now()"))
        assert read_status(tx).rounds == []


def samples(text: bytes) -> dict[tuple[str, ...], float]:
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def test_the_prometheus_metrics_have_the_same_numbers(database: Database, busy: int) -> None:
    found = samples(render_metrics([instance_registry(database)]))
    assert found["layerloop_database_up",] == 1
    assert found["layerloop_queue_jobs", "screen"] == 1
    assert found["layerloop_queue_oldest_seconds", "screen"] >= 90
    assert found["layerloop_round_candidates", str(busy), "waiting"] == 3
    assert found["layerloop_leases", "review"] == 1
    assert found["layerloop_candidates_generated_total",] == 5
    assert found["layerloop_candidates_screened_total",] == 5
    assert found["layerloop_reviews_total",] == 0
    assert found["layerloop_workers", "gpu", "paused"] == 1
    assert found["layerloop_runs", "caption", "failed"] == 1


def test_the_metrics_report_a_missing_database() -> None:
    nowhere = Database(f"postgresql://nobody@127.0.0.1:{free_port()}/x")
    found = samples(render_metrics([instance_registry(nowhere)]))
    assert found["layerloop_database_up",] == 0
    assert not [name for name, *_ in found if name.startswith("layerloop_queue")]


@pytest.fixture
def call(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Run a command in this test's instance, and return its output."""
    for name, value in settings.environment().items():
        if name.startswith("LAYERLOOP_") and "_TEST_" not in name:
            monkeypatch.setenv(name, value)

    def run_command(*words: str) -> str:
        result = CliRunner().invoke(app, words, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.stdout

    return run_command


def test_the_commands_show_the_status(call: Callable[..., str], busy: int) -> None:
    found = json.loads(call("status", "--json"))
    assert found["rounds"][0]["candidates"] == {"waiting": 3}
    text = call("status")
    assert "cannot load the weights" in text
    assert "screen" in text
    listed = json.loads(call("worker", "list", "--json"))
    assert [(row["id"], row["state"]) for row in listed] == [("one", "busy"), ("two", "paused")]
    assert "generate 1" in call("worker", "list")


def test_an_empty_instance_has_no_problems(call: Callable[..., str]) -> None:
    assert "no trouble" in call("status")
    assert json.loads(call("worker", "list", "--json")) == []
