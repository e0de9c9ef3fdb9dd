"""Review over HTTP: claims, decisions, conflicts and undo."""

from __future__ import annotations

import uuid

import pytest
import sqlalchemy as sa

from curation.db.tables import decisions
from curation.domain import RejectReason
from tests.support.factories import states


def claim(client, count: int = 4, holding=(), round_id: int | None = None) -> dict:
    answer = client.post(
        "/api/review/claims", json={"round": round_id, "count": count, "holding": list(holding)}
    )
    assert answer.status_code == 200, answer.text
    return answer.json()


def decision(candidate: str, verdict: str = "accept", **more) -> dict:
    return {"candidate": candidate, "verdict": verdict, "key": str(uuid.uuid4()), **more}


def test_a_claim_returns_everything_that_the_page_shows(signed_in, round_id, store):
    ann = signed_in()
    found = claim(ann)
    assert len(found["candidates"]) == 4
    assert found["lost"] == []
    assert found["progress"] == {"waiting": 12, "mine": 0, "accepted": 0, "round": round_id}
    item = found["candidates"][0]
    assert set(item) == {"id", "round", "kind", "prompt", "flags", "layers", "signals", "texts"}
    layer = item["layers"]["foreground"]
    assert (layer["width"], layer["height"]) == (32, 24)
    assert ann.get(layer["url"]).content == store.get(layer["url"].split("/")[-1][:64])
    assert claim(ann, 0, [item["id"] for item in found["candidates"]])["candidates"] == []


def test_a_decision_is_answered_once_it_is_durable_and_the_same_again(
    signed_in, round_id, database
):
    ann = signed_in()
    one = claim(ann)["candidates"][0]["id"]
    body = decision(one, "reject", reasons=["halo"], comment="a rim", dwell_ms=10**9)
    first = ann.post("/api/review/decisions", json=body)
    assert first.json()["state"] == "rejected"
    with database.transaction() as tx:
        row = tx.execute(sa.select(decisions)).mappings().one()
    assert (row["id"], str(row["candidate_id"]), row["reasons"]) == (
        first.json()["decision"],
        one,
        ["halo"],
    )
    assert row["dwell_ms"] == 600_000, "ten minutes at most"
    assert ann.post("/api/review/decisions", json=body).json() == first.json()
    other = ann.post("/api/review/decisions", json=body | {"verdict": "skip", "reasons": []})
    assert (other.status_code, other.json()["error"]["message"]) == (
        409,
        "this key was used for another decision",
    )


def test_a_candidate_of_another_reviewer_is_a_conflict(signed_in, round_id):
    ann, bob = signed_in(name="ann"), signed_in(name="bob")
    one = claim(ann)["candidates"][0]["id"]
    assert ann.post("/api/review/release", json={"candidates": [one]}).status_code == 204
    assert claim(bob, 1)["candidates"][0]["id"] == one
    answer = ann.post("/api/review/decisions", json=decision(one))
    assert answer.status_code == 409
    assert answer.json()["error"]["hint"] == "continue with the next one"
    assert claim(ann, 0, [one])["lost"] == [one]


@pytest.mark.parametrize(
    "wrong",
    [
        {"verdict": "undo"},
        {"verdict": "perhaps"},
        {"reasons": ["ugly"]},
        {"reasons": ["halo"]},
        {"dwell_ms": -1},
        {"comment": "x" * 2001},
        {"key": "not a uuid"},
        {"candidate": None},
        {"reviewer": 1},
    ],
)
def test_invalid_decisions_are_refused_and_change_nothing(signed_in, round_id, database, wrong):
    ann = signed_in()
    one = claim(ann, 1)["candidates"][0]["id"]
    answer = ann.post("/api/review/decisions", json=decision(one) | wrong)
    assert answer.status_code == 422
    assert answer.json()["error"]["message"]
    assert states(database, round_id) == {"showing": 1, "waiting": 11}


@pytest.mark.parametrize(
    "wrong",
    [
        {"count": 49},
        {"count": -1},
        {"round": 0},
        {"holding": ["x"]},
        {"holding": [str(uuid.uuid4())] * 65},
    ],
)
def test_a_claim_has_a_minimum_and_a_maximum_size(signed_in, round_id, wrong):
    assert signed_in().post("/api/review/claims", json=wrong).status_code == 422


def test_an_unknown_candidate_is_not_found(signed_in):
    assert (
        signed_in().post("/api/review/decisions", json=decision(str(uuid.uuid4()))).status_code
        == 404
    )


def test_undo_returns_the_candidate(signed_in, round_id, database):
    ann = signed_in()
    item = claim(ann, 1)["candidates"][0]
    made = ann.post("/api/review/decisions", json=decision(item["id"])).json()
    assert claim(ann, 0)["progress"]["mine"] == 1
    body = {"decision": made["decision"], "key": str(uuid.uuid4())}
    undone = ann.post("/api/review/undo", json=body)
    assert undone.json()["candidate"] == item
    assert undone.json()["decision"] > made["decision"]
    assert ann.post("/api/review/undo", json=body).json() == undone.json()
    assert states(database, round_id) == {"showing": 1, "waiting": 11}
    assert claim(ann, 0)["progress"]["mine"] == 0
    assert ann.post("/api/review/undo", json={"key": str(uuid.uuid4())}).status_code == 404


def test_reasons_are_those_of_the_domain_with_keys_in_order(signed_in):
    found = signed_in().get("/api/review/reasons").json()
    assert [one["name"] for one in found] == list(RejectReason)
    assert [one["key"] for one in found] == [*"1234567890"]
    assert all(one["label"] for one in found)


def test_a_claim_and_its_decisions_take_few_statements(signed_in, round_id, database):
    """The number of statements determines the time of a decision."""
    ann = signed_in()
    statements: list[str] = []
    sa.event.listen(
        database.engine, "before_cursor_execute", lambda *args: statements.append(args[2])
    )
    items = claim(ann, 8)["candidates"]
    assert len(statements) <= 6, statements
    # Two of an acceptance keep layers out that were taken down: a lock, and then the look.
    for verdict, most in (("reject", 4), ("skip", 4), ("accept", 11)):
        statements.clear()
        ann.post(
            "/api/review/decisions", json=decision(items.pop()["id"], verdict)
        ).raise_for_status()
        assert len(statements) <= most, statements
