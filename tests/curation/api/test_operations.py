"""The route of the operations page: for data engineers, without secrets and without paths of receivers."""

from __future__ import annotations

import uuid

import sqlalchemy as sa

from curation.db import leases, workers
from curation.db.tables import labeling_projects, pending_jobs, webhook_deliveries
from curation.db.workers import WorkerProcess, WorkerState
from curation.domain import CandidateState, Role
from curation.events import webhooks
from curation.rounds import lifecycle
from tests.support.factories import make_candidates, make_round

TOKEN = "hooks-of-somebody"


def fill(database, store) -> tuple[int, int]:
    """Fill an instance with two workers, a failing webhook, a waiting job and a project."""
    with database.transaction() as tx:
        round_id, other = make_round(tx), make_round(tx)
        found = make_candidates(tx, store, round_id, 3, CandidateState.generated)
        leases.claim(tx, found[:2], "screen", "one", 60)
        for name, state, reason in (
            ("one", WorkerState.busy, None),
            ("two", WorkerState.paused, "generate pauses for 8 s: http://me:geheim@s3/x fails"),
        ):
            worker = WorkerProcess(name, "host", 7, ["gpu"], "0.1.0", state, reason, "screen 1")
            workers.record_worker(tx, worker)
        tx.execute(sa.insert(pending_jobs), {"name": "screen", "args": "[1]"})
        webhooks.add_webhook(tx, f"https://example.org/{TOKEN}", ["round.paused"], "ann")
        lifecycle.pause_round(tx, other, "ann")
        tx.execute(
            sa.update(webhook_deliveries).values(
                state="failed", attempts=10, last_error="the receiver answered 500"
            )
        )
        row = {"id": uuid.uuid4(), "server_url": "http://127.0.0.1:1", "round_id": round_id}
        tx.execute(sa.insert(labeling_projects), row | {"part": 1, "error": "it does not answer"})
    return round_id, other


def test_workers_queues_webhooks_and_projects_are_shown(signed_in, database, store):
    round_id, other = fill(database, store)
    assert signed_in(Role.annotator).get("/api/operations").status_code == 403
    answer = signed_in(Role.engineer).get("/api/operations")
    assert TOKEN not in answer.text
    assert "geheim" not in answer.text
    found = answer.json()

    one, two = found["workers"]
    assert (one["id"], one["state"], two["state"]) == ("one", "busy", "paused")
    assert [(held["purpose"], held["count"]) for held in one["leases"]] == [("screen", 2)]
    assert 0 < one["leases"][0]["seconds_left"] <= 60
    assert two["leases"] == []
    assert two["reason"].startswith("generate pauses for 8 s: ")
    assert [(queue["job"], queue["count"]) for queue in found["queues"]] == [("screen", 1)]
    assert [row["id"] for row in found["rounds"]] == [round_id, other]
    assert found["rounds"][0]["candidates"] == {"generated": 3}

    [hook] = found["webhooks"]
    assert (hook["receiver"], hook["failed"]) == ("https://example.org", 1)
    assert (hook["last"]["event"], hook["last"]["attempts"]) == ("round.paused", 10)
    assert hook["last"]["error"] == "the receiver answered 500"
    assert found["labeling"] == "pages"
    [project] = found["projects"]
    assert (project["round"], project["error"]) == (round_id, "it does not answer")
    assert any("worker two is paused" in sentence for sentence in found["trouble"])


def test_projects_of_closed_rounds_are_left_out(signed_in, database, store):
    round_id, _ = fill(database, store)
    with database.transaction() as tx:
        lifecycle.close_round(tx, round_id, "ann")
    found = signed_in(Role.engineer).get("/api/operations").json()
    assert found["projects"] == []


def test_an_instance_without_anything_is_shown(signed_in):
    found = signed_in(Role.engineer).get("/api/operations").json()
    assert found == {
        "workers": [],
        "queues": [],
        "rounds": [],
        "webhooks": [],
        "labeling": "pages",
        "projects": [],
        "excluded_rounds": [],
        "trouble": [],
    }
