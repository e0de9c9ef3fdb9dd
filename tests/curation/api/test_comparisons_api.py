"""Routes of comparisons: claims, votes and undo for annotators, results for data engineers."""

from __future__ import annotations

import uuid

import pytest
import sqlalchemy as sa

from curation.checkpoints.registry import find_promoted_checkpoint, promote_checkpoint
from curation.comparison_values import ComparisonChoice, ComparisonSide
from curation.comparisons import votes
from curation.db.tables import comparisons
from curation.domain import Role
from curation.review.reviewers import find_reviewer
from tests.support.compared_checkpoints import open_drawn


def vote(client, item: str, choice: str = "left", key: str | None = None):
    body = {"item": item, "choice": choice, "key": key or str(uuid.uuid4()), "dwell_ms": 1_200}
    return client.post("/api/comparison/votes", json=body)


def claim(client, **body):
    response = client.post("/api/comparison/claims", json=body)
    assert response.status_code == 200, response.text
    return response.json()


def test_an_annotator_votes_and_an_engineer_reads_the_result(signed_in, database, store):
    number = open_drawn(database, store, 3)
    ann, eve = signed_in(), signed_in(Role.engineer)
    found = claim(ann, count=3)
    assert found["progress"] == {"waiting": 3, "mine": 0}
    for item in found["items"]:
        for side in ("left", "right"):
            layer = item[side]["foreground"]
            assert (layer["width"], layer["height"]) == (64, 64)
            assert ann.get(layer["url"]).status_code == 200
    first, second, third = (item["id"] for item in found["items"])
    assert vote(ann, first, "equal").status_code == 200
    assert vote(ann, second, "both_bad").status_code == 200
    key = str(uuid.uuid4())
    answers = [vote(ann, third, "left", key) for _ in range(2)]
    assert answers[0].json() == answers[1].json()
    assert vote(ann, third, "right", key).status_code == 409
    assert vote(ann, str(uuid.uuid4())).status_code == 404
    undone = ann.post("/api/comparison/undo", json={"key": str(uuid.uuid4())})
    assert undone.json()["item"]["id"] == third
    assert vote(ann, third, "right").status_code == 200
    assert claim(ann, count=3, comparison=number) == {
        "items": [],
        "progress": {"waiting": 0, "mine": 3},
    }
    report = eve.get(f"/api/comparisons/{number}").json()
    result = report["result"]
    assert (result["equal"], result["both_bad"], result["a"] + result["b"]) == (1, 1, 1)
    assert result["reviewers"][0]["median_seconds"] == pytest.approx(1.2)
    assert result["drawings"] == {"generated": 6}
    assert [row["id"] for row in eve.get("/api/comparisons").json()] == [number]
    a = report["comparison"]["a"]["checkpoint"]
    assert len(eve.get("/api/comparisons", params={"checkpoint": a}).json()) == 1
    assert eve.get("/api/comparisons", params={"checkpoint": "0" * 64}).json() == []
    closed = eve.post(f"/api/comparisons/{number}/close")
    assert closed.json()["comparison"]["state"] == "closed"
    assert eve.post(f"/api/comparisons/{number}/close").status_code == 409
    assert vote(ann, third, "left").status_code == 409


def test_only_engineers_see_results(signed_in, database, store):
    number = open_drawn(database, store, 1)
    ann = signed_in()
    for path in ("/api/comparisons", f"/api/comparisons/{number}"):
        assert ann.get(path).status_code == 403
    assert ann.post(f"/api/comparisons/{number}/close").status_code == 403


def test_a_paused_reviewer_gets_no_items(signed_in, database, store):
    open_drawn(database, store, 1)
    ann = signed_in()
    [item] = claim(ann, count=1)["items"]
    with database.transaction() as tx:
        tx.execute(sa.text("update reviewers set paused = 'missed defects'"))
    assert ann.post("/api/comparison/claims", json={"count": 1}).status_code == 409
    assert vote(ann, item["id"]).status_code == 409


def test_released_items_go_to_others_at_once(signed_in, database, store):
    open_drawn(database, store, 1)
    ann, bob = signed_in(name="ann"), signed_in(name="bob")
    [item] = claim(ann, count=1)["items"]
    assert claim(bob, count=1)["items"] == []
    assert ann.post("/api/comparison/release", json={"items": [item["id"]]}).status_code == 204
    assert claim(bob, count=1)["items"][0]["id"] == item["id"]


def test_promotion_asks_a_closed_comparison(signed_in, database, store):
    """The clean checkpoint (B) wins all of twelve items against the promoted one."""
    number = open_drawn(database, store, 12)
    tess = signed_in(Role.trainer)
    with database.transaction() as tx:
        row = tx.execute(sa.select(comparisons)).one()
        old, new = row.a_checkpoint_id, row.b_checkpoint_id
        promote_checkpoint(tx, old, "test")
        ann = find_reviewer(tx, "the trainer").id
        for item in votes.claim_next(tx, ann, number, 12, (), 60):
            left = votes.left_side(row.side_key, item.id, ann) is ComparisonSide.b
            choice = ComparisonChoice.left if left else ComparisonChoice.right
            votes.vote(tx, ann, item.id, choice, key=uuid.uuid4())
    path, body = f"/api/checkpoints/{new}/promote", {"comparison": number}
    assert tess.post(path, json=body).status_code == 409, "it is open"
    tess.post(f"/api/comparisons/{number}/close")
    strict = tess.post(path, json=body | {"error": 0.0001})
    assert strict.status_code == 409
    assert "wins 12 and loses 0 of 12" in strict.json()["error"]["message"]
    with database.transaction() as tx:
        assert find_promoted_checkpoint(tx).id == old
    assert tess.post(path, json=body).json()["active"]
    with database.transaction() as tx:
        assert find_promoted_checkpoint(tx).id == new
        kinds = tx.execute(sa.text("select kind from events order by id desc limit 2")).scalars()
        assert set(kinds) == {"checkpoint promoted", "checkpoint found better"}
