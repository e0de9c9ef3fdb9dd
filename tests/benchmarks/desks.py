"""Both desks on one machine, with the same candidates: how fast people are served, and what a round costs there and back.

    python -m tests.benchmarks.desks [--tasks 100 1000] [--clients 1 8] [--decisions 60]

For each size it fills a round, puts it up at a real Label Studio (import), lets clients take the next task and submit,
each in a session of a user of its own, and brings the decisions home (collect); then the same clients decide at our own
API. It prints decisions a minute, how many candidates were given to two people, and ratios. Label Studio stands as it is
installed, on SQLite; 10,000 tasks take it a quarter of an hour.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import sqlalchemy as sa

from curation.adapters.label_studio import LabelStudioDesk
from curation.adapters.label_studio_view import as_result
from curation.database import Database
from curation.desk import boards
from curation.desk.exchange import Exchange
from curation.desk.previews import Previews
from curation.domain import RejectReason, Verdict
from curation.label_studio_server import CACHE, LabelStudioServer, label_studio
from tests.benchmarks import review_queue as ours

BOTH = (as_result(Verdict.accept), as_result(Verdict.reject, [RejectReason.halo]))


def main() -> None:
    """Measure every combination asked for and print one line each."""
    options = _options()
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {sys.version.split()[0]}")
    with tempfile.TemporaryDirectory() as folder, ours._server(None) as postgres:
        with label_studio(
            Path(os.environ.get("LAYERLOOP_TEST_LABEL_STUDIO") or CACHE), Path(folder) / "data"
        ) as studio:
            for tasks in options.tasks:
                for clients in options.clients:
                    there = measure_there(postgres, studio, tasks, clients, options.decisions)
                    bounds = ours.Bounds(min(tasks // 2, 20 * options.decisions), 60)
                    here = ours.measure(postgres, tasks, clients, bounds)
                    print(_line(tasks, clients, there, here), flush=True)


def measure_there(postgres: str, studio: LabelStudioServer, tasks: int, clients: int, decisions: int) -> dict[str, Any]:
    """One house with so many waiting candidates whose round is at Label Studio, and so many people at it."""
    with ours._database(postgres) as address:
        database = Database(address)
        ours._fill(database, tasks, clients)
        desk = LabelStudioDesk(studio.address, studio.token)
        exchange = Exchange(database, desk, "bench", Previews("secret", "http://127.0.0.1:1").address, tasks, pause=0)
        began = time.monotonic()
        while exchange.put_up(1):
            pass
        put_up = time.monotonic() - began
        with database.transaction() as tx:
            [board] = boards.open_boards(tx, desk.address)
        exchange.collect()
        people = [_person(studio, f"person{number}@example.org") for number in range(clients)]
        project, each = int(board.number or 0), max(1, min(decisions, tasks // 2) // clients)
        began = time.monotonic()
        with ThreadPoolExecutor(clients) as pool:
            given = [one for several in pool.map(lambda who: _decide(who, project, each), people) for one in several]
        took = time.monotonic() - began
        cpu = ours._cpu_seconds(studio.process.pid)
        began = time.monotonic()
        outcomes = exchange.collect()
        collect = time.monotonic() - began
        began = time.monotonic()
        exported = people[0].get(f"/api/projects/{project}/export?exportType=JSON", timeout=600).json()
        export = time.monotonic() - began
        began = time.monotonic()
        with database.transaction() as tx:
            mine = json.dumps([dict(row) for row in tx.execute(sa.text(_EXPORT)).mappings()], default=str)
        here = time.monotonic() - began
        for one in people:
            one.close()
        desk.close()
        database.close()
    assert len(json.loads(mine)) == outcomes["kept"]
    return {
        "put_up_s": put_up, "decisions_per_minute": 60 * len(given) / took, "collect_s": collect, "export_s": export,
        "exported": len(exported), "export_here_s": here, "kept": outcomes["kept"], "refused": outcomes["refused"],
        "duplicates": sum(count - 1 for count in Counter(given).values()), "cpu_s": cpu,
    }  # fmt: skip


def _person(studio: LabelStudioServer, email: str) -> httpx.Client:
    """A user with a session of their own, invited as people are; they are known again when they come back."""
    client = httpx.Client(base_url=studio.address, timeout=120)
    owner = {"Authorization": f"Token {studio.token}"}
    invited = client.get("/api/invite", headers=owner).json()["invite_url"]
    for path in (invited, "/user/login/"):
        form = client.get(path)
        found = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', form.text)
        if found is None:
            break
        said = {"csrfmiddlewaretoken": found.group(1), "email": email, "password": "a long password"}
        client.post(path, data=said | {"allow_newsletters": "false"}, headers={"Referer": studio.address})
        if "sessionid" in client.cookies and client.get("/api/current-user/whoami").is_success:
            break
    client.headers.update({"X-CSRFToken": client.cookies.get("csrftoken", ""), "Referer": studio.address})
    client.get("/api/current-user/whoami").raise_for_status()
    return client


def _decide(client: httpx.Client, project: int, count: int) -> list[int]:
    """Take the next task and submit, so many times; the tasks that were given."""
    given = []
    for place in range(count):
        answer = client.get(f"/api/projects/{project}/next")
        if answer.status_code == 404:
            break
        task = answer.raise_for_status().json()["id"]
        given.append(task)
        said = {"result": BOTH[place % 2], "lead_time": 0.9}
        client.post(f"/api/tasks/{task}/annotations?project={project}", json=said).raise_for_status()
    return given


def _line(tasks: int, clients: int, there: dict[str, Any], here: dict[str, Any]) -> str:
    minute = 60 * here["decisions_per_second"]
    return (
        f"{tasks:>7,} tasks, {clients} clients: decisions/min Label Studio {there['decisions_per_minute']:.0f}, "
        f"ours {minute:.0f} ({minute / there['decisions_per_minute']:.0f} times); given to two: {there['duplicates']} / "
        f"{here['duplicates']}; put up in {there['put_up_s']:.1f} s, {there['kept']} collected in "
        f"{there['collect_s']:.1f} s ({there['refused']} refused); export {there['export_s']:.2f} s of "
        f"{there['exported']} / ours {there['export_here_s'] * 1_000:.0f} ms of {there['kept']}"
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Both desks under the same work.")
    parser.add_argument("--tasks", type=int, nargs="+", default=[100, 1_000])
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--decisions", type=int, default=60, help="how many decisions end one measurement there")
    return parser.parse_args()


_EXPORT = """
    select d.*, r.name from decisions d join reviewers r on r.id = d.reviewer_id order by d.id"""


if __name__ == "__main__":
    main()
