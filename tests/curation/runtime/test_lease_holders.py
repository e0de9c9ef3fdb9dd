"""Lease holders on one machine: alive while their process is, dead at once when it was killed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa

from curation import jobs
from curation.checkpoints import registry
from curation.cli.runs import run_or_follow
from curation.db import leases
from curation.db.engine import Database
from curation.db.tables import leases as leases_table
from curation.domain import Progress, RunState, TrainingRequest
from curation.errors import Conflict
from curation.runtime.context import open_context
from curation.runtime.lease_holders import (
    WORKER_ID,
    dead_holders,
    live_holders,
    mark_alive,
    remove_marker,
)
from curation.runtime.local_stack import _release_stale_leases
from curation.settings import Settings
from tests.support.factories import make_checkpoint

ANOTHER = "import sys; from pathlib import Path; from curation.runtime import lease_holders as holders; holders.mark_alive(Path(sys.argv[1])); "


def another(folder: Path) -> tuple[subprocess.Popen[str], str]:
    """Return a process that is announced in the folder, and its name there."""
    code = ANOTHER + "print(holders.WORKER_ID, flush=True); sys.stdin.read()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def end(process: subprocess.Popen[str]) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
    process.wait(60)


def test_a_killed_holder_is_dead_at_once_and_one_that_ends_leaves_nothing(tmp_path: Path) -> None:
    mark_alive(tmp_path)
    mark_alive(tmp_path)
    killed, name = another(tmp_path)
    ended, other = another(tmp_path)
    assert live_holders(tmp_path) == {WORKER_ID, name, other}
    assert dead_holders(tmp_path) == set()
    killed.kill()
    end(killed)
    end(ended)
    assert dead_holders(tmp_path) == {name}
    remove_marker(tmp_path, name)
    assert dead_holders(tmp_path) == set()
    assert live_holders(tmp_path) == {WORKER_ID}
    assert dead_holders(tmp_path / "nothing here") == set()


def test_children_keep_no_dead_holder_alive(tmp_path: Path) -> None:
    """A decoder that a killed command has forked may live on for a while."""
    code = (
        ANOTHER + "import os, time; child = os.fork()\n"
        "if child == 0: time.sleep(60)\nprint(holders.WORKER_ID, child, flush=True); time.sleep(60)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    name, child = process.stdout.readline().split()
    process.kill()
    end(process)
    try:
        assert dead_holders(tmp_path) == {name}
    finally:
        subprocess.run(["kill", child], check=True)


def ordered(database: Database) -> tuple[TrainingRequest, str]:
    with database.transaction() as tx:
        snapshot = registry.find_checkpoint(tx, make_checkpoint(tx)).snapshot
        order = TrainingRequest("whole", "micro", snapshot, None, None, 0)
        return order, str(registry.request_training(tx, order, "test"))


def claimed(database: Database, order: TrainingRequest, holder: str) -> None:
    with database.transaction() as tx:
        assert registry.claim_run(tx, order.id, holder, 3600)


def state(database: Database, order: TrainingRequest) -> str:
    with database.transaction() as tx:
        return str(registry.find_run(tx, order.id)["state"])


def test_leases_of_dead_processes_are_released_and_those_of_live_ones_are_not(
    settings: Settings, database: Database
) -> None:
    with open_context(settings) as context:
        order, _ = ordered(database)
        process, name = another(settings.path("holders"))
        claimed(database, order, name)
        jobs.release_lost_leases(context)
        assert state(database, order) == RunState.running
        process.kill()
        end(process)
        jobs.release_lost_leases(context)
        assert state(database, order) == RunState.requested
        assert dead_holders(settings.path("holders")) == set()
        claimed(database, order, "elsewhere:1:abcdef")
        jobs.reconcile(context)
        assert state(database, order) == RunState.running, "of another machine nothing is known"


def test_a_starting_instance_keeps_the_leases_of_running_commands(
    settings: Settings, database: Database
) -> None:
    """`layerloop up` starts while `layerloop train` runs in another terminal."""
    with open_context(settings) as context:
        order, _ = ordered(database)
        process, name = another(settings.path("holders"))
        claimed(database, order, name)
        with database.transaction() as tx:
            assert not leases.release_workers(tx, live_holders(settings.path("holders")))
        end(process)
        with database.transaction() as tx:
            assert leases.release_workers(tx, live_holders(settings.path("holders"))) == {
                "requested": 1
            }
        _release_stale_leases(context)


def test_a_command_waits_for_the_lease_holder_names_it_and_takes_over(
    settings: Settings, database: Database, capsys, monkeypatch
) -> None:
    with open_context(settings) as context:
        order, _ = ordered(database)
        process, name = another(settings.path("holders"))
        claimed(database, order, name)
        tried = []

        def work(_house, run: str, _tell) -> None:
            """Claims like the job does; the holder is killed once the command has waited for it."""
            with database.transaction() as tx:
                got = registry.claim_run(tx, order.id, WORKER_ID, 60)
            tried.append(got is not None)
            if len(tried) == 2:
                process.kill()
                end(process)
            if got:
                with database.transaction() as tx:
                    registry.fail_run(tx, order.id, WORKER_ID, "enough")

        row = run_or_follow(context, order.id, work, registry.find_run, lambda _: None)
    assert row["error"] == "enough"
    assert tried == [False, False, True]
    assert (
        f"waiting for {name}, which works on run {order.id} (its lease lasts until"
        in capsys.readouterr().err.replace("\n", " ")
    )


def test_a_cancelled_run_stops_and_resumes_on_request(
    database: Database,
) -> None:
    order, _ = ordered(database)
    claimed(database, order, "w1")
    with database.transaction() as tx:
        assert registry.cancel_run(tx, order.id, "anna")
        assert not registry.cancel_run(tx, order.id, "anna")
        assert tx.scalar(sa.select(sa.func.count()).select_from(leases_table)) == 0
    for late in (
        lambda tx: registry.record_progress(tx, order.id, "w1", Progress("base", 1, 2), 60),
        lambda tx: registry.fail_run(tx, order.id, "w1", "late"),
    ):
        with pytest.raises(Conflict, match="cancelled"), database.transaction() as tx:
            late(tx)
    assert state(database, order) == RunState.cancelled
    with database.transaction() as tx:
        registry.request_training(tx, order, "test")
    assert state(database, order) == RunState.requested
