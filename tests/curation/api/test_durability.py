"""The API is killed repeatedly during review: confirmed decisions are stored, and repeated requests are one decision."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator

import httpx
import pytest
import sqlalchemy as sa

from curation.db.tables import decisions, samples
from curation.review import reviewers
from curation.settings import Settings
from tests.curation.api.conftest import CHANGE
from tests.support.factories import make_candidates, make_round, states
from tests.support.servers import free_port

REVIEWERS, CANDIDATES, RESTARTS = 3, 60, 3


class Api:
    """`layerloop api` in a process of its own, always on the same port."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.url = f"http://127.0.0.1:{settings.port}"
        self.process = self._start()

    def kill(self) -> None:
        """Kill the process with SIGKILL, and start it again."""
        self.process.kill()
        self.process.wait()
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "curation.cli.main", "api"]
        process = subprocess.Popen(command, env=self.settings.environment())
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and process.poll() is None:
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{self.url}/api/health", timeout=2).is_success:
                    return process
            time.sleep(0.05)
        raise AssertionError("the API did not start")


@pytest.fixture
def api(settings: Settings) -> Iterator[Api]:
    started = Api(
        settings.model_copy(update={"port": free_port(), "front_end": "there_are_no_pages:mount"})
    )
    yield started
    started.process.kill()
    started.process.wait()


@pytest.mark.slow
def test_no_confirmed_decision_is_lost_or_duplicated(api, database, store):
    with database.transaction() as tx:
        round_id = make_round(tx)
        make_candidates(tx, store, round_id, CANDIDATES)
        reviewer_rows = [reviewers.add_reviewer(tx, f"r{i}") for i in range(REVIEWERS)]
        tokens = [reviewers.issue_token(tx, reviewer, 5) for reviewer in reviewer_rows]
    confirmed: dict[str, tuple[int, str, str]] = {}
    failed = threading.Event()
    lock = threading.Lock()

    def review(token: str) -> None:
        with httpx.Client(base_url=api.url, headers=CHANGE, timeout=5) as client:
            post(client, "/api/session", {"token": token})
            while items := post(client, "/api/review/claims", {"count": 3})["candidates"]:
                for index, item in enumerate(items):
                    verdict = ("accept", "reject")[index % 2]
                    body = {"candidate": item["id"], "verdict": verdict, "key": str(uuid.uuid4())}
                    response = post(client, "/api/review/decisions", body)
                    with lock:
                        confirmed[body["key"]] = (response["decision"], item["id"], verdict)
                    time.sleep(0.05)

    def post(client: httpx.Client, path: str, body: dict) -> dict:
        """Repeat the request until it is answered, as the page does."""
        for _ in range(600):
            try:
                response = client.post(path, json=body)
            except httpx.TransportError:
                time.sleep(0.1)
                continue
            if response.status_code != 503:
                response.raise_for_status()
                return response.json()
        failed.set()
        raise AssertionError("the request was never answered")

    threads = [threading.Thread(target=review, args=(token,)) for token in tokens]
    for thread in threads:
        thread.start()
    for kill in range(1, RESTARTS + 1):
        deadline = time.monotonic() + 60
        while len(confirmed) < kill * CANDIDATES // (RESTARTS + 2) and time.monotonic() < deadline:
            time.sleep(0.005)
        api.kill()
    for thread in threads:
        thread.join(120)
    with database.transaction() as tx:
        stored = {str(row.key): row for row in tx.execute(sa.select(decisions))}
        accepted = tx.scalar(sa.select(sa.func.count()).select_from(samples))
    assert not failed.is_set()
    assert len(confirmed) == CANDIDATES
    assert set(stored) == set(confirmed), "exactly the confirmed decisions are stored"
    for key, (decision, candidate, verdict) in confirmed.items():
        assert (stored[key].id, str(stored[key].candidate_id), stored[key].verdict) == (
            decision,
            candidate,
            verdict,
        )
    assert len({row.candidate_id for row in stored.values()}) == CANDIDATES
    counts = states(database, round_id)
    assert counts["accepted"] == accepted
    assert counts["accepted"] + counts["rejected"] == CANDIDATES
