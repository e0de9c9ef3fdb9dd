"""Rounds over HTTP."""

from __future__ import annotations

import pytest

from curation.domain import Job, Role
from curation.reporting import round_report


def test_the_list_and_the_report(signed_in, number, database):
    visitor = signed_in(Role.engineer)
    (row,) = visitor.get("/api/rounds").json()
    assert (row["id"], row["state"], row["quota"], row["counts"]) == (
        number,
        "open",
        12,
        {"waiting": 12},
    )
    output = visitor.get(f"/api/rounds/{number}").json()
    with database.transaction() as tx:
        expected = round_report.round_report(tx, number)
    assert output["funnel"] == expected["funnel"]
    assert output["round"] == row | {"own": None, "policy": expected["round"]["policy"]}
    assert output["defects_per_100"] == {"person": None, "rule_reviewer": None}
    assert visitor.get("/api/rounds/999").status_code == 404
    assert visitor.get("/api/rounds/none").status_code == 422


def test_pausing_resuming_closing(signed_in, number, database):
    sent: list[Job] = []
    database.send = sent.append
    visitor = signed_in(Role.engineer)
    tray = {"count": 3}
    assert visitor.post(f"/api/rounds/{number}/pause").json()["state"] == "paused"
    assert visitor.post("/api/review/claims", json=tray).json()["candidates"] == []
    twice = visitor.post(f"/api/rounds/{number}/pause")
    assert (twice.status_code, twice.json()["error"]["message"]) == (
        409,
        f"round {number} is paused, not open",
    )
    assert sent == []
    assert visitor.post(f"/api/rounds/{number}/resume").json()["state"] == "open"
    assert Job("generate", (number,)) in sent, "asked for once the change was durable"
    assert len(visitor.post("/api/review/claims", json=tray).json()["candidates"]) == 3
    for _ in range(2):
        closed = visitor.post(f"/api/rounds/{number}/close").json()
        assert (closed["state"], closed["counts"]) == ("closed", {"withdrawn": 12})
        assert closed["closed_at"]


@pytest.mark.parametrize("act", ["pause", "resume", "close"])
def test_an_annotator_changes_no_round(signed_in, number, database, act):
    answer = signed_in().post(f"/api/rounds/{number}/{act}")
    assert (answer.status_code, answer.json()["error"]["message"]) == (
        403,
        "this needs the role engineer; you have the role annotator",
    )
    with database.transaction() as tx:
        assert round_report.find_round(tx, number)["state"] == "open"
