"""Gold over HTTP: hidden among candidates, pauses of reviewers, and access to statistics and agreement."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
import sqlalchemy as sa

from curation.datasets.samples import NewSample, StoredLayer, add_samples
from curation.db.tables import candidates, gold, reviewers, screenings
from curation.domain import LayerRole, Role
from curation.images.codec import encode_layer, pixel_hash
from curation.quality import gold_creation
from curation.review.consensus import ConsensusRule, ConsensusSettings, set_consensus
from curation.review.gold import GoldSettings, set_gold
from curation.screening.measurements import measure_single
from tests.support.factories import image


@pytest.fixture
def hidden(database, store, round_id) -> frozenset[str]:
    """Add twelve gold items with a share of one half to the round; return their ids."""
    with database.transaction() as tx:
        for one in tx.execute(sa.select(candidates.c.id)).scalars().all():
            tx.execute(
                sa.insert(screenings),
                {"candidate_id": one, "signals": measure_single(image(1), "a cat")},
            )
        for seed in range(3):
            data = encode_layer(image(seed))
            layer = StoredLayer(store.put(data), 32, 24, len(data), pixel_hash(image(seed)))
            add_samples(
                tx,
                [
                    NewSample(
                        "single", f"prompt {seed}", "CC0", "test", 0, {LayerRole.foreground: layer}
                    )
                ],
            )
        sources = gold_creation.choose_sources(tx, round_id, 12)
        gold_creation.add_gold(
            tx, round_id, gold_creation.make_gold(store, sources, (32, 24)), "test"
        )
        set_gold(tx, round_id, GoldSettings(0.5), "test")
        return frozenset(str(one) for one in tx.execute(sa.select(gold.c.candidate_id)).scalars())


def shape(value: Any) -> Any:
    """Return the structure of a response: keys, and the types and lengths of values."""
    if isinstance(value, dict):
        return {key: shape(one) for key, one in sorted(value.items())}
    if isinstance(value, list):
        return [shape(one) for one in value]
    return (type(value).__name__, len(value)) if isinstance(value, str) else type(value).__name__


def test_no_response_distinguishes_gold_from_other_candidates(signed_in, hidden):
    client = signed_in()
    items = client.post("/api/review/claims", json={"count": 24}).json()["candidates"]
    kinds = {item["id"] in hidden for item in items}
    assert kinds == {True, False}, "both, or this test would prove nothing"
    shapes: dict[bool, list[Any]] = {True: [], False: []}
    answers: dict[bool, set[str]] = {True: set(), False: set()}
    for item in items:
        is_gold = item["id"] in hidden
        numbers = dict.fromkeys(
            item["signals"]
        )  # which of them are null depends on the picture alone
        alike = item | {"signals": numbers, "prompt": "", "id": item["id"]}
        shapes[is_gold].append(shape(alike))
        body = {
            "candidate": item["id"],
            "verdict": "reject",
            "reasons": ["halo"],
            "key": str(uuid.uuid4()),
        }
        decided = client.post("/api/review/decisions", json=body)
        again = client.post("/api/review/decisions", json=body)
        undone = client.post("/api/review/undo", json={"key": str(uuid.uuid4())})
        picture_ = client.get(item["layers"]["foreground"]["url"])
        headers = sorted(set(picture_.headers) - {"content-length"})
        both = [decided.status_code, shape(decided.json()), decided.json()["state"], again.json() == decided.json(),
                undone.status_code, sorted(undone.json()["candidate"]), picture_.status_code, headers]  # fmt: skip
        answers[is_gold].add(repr(both))
    assert all(one == shapes[False][0] for one in shapes[True] + shapes[False])
    assert answers[True] == answers[False]
    assert len(answers[True]) == 1


def test_a_paused_reviewer_gets_the_reason(signed_in, database, round_id):
    client = signed_in(name="ann")
    item = client.post("/api/review/claims", json={"count": 1}).json()["candidates"][0]
    with database.transaction() as tx:
        tx.execute(sa.update(reviewers).values(paused="2 of 12 obvious defects were noticed"))
    body = {"candidate": item["id"], "verdict": "accept", "key": str(uuid.uuid4())}
    for path, sent in (("claims", {"count": 1}), ("decisions", body)):
        answer = client.post(f"/api/review/{path}", json=sent)
        assert answer.status_code == 409
        error = answer.json()["error"]
        assert error["message"] == "your reviewing is paused: 2 of 12 obvious defects were noticed"
        assert "engineer" in error["hint"]
    assert client.get("/api/me/stats").json()["paused"] == "2 of 12 obvious defects were noticed"


def test_statistics_are_for_the_reviewer_and_for_engineers(signed_in, round_id):
    ann, engineer = signed_in(name="ann"), signed_in(Role.engineer)
    item = ann.post("/api/review/claims", json={"count": 1}).json()["candidates"][0]
    body = {"candidate": item["id"], "verdict": "accept", "dwell_ms": 800, "key": str(uuid.uuid4())}
    assert ann.post("/api/review/decisions", json=body).status_code == 200
    own = ann.get("/api/me/stats").json()
    assert (own["name"], own["decisions"], own["dwell_ms"]["median"]) == ("ann", 1, 800)
    assert ann.get("/api/reviewers").status_code == 403
    everybody = engineer.get("/api/reviewers").json()
    assert {one["name"]: one["decisions"] for one in everybody} == {"ann": 1, "the engineer": 0}


def test_agreement_is_for_engineers(signed_in, database, round_id):
    with database.transaction() as tx:
        set_consensus(tx, round_id, ConsensusSettings(ConsensusRule.majority, 2), "test")
    for name in ("ann", "bob"):
        client = signed_in(name=name)
        for item in client.post("/api/review/claims", json={"count": 12}).json()["candidates"]:
            body = {"candidate": item["id"], "verdict": "reject", "key": str(uuid.uuid4())}
            assert client.post("/api/review/decisions", json=body).json()["state"] == "rejected", (
                "blind"
            )
    assert signed_in(name="ann").get(f"/api/rounds/{round_id}/agreement").status_code == 403
    output = signed_in(Role.engineer).get(f"/api/rounds/{round_id}/agreement").json()
    assert (
        output["decided_twice"],
        output["agreed"],
        output["alpha"]["value"],
        output["ac1"]["value"],
    ) == (12, 1, 1, 1)
    assert [pair["reviewers"] for pair in output["pairs"]] == [["ann", "bob"]]
