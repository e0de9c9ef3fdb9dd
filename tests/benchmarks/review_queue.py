"""Measure the review queue with a real API process, a real PostgreSQL, and clients in processes of their own.

    python -m tests.benchmarks.review_queue [--database postgresql://...] [--candidates 1000 100000] [--clients 1 8]
        [--overlap 1 3] [--begun 0 50000]

For each size of the queue and number of clients it prints p50 and p95 of a claim of 8 and of a decision (half of
them accepts, which also make a sample), the CPU-milliseconds that the API process and PostgreSQL spent per decided
candidate (claims and authentication included, /proc/<pid>/stat), and how many candidates were given to two clients at
once (with an overlap: twice to one client). With an overlap, `--begun` candidates have a verdict of the first client.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import httpx
import sqlalchemy as sa

from curation.adapters.pgmq_schema import install_pgmq
from curation.db.engine import Database
from curation.db.schema import migrate
from curation.domain import Role
from curation.review.consensus import ConsensusRule, ConsensusSettings, set_consensus
from curation.review.reviewers import add_reviewer, issue_token
from curation.settings import Settings
from curation.storage_settings import EMBEDDED
from tests.support.servers import postgres

TRAY = 8
HEADERS = {"x-layerloop": "1"}


@dataclass(frozen=True)
class Bounds:
    """When a measurement ends: after so many decisions of all clients together, or so many seconds."""

    decisions: int
    seconds: float


def main() -> None:
    """Measure every combination asked for and print one line each."""
    options = _options()
    signal.signal(
        signal.SIGTERM, lambda *_: sys.exit(143)
    )  # so that databases and processes are cleared away
    print(
        f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {sys.version.split()[0]}, claims of {TRAY}"
    )
    print(
        f"{'waiting':>8} {'clients':>7} {'overlap':>7} {'begun':>7} | {'tray p50':>8} {'p95 ms':>7} | {'decide p50':>10} {'p95 ms':>7} | "
        f"{'decisions/s':>11} | {'API CPU-ms':>10} {'PostgreSQL':>10} per candidate | duplicates"
    )
    with _server(options.database) as server:
        for waiting in options.candidates:
            for clients, overlap, begun in product(options.clients, options.overlap, options.begun):
                bounds = Bounds(options.decisions, options.seconds)
                found = measure(
                    server, waiting, clients, bounds, overlap, begun if overlap > 1 else 0
                )
                print(json.dumps(found) if options.json else _line(found), flush=True)


def measure(
    server: str, waiting: int, clients: int, bounds: Bounds, overlap: int = 1, begun: int = 0
) -> dict[str, Any]:
    """One instance of its own with so many waiting candidates, one API process, so many clients at once."""
    with _database(server) as address, tempfile.TemporaryDirectory() as home:
        database = Database(address)
        tokens = _fill(database, waiting, clients, overlap, begun)
        with _api(address, home) as (url, pid):
            postgres = _postmaster(database)
            _warm_up(url, tokens.pop())
            api_before, postgres_before = _cpu_seconds(pid), _postgres_seconds(postgres)
            with multiprocessing.get_context("spawn").Pool(clients) as pool:
                each = bounds.decisions // clients
                results = pool.starmap(
                    _review, [(url, token, each, bounds.seconds) for token in tokens]
                )
            took = max(one["ended"] for one in results) - min(one["began"] for one in results)
            decided = sum(len(one["decide"]) for one in results)
            api_used = _cpu_seconds(pid) - api_before
            postgres_used = _postgres_seconds(postgres) - postgres_before
        given = Counter(
            (one, who if overlap > 1 else 0)
            for who, result in enumerate(results)
            for one in result["given"]
        )
        twice = "reviewer_id, candidate_id" if overlap > 1 else "candidate_id"
        with database.transaction() as tx:
            kept = tx.execute(
                sa.text(f"select count(*), count(distinct ({twice})) from decisions")
            ).one()
        database.close()
    return {
        "waiting": waiting,
        "clients": clients,
        "overlap": overlap,
        "begun": begun,
        "tray_ms": _percentiles([ms for one in results for ms in one["tray"]]),
        "decide_ms": _percentiles([ms for one in results for ms in one["decide"]]),
        "decisions": decided,
        "decisions_per_second": decided / took,
        "api_cpu_ms": 1_000 * api_used / decided,
        "postgres_cpu_ms": 1_000 * postgres_used / decided if postgres else None,
        "duplicates": sum(count - 1 for count in given.values()) + kept[0] - kept[1],
    }


def _review(url: str, token: str, decisions: int, seconds: float) -> dict[str, Any]:
    """Run a client that claims batches and decides until a bound; return latencies in ms."""
    output: dict[str, Any] = {"tray": [], "decide": [], "given": [], "began": time.monotonic()}
    with httpx.Client(base_url=url, headers=HEADERS, timeout=30) as client:
        client.post("/api/session", json={"token": token}).raise_for_status()
        output["began"] = time.monotonic()
        while len(output["decide"]) < decisions and time.monotonic() - output["began"] < seconds:
            items = _timed(client, output["tray"], "/api/review/claims", {"count": TRAY})[
                "candidates"
            ]
            if not items:
                break
            output["given"] += [item["id"] for item in items]
            for index, item in enumerate(items):
                body = (
                    {"verdict": "accept"}
                    if index % 2
                    else {"verdict": "reject", "reasons": ["halo"]}
                )
                body = body | {
                    "candidate": item["id"],
                    "dwell_ms": 900,
                    "key": str(uuid.uuid4()),
                }
                _timed(client, output["decide"], "/api/review/decisions", body)
        output["ended"] = time.monotonic()
    return output


def _timed(
    client: httpx.Client, latencies: list[float], path: str, body: dict[str, Any]
) -> dict[str, Any]:
    started = time.perf_counter()
    answer = client.post(path, json=body)
    latencies.append(1_000 * (time.perf_counter() - started))
    answer.raise_for_status()
    found: dict[str, Any] = answer.json()
    return found


def _warm_up(url: str, token: str) -> None:
    """Open connections and load code before anything is measured."""
    _review(url, token, 4 * TRAY, 10)


def _fill(
    database: Database, waiting: int, clients: int, overlap: int = 1, begun: int = 0
) -> list[str]:
    """Return an open round with so many waiting candidates of one layer each; sign-in tokens, one more than clients."""
    with database.transaction() as tx:
        for statement in _FILL:
            tx.execute(sa.text(statement), {"n": waiting})
        reviewers = [add_reviewer(tx, f"reviewer {i}", Role.annotator) for i in range(clients + 1)]
        tokens = [issue_token(tx, reviewer, 60) for reviewer in reviewers]
        if overlap > 1:
            set_consensus(tx, 1, ConsensusSettings(ConsensusRule.majority, overlap), "benchmark")
            tx.execute(sa.text(_BEGUN), {"n": begun, "reviewer": reviewers[0].id})
    engine = database.engine.execution_options(isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(
            "vacuum analyze"
        )  # as autovacuum leaves a table that has stood for a minute
    return tokens


_BEGUN = """
    with decided as (
        insert into decisions (candidate_id, reviewer_id, verdict, channel, key)
        select md5('candidate' || i)::uuid, :reviewer, 'reject', 'pages', md5('key' || i)::uuid
        from generate_series(1, :n) i returning candidate_id)
    update candidates set decided = 1 from decided where candidates.id = decided.candidate_id"""

_FILL = (
    "insert into snapshots (id, samples, counts) values (repeat('a', 64), 0, '{}')",
    """insert into checkpoints (id, recipe, preset, snapshot_id, seed, code_version, files, evaluation)
       values (repeat('b', 64), 'whole', 'tiny', repeat('a', 64), 0, 'benchmark', '{}', '{}')""",
    """insert into rounds (purpose, kind, checkpoint_id, quota, policy, state)
       values ('generated', 'single', repeat('b', 64), :n, '{"kind": "random", "share": 1.0}', 'open')""",
    """insert into prompts (id, text) select md5('prompt' || i)::uuid, 'a red circle, number ' || i
       from generate_series(1, 1000) i""",
    """insert into layers (sha256, width, height, bytes, visible)
       select md5('l' || i) || md5('m' || i), 64, 64, 4096, md5('v' || i) || md5('w' || i) from generate_series(1, :n) i""",
    """insert into candidates (id, round_id, prompt_id, seed, state, priority, propensity)
       select md5('candidate' || i)::uuid, 1, md5('prompt' || (i % 1000 + 1))::uuid, i, 'waiting', random(), 1.0
       from generate_series(1, :n) i""",
    """insert into candidate_layers (candidate_id, role, sha256)
       select md5('candidate' || i)::uuid, 'foreground', md5('l' || i) || md5('m' || i) from generate_series(1, :n) i""",
    """insert into screenings (candidate_id, signals)
       select md5('candidate' || i)::uuid, '{"coverage": 0.41, "haze": 0.02, "specks": 0, "border_touch": 0.0}'
       from generate_series(1, :n) i""",
)


@contextlib.contextmanager
def _server(given: str | None) -> Iterator[str]:
    """Yield the server to measure on: the one given, the one in the settings, or an embedded one in a temporary folder."""
    address = given or Settings().database
    with postgres(None if address == EMBEDDED else address) as server:
        yield server


@contextlib.contextmanager
def _database(server: str) -> Iterator[str]:
    """Yield a migrated database of its own for one measurement; durable as PostgreSQL comes."""
    name = f"bench_{uuid.uuid4().hex[:12]}"
    url = sa.make_url(server).set(drivername="postgresql+psycopg2")
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with engine.connect() as connection:
        connection.exec_driver_sql(f"create database {name} template template0")
    try:
        address = sa.make_url(server).set(database=name).render_as_string(hide_password=False)
        database = Database(address)
        migrate(database)
        database.close()
        install_pgmq(address)
        yield address
    finally:
        with engine.connect() as connection:
            connection.exec_driver_sql(f"drop database if exists {name} with (force)")


@contextlib.contextmanager
def _api(address: str, home: str) -> Iterator[tuple[str, int]]:
    """`layerloop api` as it is run anywhere, on a free port of loopback; its URL and process id."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = Settings(home=Path(home), database=address, port=port, review_lease_seconds=600)
    command = [sys.executable, "-m", "curation.cli.main", "api"]
    with subprocess.Popen(command, env=settings.environment()) as process:
        url = f"http://127.0.0.1:{port}"
        try:
            for _ in range(300):
                with contextlib.suppress(httpx.TransportError):
                    if httpx.get(f"{url}/api/health").is_success:
                        break
                time.sleep(0.1)
            yield url, process.pid
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


