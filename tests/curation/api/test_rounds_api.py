"""Rounds over HTTP."""

from __future__ import annotations

import pytest

from curation.domain import Job, Role
from curation.reporting import round_report


def test_rounds_are_listed_and_reported(signed_in, round_id, database):
    visitor = signed_in(Role.engineer)
    (row,) = visitor.get("/api/rounds").json()
    assert (row["id"], row["state"], row["quota"], row["counts"]) == (
        round_id,
        "open",
        12,
        {"waiting": 12},
    )
    output = visitor.get(f"/api/rounds/{round_id}").json()
    with database.transaction() as tx:
        expected = round_report.round_report(tx, round_id)
    assert output["funnel"] == expected["funnel"]
    assert output["round"] == row | {"own": None, "policy": expected["round"]["policy"]}
    assert output["defects_per_100"] == {"person": None, "rule_reviewer": None}
    assert visitor.get("/api/rounds/999").status_code == 404
    assert visitor.get("/api/rounds/none").status_code == 422


def test_a_round_is_paused_resumed_and_closed(signed_in, round_id, database):
    sent: list[Job] = []
    database.send = sent.append
    visitor = signed_in(Role.engineer)
    request = {"count": 3}
    assert visitor.post(f"/api/rounds/{round_id}/pause").json()["state"] == "paused"
    assert visitor.post("/api/review/claims", json=request).json()["candidates"] == []
    twice = visitor.post(f"/api/rounds/{round_id}/pause")
    assert (twice.status_code, twice.json()["error"]["message"]) == (
        409,
        f"round {round_id} is paused, not open",
    )
    assert sent == []
    assert visitor.post(f"/api/rounds/{round_id}/resume").json()["state"] == "open"
    assert Job("generate", (round_id,)) in sent, "asked for once the change was durable"
    assert len(visitor.post("/api/review/claims", json=request).json()["candidates"]) == 3
    for _ in range(2):
        closed = visitor.post(f"/api/rounds/{round_id}/close").json()
        assert (closed["state"], closed["counts"]) == ("closed", {"withdrawn": 12})
        assert closed["closed_at"]


@pytest.mark.parametrize("act", ["pause", "resume", "close"])
def test_an_annotator_changes_no_round(signed_in, round_id, database, act):
    answer = signed_in().post(f"/api/rounds/{round_id}/{act}")
    assert (answer.status_code, answer.json()["error"]["message"]) == (
        403,
        "this needs the role engineer; you have the role annotator",
    )
    with database.transaction() as tx:
        assert round_report.find_round(tx, round_id)["state"] == "open"
