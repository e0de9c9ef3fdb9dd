"""Loops over HTTP: listed, paused, resumed and cancelled by engineers only."""

from __future__ import annotations

import sqlalchemy as sa

from curation.db.tables import loop_turns, loops, rounds
from curation.domain import Role, content_id
from curation.loops.plan import LoopPlan, plan_to_dict


def test_a_loop_is_planned_and_steered_over_http(signed_in, round_id, database):
    with database.transaction() as tx:
        row = {
            "lease_id": content_id("test"),
            "state": "running",
            "step": "review",
            "plan": plan_to_dict(LoopPlan(rounds=3, quota=12, preset="micro")),
        }
        loop_id = tx.scalar(sa.insert(loops).values(row).returning(loops.c.id))
        tx.execute(sa.insert(loop_turns), {"loop_id": loop_id, "turn": 1, "round_id": round_id})
    assert signed_in(Role.annotator).get("/api/loops").status_code == 403
    visitor = signed_in(Role.engineer)
    [listed] = visitor.get("/api/loops").json()
    assert (listed["id"], listed["state"], listed["round"], listed["rounds"]) == (
        loop_id,
        "running",
        round_id,
        3,
    )
    paused = visitor.post(f"/api/loops/{loop_id}/pause").json()
    assert (paused["state"], paused["reason"][:9]) == ("paused", "paused by")
    assert visitor.get(f"/api/rounds/{round_id}").json()["round"]["state"] == "paused"
    assert visitor.post(f"/api/loops/{loop_id}/pause").status_code == 409
    assert visitor.post(f"/api/loops/{loop_id}/resume").json()["state"] == "running"
    assert visitor.post(f"/api/loops/{loop_id}/cancel").json()["state"] == "cancelled"
    with database.transaction() as tx:
        assert tx.scalar(sa.select(rounds.c.state).where(rounds.c.id == round_id)) == "closed"
    assert visitor.post("/api/loops/99/pause").status_code == 404
