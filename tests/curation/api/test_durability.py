"""The API is killed again and again while people decide: what was answered is kept, what is sent again is one decision."""

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

PEOPLE, CANDIDATES, KILLS = 3, 60, 3


class Api:
    """`layerloop api` in a process of its own, always on the same port."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.url = f"http://127.0.0.1:{settings.port}"
        self.process = self._start()

    def kill(self) -> None:
        """SIGKILL, and start again."""
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
def test_no_answered_decision_is_lost_and_none_is_kept_twice(api, database, store):
    with database.transaction() as tx:
        number = make_round(tx)
        make_candidates(tx, store, number, CANDIDATES)
        people = [reviewers.add_reviewer(tx, f"r{i}") for i in range(PEOPLE)]
        tokens = [reviewers.issue_token(tx, one, 5) for one in people]
    answered: dict[str, tuple[int, str, str]] = {}
    failed = threading.Event()
    lock = threading.Lock()

    def person(token: str) -> None:
        with httpx.Client(base_url=api.url, headers=CHANGE, timeout=5) as client:
            post(client, "/api/session", {"token": token})
            while items := post(client, "/api/review/claims", {"count": 3})["candidates"]:
                for index, item in enumerate(items):
                    verdict = ("accept", "reject")[index % 2]
                    body = {"candidate": item["id"], "verdict": verdict, "key": str(uuid.uuid4())}
                    answer = post(client, "/api/review/decisions", body)
                    with lock:
                        answered[body["key"]] = (answer["decision"], item["id"], verdict)
                    time.sleep(0.05)

    def post(client: httpx.Client, path: str, body: dict) -> dict:
        """As the page does: the same request again until it is answered."""
        for _ in range(600):
            try:
                answer = client.post(path, json=body)
            except httpx.TransportError:
                time.sleep(0.1)
                continue
            if answer.status_code != 503:
                answer.raise_for_status()
                return answer.json()
        failed.set()
        raise AssertionError("never answered")

    threads = [threading.Thread(target=person, args=(token,)) for token in tokens]
    for thread in threads:
        thread.start()
    for kill in range(1, KILLS + 1):
        deadline = time.monotonic() + 60
        while len(answered) < kill * CANDIDATES // (KILLS + 2) and time.monotonic() < deadline:
            time.sleep(0.005)
        api.kill()
    for thread in threads:
        thread.join(120)
    with database.transaction() as tx:
        kept = {str(row.key): row for row in tx.execute(sa.select(decisions))}
        accepted = tx.scalar(sa.select(sa.func.count()).select_from(samples))
    assert not failed.is_set()
    assert len(answered) == CANDIDATES
    assert set(kept) == set(answered), "every decision is there, and no other"
    for key, (decision, candidate, verdict) in answered.items():
        assert (kept[key].id, str(kept[key].candidate_id), kept[key].verdict) == (
            decision,
            candidate,
            verdict,
        )
    assert len({row.candidate_id for row in kept.values()}) == CANDIDATES
    standing = states(database, number)
    assert standing["accepted"] == accepted
    assert standing["accepted"] + standing["rejected"] == CANDIDATES
