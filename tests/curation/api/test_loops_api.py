"""Loops over HTTP: listed, shown, paused, resumed, changed and cancelled by engineers only."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from curation.checkpoints import registry
from curation.db.tables import events, loop_turns, loops, rounds, training_runs
from curation.domain import Role, content_id
from curation.loops.plan import Budget, LoopPlan, plan_to_dict
from tests.curation.checkpoints.test_checkpoints import make_request


@pytest.fixture
def loop_id(round_id, database) -> int:
    """Return a loop whose first round is being reviewed."""
    plan = LoopPlan(rounds=3, quota=12, preset="micro", budget=Budget(gpu_seconds=7_200))
    with database.transaction() as tx:
        row = {
            "lease_id": content_id("test"),
            "state": "running",
            "step": "review",
            "plan": plan_to_dict(plan),
            "training_seconds": 90.0,
        }
        loop_id = int(tx.scalar(sa.insert(loops).values(row).returning(loops.c.id)))
        tx.execute(sa.insert(loop_turns), {"loop_id": loop_id, "turn": 1, "round_id": round_id})
    return loop_id


def test_a_loop_is_listed_and_steered_over_http(signed_in, round_id, loop_id, database):
    assert signed_in(Role.annotator).get("/api/loops").status_code == 403
    visitor = signed_in(Role.engineer)
    [listed] = visitor.get("/api/loops").json()
    assert (listed["id"], listed["state"], listed["round"], listed["rounds"]) == (
        loop_id,
        "running",
        round_id,
        3,
    )
    assert listed["budget"] == {"gpu_seconds": 7_200, "human_hours": None, "accepted": None}
    assert listed["spent"] == {"gpu_seconds": 90, "human_hours": 0, "accepted": 0}
    paused = visitor.post(f"/api/loops/{loop_id}/pause").json()
    assert (paused["state"], paused["reason"][:9]) == ("paused", "paused by")
    assert visitor.get(f"/api/rounds/{round_id}").json()["round"]["state"] == "paused"
    assert visitor.post(f"/api/loops/{loop_id}/pause").status_code == 409
    assert visitor.post(f"/api/loops/{loop_id}/resume").json()["state"] == "running"
    assert visitor.post(f"/api/loops/{loop_id}/cancel").json()["state"] == "cancelled"
    with database.transaction() as tx:
        assert tx.scalar(sa.select(rounds.c.state).where(rounds.c.id == round_id)) == "closed"
    assert visitor.post("/api/loops/99/pause").status_code == 404


def test_a_loop_is_shown_with_an_estimate_of_its_plan(signed_in, round_id, loop_id):
    assert signed_in(Role.annotator).get(f"/api/loops/{loop_id}").status_code == 403
    shown = signed_in(Role.engineer).get(f"/api/loops/{loop_id}").json()
    assert shown["loop"]["id"] == loop_id
    assert [turn["round"] for turn in shown["turns"]] == [round_id]
    assert set(shown["estimate"]) == {
        "training_seconds",
        "generation_seconds",
        "human_hours",
        "accepted",
    }
    assert "has finished here" in shown["estimate"]["training_seconds"]["basis"]


def test_a_change_is_checked_stored_and_logged(signed_in, loop_id, round_id, database):
    change = f"/api/loops/{loop_id}/change"
    assert signed_in(Role.annotator).post(change, json={"rounds": 5}).status_code == 403
    visitor = signed_in(Role.engineer)
    # Without the header that protects from other sites, nothing is changed.
    header = visitor.headers.pop("X-Layerloop")
    assert visitor.post(change, json={"rounds": 5}).status_code == 403
    visitor.headers["X-Layerloop"] = header
    new = {
        "rounds": 5,
        "quota": 40,
        "priority": 7,
        "reviewer": "rules",
        "gate": ["psnr>=20", "alpha_mse<=last*1.05"],
        "gpu_seconds": None,
        "accepted": 500,
    }
    changed = visitor.post(change, json=new).json()
    assert (changed["loop"]["rounds"], changed["loop"]["quota"]) == (5, 40)
    assert changed["loop"]["budget"] == {
        "gpu_seconds": None,
        "human_hours": None,
        "accepted": 500,
    }
    assert changed["gate"] == new["gate"]
    with database.transaction() as tx:
        row = tx.execute(sa.select(rounds).where(rounds.c.id == round_id)).one()
        logged = tx.execute(sa.select(events).where(events.c.kind == "loop changed")).one()
    assert (row.priority, row.rule_reviewer) == (7, True)
    assert (logged.actor, logged.subject) == ("the engineer", f"loop {loop_id}")
    assert set(logged.data) == set(new)
    # What is left out stays.
    assert visitor.post(change, json={"quota": 41}).json()["gate"] == new["gate"]


@pytest.mark.parametrize(
    "body",
    [
        {"rounds": 0},
        {"rounds": 1_001},
        {"quota": 2_000_000},
        {"priority": 101},
        {"gate": ["good"]},
        {"gate": ["psnr>=1"] * 21},
        {"gpu_seconds": 0},
        {"reviewer": "nobody"},
        {"preset": "sdxl"},
        {"rounds": "5"},
        {"rounds": True},
    ],
)
def test_an_impossible_change_is_refused(signed_in, loop_id, body):
    visitor = signed_in(Role.engineer)
    before = visitor.get(f"/api/loops/{loop_id}").json()
    assert visitor.post(f"/api/loops/{loop_id}/change", json=body).status_code == 422
    assert visitor.get(f"/api/loops/{loop_id}").json() == before


def test_a_changed_priority_reaches_the_training(signed_in, database):
    wanted = make_request(database)
    with database.transaction() as tx:
        run = registry.request_training(tx, wanted, "test")
        plan = plan_to_dict(LoopPlan(rounds=3, quota=12, preset="micro"))
        row = {"lease_id": content_id("test"), "state": "running", "step": "train", "plan": plan}
        loop_id = tx.scalar(sa.insert(loops).values(row).returning(loops.c.id))
        tx.execute(sa.insert(loop_turns), {"loop_id": loop_id, "turn": 1, "run_id": run})
    visitor = signed_in(Role.engineer)
    visitor.post(f"/api/loops/{loop_id}/change", json={"priority": 9}).raise_for_status()
    with database.transaction() as tx:
        assert tx.scalar(sa.select(training_runs.c.priority)) == 9
    visitor.post(f"/api/loops/{loop_id}/cancel").raise_for_status()
    assert visitor.post(f"/api/loops/{loop_id}/change", json={"priority": 1}).status_code == 409