def _cpu_seconds(pid: int, *, reaped: bool = True) -> float:
    """User and system time of a process, with that of its children that have ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    ticks = sum(int(field) for field in fields[11 : 15 if reaped else 13])
    return ticks / os.sysconf("SC_CLK_TCK")


def _postmaster(database: Database) -> int | None:
    """Return the process id of PostgreSQL's parent process, or None where it runs on another machine."""
    with database.transaction() as tx:
        backend = int(tx.scalar(sa.text("select pg_backend_pid()")))
        with contextlib.suppress(OSError):
            stat = Path(f"/proc/{backend}/stat").read_text()
            if "postgres" in stat:
                return int(stat.rpartition(")")[2].split()[1])
    return None


def _postgres_seconds(postmaster: int | None) -> float:
    """CPU time of a whole PostgreSQL: its parent, those that ended, and every process of it that lives."""
    if postmaster is None:
        return 0.0
    total = _cpu_seconds(postmaster)
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, IndexError):
            if int(stat.read_text().rpartition(")")[2].split()[1]) == postmaster:
                total += _cpu_seconds(int(stat.parent.name))
    return total


def _percentiles(latencies: list[float]) -> dict[str, float]:
    cuts = statistics.quantiles(latencies, n=20)
    return {"p50": cuts[9], "p95": cuts[18]}


