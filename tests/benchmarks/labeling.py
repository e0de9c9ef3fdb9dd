"""Measure speed and cost of Label Studio and of our review page on one machine with the same candidates.

    python -m tests.benchmarks.labeling [--tasks 100 1000] [--clients 1 8] [--decisions 60] [--carried 10000]

For each size it fills a round, pushes it to a real Label Studio (import), lets clients take the next task and submit,
each in a session of a user of its own, and pulls the annotations; then the same clients decide at our own
API. It prints decisions a minute, how many candidates were given to two people, and ratios. Then what it is to carry a
large round: `--carried` candidates pushed and pushed again from another URL, the same number of tasks imported with
an annotation each in one call, and all decisions exported as JSON, there and here. Label Studio stands as it is
installed, on SQLite; the whole run takes half an hour, most of it the large round's.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import sqlalchemy as sa

from curation.adapters.label_studio import LabelStudioBackend
from curation.adapters.label_studio_results import build_result
from curation.adapters.label_studio_view import configuration
from curation.db.engine import Database
from curation.domain import Kind, RejectReason, Verdict
from curation.labeling import projects
from curation.labeling.previews import PreviewUrls
from curation.labeling.sync import LabelingSync
from curation.runtime.label_studio_server import CACHE, LabelStudioServer, run_label_studio
from tests.benchmarks import review_queue as ours

BOTH = (build_result(Verdict.accept), build_result(Verdict.reject, [RejectReason.halo]))


def main() -> None:
    """Measure every combination asked for and print one line each."""
    options = _options()
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {sys.version.split()[0]}")
    with tempfile.TemporaryDirectory() as folder, ours._server(None) as postgres:
        with run_label_studio(
            Path(os.environ.get("LAYERLOOP_TEST_LABEL_STUDIO") or CACHE), Path(folder) / "data"
        ) as studio:
            for tasks in options.tasks:
                for clients in options.clients:
                    there = measure_there(postgres, studio, tasks, clients, options.decisions)
                    bounds = ours.Bounds(min(tasks // 2, 20 * options.decisions), 60)
                    here = ours.measure(postgres, tasks, clients, bounds)
                    print(_line(tasks, clients, there, here), flush=True)
            if options.carried:
                print(
                    _carried(options.carried, carry(postgres, studio, options.carried)), flush=True
                )


def measure_there(
    postgres: str, studio: LabelStudioServer, tasks: int, clients: int, decisions: int
) -> dict[str, Any]:
    """One instance with so many waiting candidates whose round is at Label Studio, and so many people at it."""
    with ours._database(postgres) as address:
        database = Database(address)
        ours._fill(database, tasks, clients)
        backend = LabelStudioBackend(studio.address, studio.token)
        sync = LabelingSync(
            database,
            backend,
            "bench",
            PreviewUrls("secret", "http://127.0.0.1:1").sign_url,
            tasks,
            pause=0,
        )
        began = time.monotonic()
        while sync.push(1):
            pass
        push = time.monotonic() - began
        with database.transaction() as tx:
            [found] = projects.open_projects(tx, backend.url)
        sync.pull()
        people = [_person(studio, f"person{number}@example.org") for number in range(clients)]
        project, each = int(found.remote_id or 0), max(1, min(decisions, tasks // 2) // clients)
        began = time.monotonic()
        with ThreadPoolExecutor(clients) as pool:
            given = [
                one
                for several in pool.map(lambda who: _decide(who, project, each), people)
                for one in several
            ]
        took = time.monotonic() - began
        cpu = ours._cpu_seconds(studio.process.pid)
        began = time.monotonic()
        outcomes = sync.pull()
        pull = time.monotonic() - began
        began = time.monotonic()
        exported = (
            people[0].get(f"/api/projects/{project}/export?exportType=JSON", timeout=600).json()
        )
        export = time.monotonic() - began
        began = time.monotonic()
        mine = _export(database)
        here = time.monotonic() - began
        for one in people:
            one.close()
        backend.close()
        database.close()
    assert len(json.loads(mine)) == outcomes["decided"]
    return {
        "push_s": push, "decisions_per_minute": 60 * len(given) / took, "pull_s": pull, "export_s": export,
        "exported": len(exported), "export_here_s": here, "decided": outcomes["decided"], "refused": outcomes["refused"],
        "duplicates": sum(count - 1 for count in Counter(given).values()), "cpu_s": cpu,
    }  # fmt: skip


def carry(postgres: str, studio: LabelStudioServer, count: int) -> dict[str, float]:
    """Seconds, and the server's CPU-seconds, of a round of so many candidates there, and of as many decisions back."""
    taken: dict[str, float] = {}

    def timed(name: str, work: Callable[[], Any]) -> Any:
        began, before = time.monotonic(), ours._cpu_seconds(studio.process.pid)
        found = work()
        taken[name], taken[f"{name}_cpu"] = (
            time.monotonic() - began,
            ours._cpu_seconds(studio.process.pid) - before,
        )
        return found

    with ours._database(postgres) as address:
        database = Database(address)
        ours._fill(database, count, 1)
        backend = LabelStudioBackend(studio.address, studio.token)
        here, moved = (
            PreviewUrls("secret", f"http://127.0.0.1:{port}").sign_url for port in (1, 2)
        )
        sync = LabelingSync(database, backend, "bench", here, count, pause=0)
        timed("push", lambda: all(iter(lambda: sync.push(1), {})))
        elsewhere = replace(sync, layer_url=moved)
        timed(
            "renew",
            lambda: (
                elsewhere.pull(everything=True),
                all(iter(lambda: elsewhere.push(1), {})),
            ),
        )
        owner = {"Authorization": f"Token {studio.token}"}
        with httpx.Client(base_url=studio.address, headers=owner, timeout=3_600) as client:
            requested = {"title": "carried", "label_config": configuration(Kind.single)}
            project = client.post("/api/projects", json=requested).raise_for_status().json()["id"]
            pages = [{"look": "<b>a cat</b>", "candidate": str(uuid.uuid4())} for _ in range(count)]
            tasks = [
                {"data": page, "annotations": [{"result": BOTH[i % 2]}]}
                for i, page in enumerate(pages)
            ]
            into = f"/api/projects/{project}/import"
            timed("import", lambda: client.post(into, json=tasks).raise_for_status())
            path = f"/api/projects/{project}/export?exportType=JSON"
            there = timed("export", lambda: client.get(path).raise_for_status().json())
            client.delete(f"/api/projects/{project}").raise_for_status()
        with database.transaction() as tx:
            tx.execute(sa.text(_DECIDED), {"n": count})
        mine = json.loads(timed("export_here", lambda: _export(database)))
        backend.close()
        database.close()
    assert (len(there), len(mine)) == (count, count)
    assert all(len(one["annotations"]) == 1 for one in there)
    return taken


