"""A whole loop whose workers are killed again and again must end as one whose workers are left alone.

    python -m tests.faults.loop_kills [--broker rabbitmq|redis|embedded] [--workers 4] [--every 20] [--rounds 3]

Real PostgreSQL (LAYERLOOP_TEST_DATABASE or an embedded one), radosgw and the broker. Both loops have the same plan,
real trainings of a preset, and one reviewer whose verdicts depend on the seeds of the candidates; each worker has a home
of its own. It prints the seconds, the kills and the snapshot of each turn as JSON, and fails if the snapshots or the
counts differ.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import sqlalchemy as sa

from curation.adapters.pgmq_schema import install_pgmq
from curation.db.engine import Database
from curation.db.schema import migrate
from curation.db.tables import candidates, checkpoints, decisions, leases, samples, training_runs
from curation.db.tables import rounds as rounds_table
from curation.domain import Verdict
from curation.loops import rows
from curation.loops.plan import LoopPlan, LoopReviewer, LoopState
from curation.review.decisions import decide
from curation.review.queue import claim_items
from curation.review.reviewers import add_reviewer
from curation.runtime.bootstrap import import_initial_seeds
from curation.runtime.context import open_context
from curation.settings import Settings
from tests.support import servers
from tests.support.factories import fresh_database, with_database

ROOT = Path(__file__).resolve().parents[2]
COUNTED = (candidates, decisions, samples, checkpoints, training_runs, rounds_table)


@dataclass(frozen=True)
class Kills:
    """Which workers a run has, and when one of them is killed.

    Attributes:
        workers: Number of workers.
        every: Seconds between two kills; 0 for none.
        most: Number of kills; candidates whose workers always die fail in the end.
        seed: RNG seed of the choice of the worker.
        limit: Seconds in which the loop must end.
    """

    workers: int
    every: float = 0.0
    most: int = 1_000
    seed: int = 0
    limit: float = 1_800.0


@dataclass(frozen=True)
class LoopResult:
    """What a loop ended with.

    Attributes:
        state: State of the loop, with the reason of a failure.
        snapshots: Ids of the turns' snapshots and of the last one.
        counts: Rows of each table, and candidates by state.
        leases: Leases that are left.
        kills: Number of killed workers.
        seconds: Time from the start of the loop to its end.
    """

    state: str
    snapshots: tuple[str, ...]
    counts: Mapping[str, int]
    leases: int
    kills: int
    seconds: float


def run_loop(
    folder: Path, settings: Mapping[str, str], plan: LoopPlan, seeds: int, kills: Kills
) -> LoopResult:
    """Run a loop on workers of its own, and return what it ended with.

    Args:
        folder: Empty folder for homes and logs.
        settings: Environment of the instance: database, store and queue.
        plan: The plan of the loop.
        seeds: Number of seed images.
        kills: Workers, and when one is killed.
    """
    given = {name.removeprefix("LAYERLOOP_").lower(): value for name, value in settings.items()}
    names = set(Settings.model_fields)
    own = Settings(home=folder / "home", **{k: v for k, v in given.items() if k in names})
    with open_context(own) as context:
        import_initial_seeds(context, None, seeds, lambda _: None)
        with context.database.transaction() as tx:
            add_reviewer(tx, "ann")
            loop_id = rows.start_loop(tx, plan, "test")
        started = time.monotonic()
        killed = _keep_workers(context.database, folder, settings, loop_id, kills)
        return _result(context.database, loop_id, killed, time.monotonic() - started)


def _keep_workers(
    database: Database, folder: Path, settings: Mapping[str, str], loop_id: int, kills: Kills
) -> int:
    """Keep the workers running until the loop ends, and kill one now and then; count the kills."""
    rng = random.Random(kills.seed)
    workers = [_start_worker(folder, settings, index) for index in range(kills.workers)]
    started = time.monotonic()
    killed = 0
    try:
        while _loop(database, loop_id).state == LoopState.running:
            passed = time.monotonic() - started
            assert passed < kills.limit, f"the loop does not end: {_loop(database, loop_id)}"
            if kills.every and killed < kills.most and passed >= (killed + 1) * kills.every:
                index = rng.randrange(kills.workers)
                workers[index].kill()
                killed += 1
            _review(database, _loop(database, loop_id).round)
            for index, worker in enumerate(workers):
                if worker.poll() is not None:
                    workers[index] = _start_worker(folder, settings, index)
            time.sleep(0.1)
    finally:
        for worker in workers:
            worker.kill()
            worker.wait(30)
    return killed


def _review(database: Database, round_id: int | None) -> None:
    """Decide what is waiting in a round: two of three candidates are accepted, by their seeds."""
    if round_id is None:
        return
    with database.transaction() as tx:
        items = claim_items(tx, 1, round_id, 16, [], 30)
        own = candidates.c.id.in_([item.id for item in items])
        seeds = dict(tx.execute(sa.select(candidates.c.id, candidates.c.seed).where(own)).all())
    for item in items:
        verdict = Verdict.accept if seeds[item.id] % 3 else Verdict.reject
        with database.transaction() as tx:
            decide(tx, 1, item.id, verdict, key=uuid.uuid5(item.id, "decision"))


def _start_worker(folder: Path, settings: Mapping[str, str], index: int) -> subprocess.Popen[bytes]:
    environment = {
        **os.environ,
        "LAYERLOOP_HOME": str(folder / f"worker-{index}"),
        "LAYERLOOP_LEASE_SECONDS": "5",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
        **settings,
    }
    command = [sys.executable, "-m", "curation.cli.main", "worker"]
    with (folder / f"worker-{index}.log").open("ab") as log:
        return subprocess.Popen(
            [*command, "--queue", "cpu", "--queue", "gpu"],
            env=environment,
            cwd=ROOT,
            stdout=log,
            stderr=log,
        )


def _loop(database: Database, loop_id: int) -> rows.Loop:
    with database.transaction() as tx:
        return rows.find_loop(tx, loop_id)


def _result(database: Database, loop_id: int, killed: int, seconds: float) -> LoopResult:
    with database.transaction() as tx:
        loop = rows.find_loop(tx, loop_id)
        turns = [str(turn["snapshot_id"]) for turn in rows.list_turns(tx, loop_id)]
        [row] = [row for row in rows.list_loops(tx) if row["id"] == loop_id]
        counts = {table.name: _count(tx, table) for table in COUNTED}
        by_state = sa.select(candidates.c.state, sa.func.count()).group_by(candidates.c.state)
        counts |= {f"candidates {state}": number for state, number in tx.execute(by_state)}
        of_candidates = leases.c.subject.in_(sa.select(candidates.c.id))
        left = tx.scalar(sa.select(sa.func.count()).select_from(leases).where(of_candidates))
    state = f"{loop.state}: {loop.reason}" if loop.reason else str(loop.state)
    names = (*turns, str(row["snapshot_id"]))
    return LoopResult(state, names, counts, int(left or 0), killed, seconds)


def _count(tx: Any, table: sa.Table) -> int:
    return int(tx.scalar(sa.select(sa.func.count()).select_from(table)))


def find_differences(result: LoopResult, expected: LoopResult) -> list[str]:
    """Return what a disturbed loop ended with otherwise than an undisturbed one."""
    problems = [] if result.state == "finished" else [f"the loop is {result.state}"]
    if len(set(expected.snapshots)) != len(expected.snapshots):
        problems.append("a round accepted nothing, so that the snapshots say nothing")
    if result.snapshots != expected.snapshots:
        problems.append(f"snapshots {result.snapshots}, not {expected.snapshots}")
    if result.counts != expected.counts:
        problems.append(f"counts {result.counts}, not {expected.counts}")
    if result.leases:
        problems.append(f"{result.leases} leases are left")
    return problems


def compare_loops(
    folder: Path, address: str, s3: servers.S3Server, queue: str, plan: LoopPlan, kills: Kills
) -> tuple[LoopResult, LoopResult]:
    """Run a loop with one worker and without kills, and one with kills; return both results.

    Args:
        folder: Empty folder.
        address: URL of a PostgreSQL server.
        s3: The S3 server.
        queue: URL of the broker, or "embedded".
        plan: The plan of both loops.
        kills: Workers and kills of the second loop.
    """
    results = []
    for label, how in (("undisturbed", Kills(1, limit=kills.limit)), ("killed", kills)):
        with fresh_database(address) as name:
            own = folder / label
            own.mkdir()
            own_address = with_database(address, name)
            install_pgmq(own_address)
            database = Database(own_address)
            migrate(database)
            database.close()
            settings = _settings(own_address, s3, queue)
            os.environ |= {key: value for key, value in settings.items() if key[:4] == "AWS_"}
            results.append(run_loop(own, settings, plan, 60, how))
    return results[0], results[1]


def _settings(address: str, s3: servers.S3Server, queue: str) -> dict[str, str]:
    """Return the environment of an instance with a bucket of its own."""
    keys = {"aws_access_key_id": s3.access_key, "aws_secret_access_key": s3.secret_key}
    bucket = f"loop-{uuid.uuid4().hex[:10]}"
    session = boto3.session.Session(region_name="us-east-1", **keys)
    session.client("s3", endpoint_url=s3.endpoint).create_bucket(Bucket=bucket)
    return {
        "LAYERLOOP_DATABASE": address,
        "LAYERLOOP_QUEUE": queue,
        "LAYERLOOP_STORAGE": f"s3://{bucket}",
        "LAYERLOOP_STORAGE_ENDPOINT": s3.endpoint,
        "AWS_ACCESS_KEY_ID": s3.access_key,
        "AWS_SECRET_ACCESS_KEY": s3.secret_key,
        "AWS_DEFAULT_REGION": "us-east-1",
    }


def main() -> int:
    """Run both loops and print them; return 1 if they differ."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--broker", default="rabbitmq", choices=("rabbitmq", "redis", "embedded"))
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--every", type=float, default=20.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quota", type=int, default=24)
    parser.add_argument("--preset", default="micro")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="folder for the homes and logs")
    options = parser.parse_args()
    plan = LoopPlan(options.rounds, options.quota, options.preset, LoopReviewer.person)
    kills = Kills(options.workers, options.every, seed=options.seed)
    with ExitStack() as stack:
        folder = options.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for name in ("ceph", "broker"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        given = os.environ.get("LAYERLOOP_TEST_DATABASE")
        address = stack.enter_context(servers.postgres(given))
        s3 = stack.enter_context(servers.radosgw(folder / "ceph"))
        queue = options.broker
        if queue != "embedded":
            server = servers.rabbitmq if queue == "rabbitmq" else servers.redis
            queue = stack.enter_context(server(folder / "broker"))
        expected, result = compare_loops(folder, address, s3, queue, plan, kills)
    for label, one in (("undisturbed", expected), ("killed", result)):
        print(json.dumps({"run": label, "broker": options.broker} | vars(one), default=str))
    problems = find_differences(result, expected)
    print("\n".join(problems) or "equal", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