def _line(found: dict[str, Any]) -> str:
    postgres = found["postgres_cpu_ms"]
    return (
        f"{found['waiting']:>8,} {found['clients']:>7} {found['overlap']:>7} {found['begun']:>7,} | {found['tray_ms']['p50']:>8.1f} {found['tray_ms']['p95']:>7.1f} | "
        f"{found['decide_ms']['p50']:>10.1f} {found['decide_ms']['p95']:>7.1f} | {found['decisions_per_second']:>11.0f} | "
        f"{found['api_cpu_ms']:>10.2f} {'-' if postgres is None else f'{postgres:.2f}':>10} {'':>13} | "
        f"{found['duplicates']:>10}"
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="The review queue under load.")
    parser.add_argument(
        "--database", help="a PostgreSQL to make throw-away databases on; embedded when not given"
    )
    parser.add_argument("--candidates", type=int, nargs="+", default=[1_000, 100_000])
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8])
    parser.add_argument(
        "--overlap", type=int, nargs="+", default=[1], help="how many decide each candidate"
    )
    parser.add_argument(
        "--begun",
        type=int,
        nargs="+",
        default=[0],
        help="candidates that the first client has decided",
    )
    parser.add_argument(
        "--decisions", type=int, default=800, help="how many decisions end one measurement"
    )
    parser.add_argument(
        "--seconds", type=float, default=20, help="how many seconds end one measurement"
    )
    parser.add_argument(
        "--json", action="store_true", help="one JSON object a line instead of a table"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