def _export(database: Database) -> str:
    with database.transaction() as tx:
        return json.dumps(
            [dict(row) for row in tx.execute(sa.text(_EXPORT)).mappings()], default=str
        )


def _person(studio: LabelStudioServer, email: str) -> httpx.Client:
    """Return a user with a session of their own, invited as people are; they are known again when they come back."""
    client = httpx.Client(base_url=studio.address, timeout=120)
    owner = {"Authorization": f"Token {studio.token}"}
    invited = client.get("/api/invite", headers=owner).json()["invite_url"]
    for path in (invited, "/user/login/"):
        form = client.get(path)
        found = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', form.text)
        if found is None:
            break
        annotation = {
            "csrfmiddlewaretoken": found.group(1),
            "email": email,
            "password": "a long password",
        }
        client.post(
            path,
            data=annotation | {"allow_newsletters": "false"},
            headers={"Referer": studio.address},
        )
        if "sessionid" in client.cookies and client.get("/api/current-user/whoami").is_success:
            break
    client.headers.update(
        {"X-CSRFToken": client.cookies.get("csrftoken", ""), "Referer": studio.address}
    )
    client.get("/api/current-user/whoami").raise_for_status()
    return client


def _decide(client: httpx.Client, project: int, count: int) -> list[int]:
    """Take the next task and submit, so many times; the tasks that were given."""
    given = []
    for index in range(count):
        answer = client.get(f"/api/projects/{project}/next")
        if answer.status_code == 404:
            break
        task = answer.raise_for_status().json()["id"]
        given.append(task)
        annotation = {"result": BOTH[index % 2], "lead_time": 0.9}
        client.post(
            f"/api/tasks/{task}/annotations?project={project}", json=annotation
        ).raise_for_status()
    return given


def _line(tasks: int, clients: int, there: dict[str, Any], here: dict[str, Any]) -> str:
    minute = 60 * here["decisions_per_second"]
    return (
        f"{tasks:>7,} tasks, {clients} clients: decisions/min Label Studio {there['decisions_per_minute']:.0f}, "
        f"ours {minute:.0f} ({minute / there['decisions_per_minute']:.0f} times); given to two: {there['duplicates']} / "
        f"{here['duplicates']}; pushed in {there['push_s']:.1f} s, {there['decided']} pulled in "
        f"{there['pull_s']:.1f} s ({there['refused']} refused); export {there['export_s']:.2f} s of "
        f"{there['exported']} / ours {there['export_here_s'] * 1_000:.0f} ms of {there['decided']}"
    )


def _carried(count: int, taken: dict[str, float]) -> str:
    output = {
        "push": "pushed",
        "renew": "pushed from another URL",
        "import": "imported with annotations in one call",
    }
    parts = [
        f"{words} {taken[name]:.1f} s ({taken[f'{name}_cpu']:.1f} CPU-s there)"
        for name, words in output.items()
    ]
    export, here = taken["export"], taken["export_here"]
    return (
        f"{count:>7,} tasks: {', '.join(parts)}; {count:,} decisions exported: Label Studio {export:.2f} s "
        f"({taken['export_cpu']:.1f} CPU-s there), ours {here:.3f} s ({export / here:.0f} times faster)"
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Label Studio and our review page under the same load."
    )
    parser.add_argument("--tasks", type=int, nargs="*", default=[100, 1_000])
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8])
    parser.add_argument(
        "--decisions", type=int, default=60, help="how many decisions end one measurement there"
    )
    parser.add_argument(
        "--carried", type=int, default=10_000, help="candidates of the large round; 0 leaves it out"
    )
    return parser.parse_args()


_EXPORT = """
    select d.*, r.name from decisions d join reviewers r on r.id = d.reviewer_id order by d.id"""

_DECIDED = """
    insert into decisions (candidate_id, reviewer_id, verdict, channel, key)
    select id, (select min(id) from reviewers), case when row_number() over () % 2 = 0 then 'accept' else 'reject' end,
        'pages', md5('key' || id)::uuid from candidates limit :n"""


if __name__ == "__main__":
    main()
