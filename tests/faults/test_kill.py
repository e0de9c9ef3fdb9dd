"""A demo whose processes are killed continues to the same counts: no candidate twice, no decision lost."""

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
    """The home of a demo, and its processes."""

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
    home_ = Home(tmp_path / "home", tmp_path / "demo.log")
    yield home_
    embedded_postgres.stop_server(home_.folder / "postgres")


def training(database: Database) -> bool:
    with database.transaction() as tx:
        progress = tx.scalar(
            sa.select(training_runs.c.progress).where(training_runs.c.state == "running")
        )
    return bool(progress and progress["done"] > 100)


def generating(database: Database) -> bool:
    return _count(database, "generating") > 0 and _count(database, "requested") > 0


def reviewing(database: Database) -> bool:
    return 0 < _count(database, "accepted") + _count(database, "rejected") < QUOTA


def second_round(database: Database) -> bool:
    with database.transaction() as tx:
        generated = (
            sa.select(sa.func.count()).select_from(rounds).where(rounds.c.purpose == "generated")
        )
        return bool(tx.scalar(generated) == ROUNDS)


@pytest.mark.parametrize(
    ("victim", "moment"),
    [
        ("worker --queue gpu", training),
        ("worker --queue gpu", generating),
        ("worker --queue cpu", reviewing),
        ("postgres", generating),
        ("postgres", reviewing),
        ("api", generating),
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
    """Check two closed rounds of the full quota: each candidate generated and decided once, each accept a sample."""
    database = home.database()
    store = FolderStore(home.folder / "objects")
    with database.transaction(repeatable_read=True) as tx:
        generated_rounds = sa.select(rounds.c.state).where(rounds.c.purpose == "generated")
        assert list(tx.execute(generated_rounds).scalars()) == ["closed"] * ROUNDS
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
        generated = tx.execute(with_layer).scalars().all()
        assert len(generated) == len(set(generated)) == QUOTA * ROUNDS
        decided = tx.execute(sa.select(decisions.c.candidate_id, decisions.c.verdict)).all()
        assert len(decided) == len({row.candidate_id for row in decided})
        accepts = {row.candidate_id for row in decided if row.verdict == Verdict.accept}
        assert len(accepts) == by_state["accepted"] > QUOTA / 2
        assert len(decided) == by_state.get("accepted", 0) + by_state.get("rejected", 0)
        sampled = (
            tx.execute(sa.select(samples.c.candidate_id).where(samples.c.candidate_id.is_not(None)))
            .scalars()
            .all()
        )
        assert set(sampled) == accepts
        latest = snapshots.find_snapshot(tx, "latest")
        frozen = {sample.id for sample in manifest.read_samples(store, latest)}
        assert frozen == {
            sample_id.hex for sample_id in tx.execute(sa.select(samples.c.id)).scalars()
        }
        runs = tx.execute(sa.select(training_runs.c.state)).scalars().all()
        assert list(runs) == ["finished"] * ROUNDS
    database.close()


def _when(home: Home, moment: Callable[[Database], bool], running: subprocess.Popen[bytes]) -> None:
    """Wait for a moment of the run; fail if the run ends before it."""
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
    """Send SIGKILL to one process of this home."""
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


def _count(database: Database, state: str) -> int:
    with database.transaction() as tx:
        return int(
            tx.scalar(
                sa.select(sa.func.count())
                .select_from(candidates)
                .where(candidates.c.state == state)
            )
        )
