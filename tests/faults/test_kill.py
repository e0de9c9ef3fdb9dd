"""Killed at any moment, the same command goes on and ends with the same counts: no candidate twice, no decision lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import sqlalchemy as sa

from curation.adapters import embedded_postgres
from curation.datasets import manifest, snapshots
from curation.db.engine import Database
from curation.db.tables import (
    candidate_layers,
    candidates,
    decisions,
    rounds,
    samples,
    training_runs,
)
from curation.domain import Verdict
from curation.object_store import FolderStore

ROOT = Path(__file__).resolve().parents[2]
QUOTA, ROUNDS = 48, 2
COMMAND = [
    sys.executable, "-m", "curation.cli.main", "demo", "--preset", "micro", "--reviewer", "rules", "--port", "0",
    "--rounds", str(ROUNDS), "--quota", str(QUOTA), "--seeds", "60",
]  # fmt: skip
pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Home:
    """One demo's home, and what a test may do to it."""

    folder: Path
    log: Path

    def run(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            settings = {
                "LAYERLOOP_LEASE_SECONDS": "6",
                "LAYERLOOP_GENERATOR": "tests.support.shape_generator:open_painter",
            }
            command = [*COMMAND, "--home", str(self.folder)]
            return subprocess.Popen(
                command, stdout=log, stderr=log, env=os.environ | settings, cwd=ROOT
            )

    def database(self) -> Database:
        return Database(embedded_postgres.start_server(self.folder / "postgres"))

    def story(self) -> str:
        logs = [self.log, *sorted((self.folder / "logs").glob("*.log"))]
        return "\n".join(
            f"--- {log.name}\n{log.read_text(errors='replace')[-3_000:]}"
            for log in logs
            if log.exists()
        )


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    made = Home(tmp_path / "home", tmp_path / "demo.log")
    yield made
    embedded_postgres.stop_server(made.folder / "postgres")


def training(database: Database) -> bool:
    with database.transaction() as tx:
        progress = tx.scalar(
            sa.select(training_runs.c.progress).where(training_runs.c.state == "running")
        )
    return bool(progress and progress["done"] > 100)


def drawing(database: Database) -> bool:
    return _standing(database, "generating") > 0 and _standing(database, "requested") > 0


def reviewing(database: Database) -> bool:
    return 0 < _standing(database, "accepted") + _standing(database, "rejected") < QUOTA


def second_round(database: Database) -> bool:
    with database.transaction() as tx:
        drawn = (
            sa.select(sa.func.count()).select_from(rounds).where(rounds.c.purpose == "generated")
        )
        return bool(tx.scalar(drawn) == ROUNDS)


@pytest.mark.parametrize(
    ("victim", "moment"),
    [
        ("worker --queue gpu", training),
        ("worker --queue gpu", drawing),
        ("worker --queue cpu", reviewing),
        ("postgres", drawing),
        ("postgres", reviewing),
        ("api", drawing),
        ("demo", training),
        ("demo", second_round),
    ],
)
def test_a_run_goes_on_after_a_kill(
    home: Home, victim: str, moment: Callable[[Database], bool]
) -> None:
    running = home.run()
    try:
        _when(home, moment, running)
        _kill(home, victim, running)
        if victim == "demo":
            running.wait(30)
            running = home.run()
        assert running.wait(240) == 0, home.story()
    finally:
        if running.poll() is None:
            running.send_signal(signal.SIGINT)
            running.wait(60)
    _check(home)


def _check(home: Home) -> None:
    """Two closed rounds with their whole quota, each candidate drawn once and decided once, each accept a sample."""
    database = home.database()
    store = FolderStore(home.folder / "objects")
    with database.transaction(repeatable_read=True) as tx:
        drawn_rounds = sa.select(rounds.c.state).where(rounds.c.purpose == "generated")
        assert list(tx.execute(drawn_rounds).scalars()) == ["closed"] * ROUNDS
        of_checkpoint = sa.select(candidates.c.state, sa.func.count().label("n")).where(
            candidates.c.origin.is_(None)
        )
        by_state = {
            row.state: row.n for row in tx.execute(of_checkpoint.group_by(candidates.c.state))
        }
        assert sum(by_state.values()) == QUOTA * ROUNDS, by_state
        assert set(by_state) <= {"accepted", "rejected", "refused"}, by_state
        with_layer = (
            sa.select(candidate_layers.c.candidate_id)
            .join(candidates)
            .where(candidates.c.origin.is_(None))
        )
        drawn = tx.execute(with_layer).scalars().all()
        assert len(drawn) == len(set(drawn)) == QUOTA * ROUNDS
        message = tx.execute(sa.select(decisions.c.candidate_id, decisions.c.verdict)).all()
        assert len(message) == len({row.candidate_id for row in message})
        accepts = {row.candidate_id for row in message if row.verdict == Verdict.accept}
        assert len(accepts) == by_state["accepted"] > QUOTA / 2
        assert len(message) == by_state.get("accepted", 0) + by_state.get("rejected", 0)
        kept = (
            tx.execute(sa.select(samples.c.candidate_id).where(samples.c.candidate_id.is_not(None)))
            .scalars()
            .all()
        )
        assert set(kept) == accepts
        latest = snapshots.find_snapshot(tx, "latest")
        frozen = {sample.id for sample in manifest.read_samples(store, latest)}
        assert frozen == {one.hex for one in tx.execute(sa.select(samples.c.id)).scalars()}
        runs = tx.execute(sa.select(training_runs.c.state)).scalars().all()
        assert list(runs) == ["finished"] * ROUNDS
    database.close()


def _when(home: Home, moment: Callable[[Database], bool], running: subprocess.Popen[bytes]) -> None:
    """Wait for a moment of the run; a run that ends before it has passed it by, which is a fault of the test."""
    deadline = time.monotonic() + 180
    while not (home.folder / "logs").exists():
        assert time.monotonic() < deadline and running.poll() is None, home.story()
        time.sleep(0.1)
    database = home.database()
    try:
        while not moment(database):
            assert time.monotonic() < deadline and running.poll() is None, home.story()
            time.sleep(0.05)
    finally:
        database.close()


def _kill(home: Home, victim: str, running: subprocess.Popen[bytes]) -> None:
    """SIGKILL to one process of this very home, and to no other."""
    if victim == "demo":
        running.kill()
        return
    if victim == "postgres":
        pid = int(
            (home.folder / "postgres" / "data" / "postmaster.pid").read_text().splitlines()[0]
        )
        os.kill(pid, signal.SIGKILL)
        return
    for child in psutil.Process(running.pid).children():
        if " ".join(child.cmdline()).endswith(victim):
            child.kill()
            return
    raise AssertionError(
        f"no child {victim!r}: {[c.cmdline() for c in psutil.Process(running.pid).children()]}"
    )


def _standing(database: Database, state: str) -> int:
    with database.transaction() as tx:
        return int(
            tx.scalar(
                sa.select(sa.func.count())
                .select_from(candidates)
                .where(candidates.c.state == state)
            )
        )
