"""Runs of one round under seeded faults, and the checks that must hold after each of them.

A run opens a round on servers of its own, lets workers generate and screen it while a reviewer
decides, has the faults of its seed, and freezes a snapshot. Its result must equal that of a run
without faults.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import kombu
import psycopg2
import redis
import sqlalchemy as sa
from pydantic import SecretStr

from curation.adapters import embedded_postgres
from curation.datasets.snapshots import freeze_snapshot
from curation.db import schema
from curation.db.engine import Database
from curation.db.tables import (
    candidate_layers,
    candidates,
    decisions,
    leases,
    samples,
    snapshots,
)
from curation.domain import Prompt, Verdict
from curation.errors import LayerloopError
from curation.review import queue
from curation.review.decisions import decide
from curation.review.reviewers import add_reviewer
from curation.rounds.lifecycle import open_round
from curation.runtime.context import AppContext, open_context
from curation.settings import Settings
from curation.synthetic.shapes import SUBJECTS
from tests.support import servers
from tests.support.factories import fresh_database, make_checkpoint, with_database
from tests.support.failpoints import POINTS, FaultPlan
from tests.support.s3_proxy import FAULTS, Fault, S3Proxy, s3_proxy
from tests.support.worker_zygote import Zygote, is_alive

QUOTA = 20
LEASE_SECONDS = 3
NO_FAULT: Fault = lambda _method, _number: None  # noqa: E731
LIMIT_SECONDS = 120
"""Time within which a run must end by itself after its faults are over."""
UNFINISHED = ("requested", "generating", "generated", "screened", "waiting", "showing", "screening")


@dataclass
class Rig:
    """The servers of all runs.

    Attributes:
        postgres: Folder of an embedded PostgreSQL that runs may restart.
        address: Its URL.
        s3: An S3 server, and a proxy before it.
        rabbitmq: URL of a RabbitMQ, or None.
        redis: URL of a Redis, or None.
        zygote: Starts workers.
        folder: Folder for homes and logs.
    """

    postgres: Path
    address: str
    s3: servers.S3Server
    proxy: S3Proxy
    rabbitmq: str | None
    redis: str | None
    zygote: Zygote
    folder: Path


@dataclass(frozen=True)
class Scenario:
    """The faults and settings of a run, derived from a seed.

    Attributes:
        seed: The seed.
        store: "folder" or "s3".
        broker: "embedded", "redis" or "rabbitmq".
        plans: One plan per worker.
        events: (seconds after the start, what happens), sorted.
        freeze_kill: Failpoint at which the first freeze is killed, or None.
    """

    seed: int
    store: str
    broker: str
    plans: tuple[FaultPlan, ...]
    events: tuple[tuple[float, str], ...]
    freeze_kill: tuple[str, int] | None


@dataclass
class Outcome:
    """The result of a run.

    Attributes:
        states: State by candidate.
        snapshot: Id of the snapshot.
        problems: What does not hold, in sentences.
        seconds: Duration of the run.
        restarts: Workers and freezes that were killed and started again.
        s3_faults: Requests to S3 that failed.
    """

    states: Mapping[str, str] = field(default_factory=dict)
    snapshot: str = ""
    problems: list[str] = field(default_factory=list)
    seconds: float = 0.0
    restarts: int = 0
    s3_faults: int = 0


def make_scenario(seed: int, brokers: tuple[str, ...]) -> Scenario:
    """Return the scenario of a seed; seed 0 has no faults.

    Args:
        seed: The seed.
        brokers: The brokers to choose from.
    """
    rng = random.Random(seed)
    if seed == 0:
        return Scenario(0, "folder", "embedded", (FaultPlan(), FaultPlan()), (), None)
    store = rng.choice(("folder", "folder", "s3"))
    plans = [_make_plan(rng, store) for _ in range(rng.randint(2, 3))]
    happening = ["postgres restarted", "broker emptied", "two sweeps", "worker killed"]
    if store == "s3":
        happening += [f"s3 {fault}" for fault in ("500", "503", *FAULTS)] * 2
    events = sorted(
        (round(rng.uniform(0.2, 5.0), 2), rng.choice(happening)) for _ in range(rng.randint(0, 3))
    )
    freeze_kill = _point(rng) if rng.random() < 0.3 else None
    return Scenario(seed, store, rng.choice(brokers), tuple(plans), tuple(events), freeze_kill)


def _make_plan(rng: random.Random, store: str) -> FaultPlan:
    return FaultPlan(
        kill=_point(rng) if rng.random() < 0.6 else None,
        disk_full_until=time.time() + rng.uniform(2, 5)
        if store == "folder" and rng.random() < 0.15
        else 0.0,
        clock_seconds=rng.choice((-3600.0, 3600.0)) if rng.random() < 0.15 else 0.0,
        doubled=rng.random() < 0.2,
        held_back=rng.random() < 0.2,
    )


def _point(rng: random.Random) -> tuple[str, int]:
    return rng.choice(POINTS), rng.randint(1, 12)


@contextmanager
def open_rig(
    folder: Path, s3: servers.S3Server, rabbitmq: str | None, redis_address: str | None
) -> Iterator[Rig]:
    """Start the servers that runs break: a PostgreSQL, a proxy before S3 and the zygote.

    Args:
        folder: An empty folder.
        s3: The S3 server.
        rabbitmq: URL of a RabbitMQ virtual host for these runs alone, or None.
        redis_address: URL of a Redis database for these runs alone, or None.
    """
    postgres = folder / "postgres"
    with ExitStack() as stack:
        stack.callback(embedded_postgres.stop_server, postgres)
        address = embedded_postgres.start_server(postgres)
        database = Database(address)
        schema.migrate(database)
        with database.transaction() as tx:
            checkpoint = make_checkpoint(tx)
            texts = [Prompt(text) for text in sorted(SUBJECTS)]
            open_round(
                tx, checkpoint=checkpoint, prompt_list=texts, quota=QUOTA, seed=1, actor="test"
            )
            add_reviewer(tx, "ann")
        database.close()
        proxy = stack.enter_context(s3_proxy(s3.endpoint))
        zygote = stack.enter_context(Zygote())
        yield Rig(postgres, address, s3, proxy, rabbitmq, redis_address, zygote, folder)


def run_scenario(rig: Rig, scenario: Scenario) -> Outcome:
    """Run a scenario to its end, and check what must hold.

    Args:
        rig: The servers.
        scenario: What goes wrong.
    """
    started = time.monotonic()
    outcome = Outcome()
    template = sa.make_url(rig.address).database or "postgres"
    # Homes of finished runs are removed; those of failed runs stay for their logs.
    home = rig.folder / f"run-{scenario.seed}"
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir()
    with fresh_database(rig.address, template) as name:
        run = _Run(rig, scenario, home, with_database(rig.address, name))
        try:
            run.start()
            run.follow()
            run.freeze()
            outcome = run.check()
        except AssertionError as error:
            outcome.problems.append(str(error))
        finally:
            rig.proxy.fault = NO_FAULT
            run.stop()
            outcome.restarts, outcome.s3_faults = run.restarts, rig.proxy.faults
    outcome.seconds = time.monotonic() - started
    if not outcome.problems:
        shutil.rmtree(home, ignore_errors=True)
    return outcome


def freeze(context: AppContext) -> None:
    """Freeze all samples of an instance; a process of a run ends with this."""
    freeze_snapshot(context.database, context.store, tag="latest", actor="test")


class _Run:
    """One run: its workers, its reviewer and its faults."""

    def __init__(self, rig: Rig, scenario: Scenario, home: Path, address: str) -> None:
        self.rig, self.scenario, self.home = rig, scenario, home
        self.rng = random.Random(scenario.seed)
        self.log = home / "workers.log"
        brokers = {"embedded": "embedded", "redis": rig.redis, "rabbitmq": rig.rabbitmq}
        self.settings: dict[str, str] = {
            "home": str(home),
            "database": address,
            "queue": brokers[scenario.broker] or "embedded",
            "generator": "tests.support.shape_generator:open_painter",
            "lease_seconds": str(LEASE_SECONDS),
            "secret": "a secret of a test that is long enough",
        }
        self.credentials = {}
        if scenario.store == "s3":
            self.settings |= {
                "storage": f"s3://faults/{uuid.uuid4().hex}",
                "storage_endpoint": rig.proxy.endpoint,
            }
            self.credentials = {
                "AWS_ACCESS_KEY_ID": rig.s3.access_key,
                "AWS_SECRET_ACCESS_KEY": rig.s3.secret_key,
                "AWS_DEFAULT_REGION": "us-east-1",
            }
        self.workers: dict[int, list[str]] = {}
        self.acknowledged: dict[uuid.UUID, Verdict] = {}
        self.stack = ExitStack()
        self.restarts = 0

    def start(self) -> None:
        """Start the workers with their plans, and open the instance for the reviewer."""
        self._empty_broker()
        self.rig.proxy.faults = 0
        given = self.settings | {"secret": SecretStr(self.settings["secret"])}
        self.context = self.stack.enter_context(open_context(Settings(**given)))  # type: ignore[arg-type]
        kinds = [["gpu"], ["cpu"], ["gpu", "cpu"]]
        for plan, queues in zip(self.scenario.plans, kinds, strict=False):
            self._start_worker(queues, plan)

    def follow(self) -> None:
        """Let faults happen and the reviewer decide until every candidate is decided."""
        events = list(self.scenario.events)
        begun = time.monotonic()
        quiet_from = begun + max([0.0, *(when for when, _ in events)]) + 6
        while True:
            passed = time.monotonic() - begun
            while events and events[0][0] <= passed:
                self._happen(events.pop(0)[1])
            if time.monotonic() > quiet_from:
                self.rig.proxy.fault = NO_FAULT
            self._replace_dead()
            done = self._attempt(self._review)
            if done and not events:
                # The store has no more faults: the freeze and the checks read it.
                self.rig.proxy.fault = NO_FAULT
                return
            late = time.monotonic() > quiet_from + LIMIT_SECONDS
            assert not late, f"the round does not end: {self._attempt(self._count_states)}"
            time.sleep(0.1)

    def freeze(self) -> None:
        """Freeze in a process that may be killed, and again until it succeeds."""
        plan = FaultPlan(kill=self.scenario.freeze_kill)
        for _ in range(10):
            pid = self.rig.zygote.start(self._environment(), [], self.log, _as_row(plan))
            if plan.kill is not None and self.scenario.seed % 2:
                time.sleep(self.rng.uniform(0.3, 1.0))
                self._restart_postgres()
            servers.wait_for("the freeze", lambda pid=pid: not is_alive(pid), 60)
            if self._attempt(self._find_snapshot):
                return
            plan = FaultPlan()
            self.restarts += 1
        raise AssertionError("the snapshot cannot be frozen")

    def check(self) -> Outcome:
        """Return the states and the snapshot, and everything that does not hold."""
        outcome = Outcome(snapshot=str(self._attempt(self._find_snapshot)))
        problems = outcome.problems
        with self.context.database.transaction() as tx:
            rows = tx.execute(sa.select(candidates.c.id, candidates.c.state, candidates.c.note))
            states = {row.id: (row.state, row.note) for row in rows}
            standing = tx.execute(sa.select(decisions.c.candidate_id, decisions.c.verdict)).all()
            named_layers = tx.execute(
                sa.select(candidate_layers.c.candidate_id, candidate_layers.c.sha256)
            ).all()
            left = tx.scalar(
                sa.select(sa.func.count())
                .select_from(leases)
                .where(leases.c.subject.in_(sa.select(candidates.c.id)))
            )
            accepted = tx.scalar(sa.select(sa.func.count()).select_from(samples))
        outcome.states = {str(id_): state for id_, (state, _) in states.items()}
        failed = [note for state, note in states.values() if state == "failed"]
        if failed:
            problems.append(f"{len(failed)} candidates failed: {failed[0]}")
        if len(states) != QUOTA:
            problems.append(f"{len(states)} candidates instead of {QUOTA}")
        verdicts: dict[uuid.UUID, list[str]] = {}
        for row in standing:
            verdicts.setdefault(row.candidate_id, []).append(row.verdict)
        twice = [id_ for id_, given in verdicts.items() if len(given) > 1]
        if twice:
            problems.append(f"{len(twice)} candidates were decided twice")
        lost = [id_ for id_, verdict in self.acknowledged.items() if verdicts.get(id_) != [verdict]]
        if lost:
            problems.append(f"{len(lost)} acknowledged decisions were lost")
        if left:
            problems.append(f"{left} leases are left")
        if accepted != sum(state == "accepted" for state, _ in states.values()):
            problems.append(f"{accepted} samples for the accepted candidates")
        if len({row.candidate_id for row in named_layers}) != len(named_layers):
            problems.append("a candidate has its layer twice")
        for row in named_layers:
            try:
                self.context.store.get(row.sha256)
            except LayerloopError as error:
                problems.append(f"a layer cannot be read: {error}")
        return outcome

    def stop(self) -> None:
        """Kill the workers and close the instance."""
        for pid in self.workers:
            _kill(pid)
        self.stack.close()

    def _start_worker(self, queues: list[str], plan: FaultPlan) -> None:
        row = _as_row(plan)
        pid = self.rig.zygote.start(self._environment(), queues, self.log, row)
        self.workers[pid] = queues

    def _replace_dead(self) -> None:
        for pid, queues in list(self.workers.items()):
            if not is_alive(pid):
                del self.workers[pid]
                self.restarts += 1
                self._start_worker(queues, FaultPlan())

    def _environment(self) -> dict[str, str]:
        given = {f"LAYERLOOP_{name.upper()}": value for name, value in self.settings.items()}
        return given | self.credentials

    def _happen(self, what: str) -> None:
        if what == "postgres restarted":
            self._restart_postgres()
        elif what == "broker emptied":
            self._empty_broker()
        elif what == "worker killed":
            _kill(self.rng.choice(list(self.workers)))
        elif what == "two sweeps":
            from curation.jobs import reconcile

            for _ in range(2):
                self._attempt(lambda: reconcile(self.context))
        else:
            share, fault = self.rng.choice((0.3, 1.0)), what.removeprefix("s3 ")
            rng = random.Random(self.scenario.seed)
            self.rig.proxy.fault = lambda _method, _number: fault if rng.random() < share else None

    def _restart_postgres(self) -> None:
        """Stop the server at once or in order, and start it again."""
        pid = int((self.rig.postgres / "data" / "postmaster.pid").read_text().split()[0])
        os.kill(pid, self.rng.choice((signal.SIGQUIT, signal.SIGINT)))
        servers.wait_for("the end of PostgreSQL", lambda: not is_alive(pid))
        embedded_postgres.start_server(self.rig.postgres)

    def _empty_broker(self) -> None:
        address = self.settings["queue"]
        if address.startswith("redis"):
            redis.Redis.from_url(address).flushdb()
        elif address.startswith("amqp"):
            with kombu.Connection(address) as connection, connection.channel() as channel:
                for name in ("generate", "train", "screen", "review", "cpu", "gpu"):
                    with suppress(Exception):
                        channel.queue_purge(f"layerloop.{name}")
        else:
            with suppress(psycopg2.Error, LayerloopError, sa.exc.SQLAlchemyError):
                self._purge_pgmq()

    def _purge_pgmq(self) -> None:
        if not hasattr(self, "context"):
            return
        with self.context.database.transaction() as tx:
            names = tx.execute(sa.text("select queue_name from pgmq.meta")).scalars().all()
            for name in names:
                tx.execute(sa.text("select pgmq.purge_queue(:name)"), {"name": name})

    def _review(self) -> bool:
        """Decide what is waiting; return whether everything is decided."""
        with self.context.database.transaction() as tx:
            batch = queue.claim_batch(tx, 1, None, 4, [], 5).items
        for item in batch:
            verdict = verdict_of(item.id)
            with self.context.database.transaction() as tx:
                decide(tx, 1, item.id, verdict, key=uuid.uuid5(item.id, "decision"))
            self.acknowledged[item.id] = verdict
        if batch:
            return False
        return not any(state in UNFINISHED for state in self._count_states())

    def _count_states(self) -> dict[str, int]:
        query = sa.select(candidates.c.state, sa.func.count().label("number"))
        with self.context.database.transaction() as tx:
            rows = tx.execute(query.group_by(candidates.c.state))
            return {row.state: row.number for row in rows}

    def _find_snapshot(self) -> str | None:
        with self.context.database.transaction() as tx:
            wanted = sa.select(snapshots.c.id).where(snapshots.c.samples > 0)
            return tx.scalar(wanted)  # type: ignore[no-any-return]

    def _attempt(self, work: Callable[[], Any]) -> Any:
        """Do something that trouble may interrupt; None if it did."""
        try:
            return work()
        except (LayerloopError, sa.exc.SQLAlchemyError, psycopg2.Error):
            return None


def verdict_of(candidate: uuid.UUID) -> Verdict:
    """Return the verdict of the runs' reviewer on a candidate."""
    return Verdict.reject if candidate.int % 3 == 0 else Verdict.accept


def _as_row(plan: FaultPlan) -> dict[str, Any]:
    return {name: value for name, value in asdict(plan).items() if name != "passed"}


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
