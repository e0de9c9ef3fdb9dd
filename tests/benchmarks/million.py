"""Measure an instance with a million candidates: every page and route, then many reviewers and workers at once.

    python -m tests.benchmarks.million [--database postgresql://...] [--candidates 1000 1000000] [--load-seconds 60]

For each size, a database of its own is filled (210 samples and about 530 decisions for 1,000 candidates, 100
reviewers, 20 rounds of which one has half of the candidates), and an API process answers every operation of its
OpenAPI document and every page; the program fails if one is missing here. It prints p50 and p95 at each size. Then
reviewers with a second of thought between decisions and generating workers (small images, no model) share the largest
instance for the time given, with PostgreSQL and, if it is installed, radosgw; it prints rates, p95 and errors.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import itertools
import os
import statistics
import tempfile
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np
import sqlalchemy as sa

from annotator_ui.app import PAGES
from curation.adapters.s3 import S3Store
from curation.api.signed_urls import SignedUrls
from curation.datasets.snapshots import freeze_snapshot
from curation.db.engine import Database
from curation.db.tables import layers
from curation.domain import LayerRole, Role
from curation.images.codec import encode_layer, pixel_hash
from curation.object_store import FolderStore
from curation.ports import ObjectStore
from curation.reporting import kept
from curation.review.reviewers import add_reviewer, find_reviewer, issue_token
from curation.rounds import generation
from tests.benchmarks.review_queue import HEADERS, TRAY, _api, _database, _server
from tests.support.factories import image, make_checkpoint
from tests.support.million_rows import REVIEWERS, fill
from tests.support.pipeline_steps import generate_claimed
from tests.support.servers import radosgw

# Without Label Studio its operations have nothing to answer; a round is closed and a loop cancelled
# once, and a token signs in once. Freezing a snapshot is timed by itself. A comparison has at most
# 2,000 items, whatever the size of the instance; tests/curation/comparisons holds its query plans.
NOT_MEASURED = {
    "GET /api/labeling/previews/{task_id}/{role}.webp",
    "POST /api/labeling/webhook",
    "POST /api/session",
    "DELETE /api/session",
    "POST /api/snapshots",
    "POST /api/rounds/{number}/close",
    "POST /api/loops/{number}/cancel",
    *(f"POST /api/comparison/{step}" for step in ("claims", "release", "votes", "undo")),
    "GET /api/comparisons",
    "GET /api/comparisons/{number}",
    "POST /api/comparisons/{number}/close",
}
PAUSING, ENDING = ("pause", "resume"), ("cancel", "retry")
"""Actions that are called in turn, since each needs the state that the other leaves."""
ROWS = ("candidates", "samples", "decisions")
SECRET = "the signing secret of this benchmark"
IMAGE = hashlib.sha256(encode_layer(image(1))).hexdigest()
"""The one layer whose object exists."""

Request = Callable[[], httpx.Response]


class Prepared(NamedTuple):
    """A request whose body needs other requests, which are not timed."""

    make_body: Callable[[], Any]
    send: Callable[[Any], httpx.Response]


def main() -> None:
    """Measure every size, print the table, and put load on the largest instance."""
    options = _options()
    os.environ |= {"LAYERLOOP_SECRET": SECRET, "LAYERLOOP_LOG_LEVEL": "error"}
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}", flush=True)
    found: dict[str, dict[int, tuple[float, float]]] = defaultdict(dict)
    with _server(options.database) as server:
        for count in options.candidates:
            load = options.load_seconds if count == max(options.candidates) else 0
            for name, latencies in _measure(server, count, options.requests, load).items():
                cuts = statistics.quantiles(latencies, n=20)
                found[name][count] = (cuts[9], cuts[18])
    sizes = "".join(f" | {f'{count:,} p50':>15} {'p95 ms':>8}" for count in options.candidates)
    print(f"{'operation':48}{sizes}")
    for name, by_size in found.items():
        cells = (by_size.get(count, (float("nan"),) * 2) for count in options.candidates)
        print(f"{name:48}" + "".join(f" | {p50:>15.1f} {p95:>8.1f}" for p50, p95 in cells))


def _measure(server: str, count: int, requests: int, load_seconds: int) -> dict[str, list[float]]:
    """Fill a database, and return the latencies of every operation in milliseconds."""
    with _database(server) as address, tempfile.TemporaryDirectory() as home:
        database = Database(address)
        _timed(f"{count:,} candidates: filled", lambda: fill(database, count))
        store = FolderStore(Path(home) / "objects")
        tokens = _prepare(database, store)
        _timed(
            "  snapshot frozen", lambda: freeze_snapshot(database, store, tag="latest", actor="x")
        )
        _timed("  reports kept", lambda: _refresh(database))
        with database.transaction() as tx:
            rows = [tx.scalar(sa.text(f"select count(*) from {name}")) for name in ROWS]
        print("  " + ", ".join(f"{n:,} {name}" for n, name in zip(rows, ROWS, strict=True)))
        with _api(address, home) as (url, _):
            latencies = _measure_api(url, tokens, requests)
        if load_seconds:
            _put_load_on(database, address, home, load_seconds)
        database.close()
    return latencies


def _prepare(database: Database, store: ObjectStore) -> dict[Role, str]:
    """Add one image, a checkpoint, and sign-in tokens of an annotator with a past, of an engineer and of a trainer."""
    stored = encode_layer(image(1))
    row = {"sha256": store.put(stored), "width": 32, "height": 24, "bytes": len(stored)}
    with database.transaction() as tx:
        make_checkpoint(tx)
        tx.execute(sa.insert(layers), row | {"visible": pixel_hash(image(1))})
        people = {
            Role.annotator: find_reviewer(tx, "reviewer 1"),
            Role.engineer: add_reviewer(tx, "engineer", Role.engineer),
            Role.trainer: add_reviewer(tx, "trainer", Role.trainer),
        }
        return {role: issue_token(tx, person, 3_600) for role, person in people.items()}


def _refresh(database: Database) -> None:
    while kept.refresh_reports(database):
        pass


def _measure_api(url: str, tokens: dict[Role, str], requests: int) -> dict[str, list[float]]:
    latencies: dict[str, list[float]] = {}
    with contextlib.ExitStack() as stack:
        clients = {}
        for role, token in tokens.items():
            client = stack.enter_context(httpx.Client(base_url=url, headers=HEADERS, timeout=120))
            client.post("/api/session", json={"token": token}).raise_for_status()
            clients[role] = client
        operations = _operations(clients)
        document = clients[Role.trainer].get("/api/openapi.json").json()["paths"]
        offered = {f"{verb.upper()} {path}" for path, verbs in document.items() for verb in verbs}
        missing = offered - {name.partition(" (")[0] for name in operations} - NOT_MEASURED
        assert not missing, f"add these operations to _operations: {sorted(missing)}"
        for name, request in operations.items():
            latencies[name] = []
            for number in range(requests + 1):
                body = request.make_body() if isinstance(request, Prepared) else None
                started = time.perf_counter()
                answer = request.send(body) if isinstance(request, Prepared) else request()
                # The first request opens connections and loads code.
                if number:
                    latencies[name].append(1_000 * (time.perf_counter() - started))
                assert answer.status_code < 400, f"{name}: {answer.status_code} {answer.text[:300]}"
    return latencies


def _operations(clients: dict[Role, httpx.Client]) -> dict[str, Request | Prepared]:
    """Return a request for every operation of the API and every page."""
    annotator, engineer, trainer = (clients[role] for role in list(clients))
    links = SignedUrls(SECRET)
    claimed: list[str] = []
    decided: list[int] = []

    def get(client: httpx.Client, path: str, **params: Any) -> Request:
        return lambda: client.get(path, params=params)

    def in_turn(client: httpx.Client, path: str, *actions: str) -> Request:
        turns = itertools.cycle(actions)
        return lambda: client.post(f"/api/{path}/{next(turns)}")

    def claim(round_id: int | None) -> Request:
        def request() -> httpx.Response:
            annotator.post("/api/review/release", json={"candidates": claimed})
            claimed.clear()
            body = {"count": TRAY, "holding": []} | ({"round": round_id} if round_id else {})
            answer = annotator.post("/api/review/claims", json=body)
            claimed.extend(item["id"] for item in answer.json()["candidates"])
            return answer

        return request

    def decision() -> dict[str, Any]:
        while not claimed:
            claim(None)()
        return {"candidate": claimed.pop(0), "verdict": "accept", "dwell_ms": 900} | _key()

    def decide(body: dict[str, Any]) -> httpx.Response:
        answer = annotator.post("/api/review/decisions", json=body)
        decided.append(answer.json()["decision"])
        return answer

    def to_undo() -> dict[str, Any]:
        decide(decision())
        return {"decision": decided.pop()} | _key()

    def send(path: str) -> Callable[[Any], httpx.Response]:
        return lambda body: annotator.post(path, json=body)

    candidate = claim(None)().json()["candidates"][0]["id"]
    checkpoint = trainer.get("/api/checkpoints").json()[0]["id"]
    snapshot = trainer.get("/api/snapshots/latest").json()["snapshot"]["id"]
    sample = trainer.get("/api/snapshots/latest").json()["samples"][0]["id"]
    run = trainer.get("/api/runs").json()[0]["id"]
    trainer.post(f"/api/runs/{run}/retry").raise_for_status()
    loop = engineer.get("/api/loops").json()[0]["id"]
    operations: dict[str, Request | Prepared] = {
        "POST /api/review/claims (all rounds)": claim(None),
        "POST /api/review/claims (overlap)": claim(2),
        "POST /api/review/decisions": Prepared(decision, decide),
        "POST /api/review/decisions/batch": Prepared(
            lambda: {"decisions": [decision() for _ in range(8)]},
            send("/api/review/decisions/batch"),
        ),
        "POST /api/review/undo": Prepared(to_undo, send("/api/review/undo")),
        "POST /api/review/undo/batch": Prepared(
            lambda: {"undos": [to_undo() for _ in range(4)]}, send("/api/review/undo/batch")
        ),
        "POST /api/review/release": lambda: annotator.post(
            "/api/review/release", json={"candidates": claimed[:8]}
        ),
        "GET /api/review/latest": get(annotator, "/api/review/latest"),
        "GET /api/review/nearest": get(annotator, "/api/review/nearest", candidate=candidate),
        "GET /api/review/reasons": get(annotator, "/api/review/reasons"),
        "GET /api/me": get(annotator, "/api/me"),
        "GET /api/me/stats": get(annotator, "/api/me/stats"),
        "GET /api/rounds (annotator)": get(annotator, "/api/rounds"),
        "GET /api/rounds": get(engineer, "/api/rounds"),
        "GET /api/rounds/trend": get(engineer, "/api/rounds/trend"),
        "GET /api/rounds/{number} (half of all)": get(engineer, "/api/rounds/1"),
        "GET /api/rounds/{number} (overlap)": get(engineer, "/api/rounds/2"),
        "GET /api/rounds/{number}/agreement": get(engineer, "/api/rounds/2/agreement"),
        "POST /api/rounds/{number}/pause": (paused := in_turn(engineer, "rounds/20", *PAUSING)),
        "POST /api/rounds/{number}/resume": paused,
        "GET /api/reviewers": get(engineer, "/api/reviewers"),
        "GET /api/operations": get(engineer, "/api/operations"),
        "GET /api/snapshots": get(engineer, "/api/snapshots"),
        **{
            f"GET /api/snapshots/{{name}}{part}": get(engineer, f"/api/snapshots/latest{part}")
            for part in ("", "/changes", "/statistics", "/formats")
        },
        "GET /api/snapshots/{name}/objects/{sha256}": get(
            engineer, f"/api/snapshots/latest/objects/{snapshot}"
        ),
        "GET /api/checkpoints": get(engineer, "/api/checkpoints"),
        "GET /api/checkpoints/{name}": get(engineer, f"/api/checkpoints/{checkpoint}"),
        "GET /api/samples/{sample}/lineage": get(engineer, f"/api/samples/{sample}/lineage"),
        "GET /api/checkpoints/{name}/lineage": get(
            engineer, f"/api/checkpoints/{checkpoint}/lineage"
        ),
        "POST /api/checkpoints/{name}/promote": lambda: trainer.post(
            f"/api/checkpoints/{checkpoint}/promote"
        ),
        "GET /api/runs": get(engineer, "/api/runs"),
        "GET /api/runs (page 2)": get(engineer, "/api/runs", limit=50, after=run),
        "GET /api/runs/{run}": get(engineer, f"/api/runs/{run}"),
        "GET /api/runs/{run}/metrics": get(engineer, f"/api/runs/{run}/metrics"),
        "GET /api/runs/{run}/log": get(engineer, f"/api/runs/{run}/log"),
        "POST /api/runs/{run}/priority": lambda: trainer.post(
            f"/api/runs/{run}/priority", json={"priority": 1}
        ),
        "POST /api/runs/{run}/pause": (run_paused := in_turn(trainer, f"runs/{run}", *PAUSING)),
        "POST /api/runs/{run}/resume": run_paused,
        "POST /api/runs/{run}/cancel": (ended := in_turn(trainer, f"runs/{run}", *ENDING)),
        "POST /api/runs/{run}/retry": ended,
        "GET /api/loops": get(engineer, "/api/loops"),
        "GET /api/loops/{number}": get(engineer, f"/api/loops/{loop}"),
        "POST /api/loops/{number}/change": lambda: engineer.post(
            f"/api/loops/{loop}/change", json={"priority": 1}
        ),
        "POST /api/loops/{number}/pause": (held := in_turn(engineer, f"loops/{loop}", *PAUSING)),
        "POST /api/loops/{number}/resume": held,
        "GET /api/layers/{sha256}.{form}": lambda: annotator.get(links.address(IMAGE)),
        "GET /api/health": get(annotator, "/api/health"),
        "GET /api/live": get(annotator, "/api/live"),
        "GET /api/ready": get(annotator, "/api/ready"),
    }
    for path in PAGES:
        shown = path.replace("{number:int}", "1").replace("{name}", "latest")
        shown = shown.replace("{sample}", sample)
        operations[f"page {path}"] = get(engineer, shown)
    return operations


def _key() -> dict[str, str]:
    return {"key": str(uuid.uuid4())}


def _put_load_on(database: Database, address: str, home: str, seconds: int) -> None:
    """Let reviewers and workers share the instance, and print rates, p95 and errors."""
    with database.transaction() as tx:
        people = [find_reviewer(tx, f"reviewer {i + 1}") for i in range(REVIEWERS)]
        tokens = [issue_token(tx, person, 3_600) for person in people]
    with _store(Path(home) / "radosgw") as store, _api(address, home) as (url, _):
        found: dict[str, list[float]] = defaultdict(list)
        errors: list[str] = []
        ends = time.monotonic() + seconds
        threads = [
            threading.Thread(target=_review, args=(url, token, ends, found, errors))
            for token in tokens
        ]
        threads += [
            threading.Thread(target=_generate, args=(address, store, i, ends, found, errors))
            for i in range(16)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    print(f"  {REVIEWERS} reviewers and 16 workers for {seconds} s, store {type(store).__name__}")
    for name, latencies in sorted(found.items()):
        cuts = statistics.quantiles(latencies, n=20)
        rate = len(latencies) / seconds
        print(f"    {name}: {rate:.1f} per second, p50 {cuts[9]:.0f} ms, p95 {cuts[18]:.0f} ms")
    print(f"    {len(errors)} errors" + (f", the first: {errors[0]}" if errors else ""), flush=True)


@contextlib.contextmanager
def _store(folder: Path) -> Iterator[ObjectStore]:
    folder.mkdir()
    with radosgw(folder) as server:
        os.environ |= {
            "AWS_ACCESS_KEY_ID": server.access_key,
            "AWS_SECRET_ACCESS_KEY": server.secret_key,
        }
        store = S3Store("million", endpoint=server.endpoint)
        store.client.create_bucket(Bucket="million")
        yield store


def _review(
    url: str, token: str, ends: float, found: dict[str, list[float]], errors: list[str]
) -> None:
    """Decide claimed candidates as a person does, with a second of thought for each."""

    def send(name: str, path: str, body: dict[str, Any]) -> Any:
        started = time.perf_counter()
        answer = client.post(path, json=body)
        found[name].append(1_000 * (time.perf_counter() - started))
        answer.raise_for_status()
        return answer.json()

    try:
        with httpx.Client(base_url=url, headers=HEADERS, timeout=60) as client:
            send("sign-in", "/api/session", {"token": token})
            while time.monotonic() < ends:
                items = send("claim of 8", "/api/review/claims", {"count": TRAY})["candidates"]
                for item in items:
                    time.sleep(1)
                    body = {"candidate": item["id"], "verdict": "accept", "dwell_ms": 900}
                    send("decision", "/api/review/decisions", body | _key())
    except Exception as error:
        errors.append(f"{type(error).__name__}: {error}")


class _Images:
    """A generator that draws noise at once: what is measured is everything around it."""

    def generate(self, requests: Any) -> list[Any]:
        rng = np.random.default_rng()
        shape = (64, 64, 4)
        return [
            {LayerRole.foreground: rng.integers(0, 256, shape, dtype=np.uint8)} for _ in requests
        ]


def _generate(
    address: str,
    store: ObjectStore,
    number: int,
    ends: float,
    found: dict[str, list[float]],
    errors: list[str],
) -> None:
    """Claim, generate and keep batches of one round, as a worker does."""
    database, holder = Database(address), f"worker {number}"
    try:
        while time.monotonic() < ends:
            started = time.perf_counter()
            with database.transaction() as tx:
                claimed = generation.claim_candidates(tx, 1 + number % 4, holder, 4, 60)
            if claimed:
                generate_claimed(database, store, _Images(), claimed, holder)
            found["batch of 4 generated"].append(1_000 * (time.perf_counter() - started))
    except Exception as error:
        errors.append(f"{type(error).__name__}: {error}")
    finally:
        database.close()


def _timed(what: str, do: Callable[[], object]) -> None:
    began = time.monotonic()
    do()
    print(f"{what} in {time.monotonic() - began:.1f} s", flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--database", help="a PostgreSQL to use in place of an embedded one")
    parser.add_argument("--candidates", type=int, nargs="+", default=[1_000, 1_000_000])
    parser.add_argument("--requests", type=int, default=20, help="requests of each operation")
    parser.add_argument("--load-seconds", type=int, default=60, help="time of the load; 0 for none")
    return parser.parse_args()


if __name__ == "__main__":
    main()
