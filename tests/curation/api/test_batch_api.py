"""The API for the grid and recent decisions: batches, the latest decisions, and thumbnails."""

from __future__ import annotations

import io
import uuid

import numpy as np
import pytest
import sqlalchemy as sa
from PIL import Image

from curation.api.review_items import THUMBNAIL_SIDE
from curation.api.thumbnails import ThumbnailCache
from curation.db.tables import candidate_layers, decisions, layers, rounds, samples
from curation.domain import Verdict
from curation.images.codec import decode_layer, encode_layer
from curation.review.decisions import decide
from curation.review.queue import claim_items
from curation.review.reviewers import add_reviewer
from tests.support.factories import make_candidates, make_round, states


def claim(client, count: int) -> list[dict]:
    response = client.post("/api/review/claims", json={"count": count})
    assert response.status_code == 200, response.text
    return response.json()["candidates"]


def decision_body(candidate: str, verdict: str = "accept", **more) -> dict:
    return {"candidate": candidate, "verdict": verdict, "key": str(uuid.uuid4()), **more}


def send_batch(client, sent: list[dict]) -> list[dict]:
    response = client.post("/api/review/decisions/batch", json={"decisions": sent})
    assert response.status_code == 200, response.text
    return response.json()


def test_a_batch_of_decisions_is_idempotent(signed_in, round_id, database):
    ann = signed_in()
    items = claim(ann, 6)
    sent = [
        decision_body(item["id"], "accept" if turn == 0 else "reject")
        for turn, item in enumerate(items)
    ]
    first = send_batch(ann, sent)
    assert [result["candidate"] for result in first] == [item["id"] for item in items]
    assert [result["taken"]["state"] for result in first] == ["accepted"] + ["rejected"] * 5
    assert send_batch(ann, sent) == first
    assert states(database, round_id) == {"accepted": 1, "rejected": 5, "waiting": 6}
    with database.transaction() as tx:
        assert tx.scalar(sa.select(sa.func.count()).select_from(decisions)) == 6


def test_a_conflict_does_not_affect_the_other_decisions(signed_in, round_id, database):
    ann, bob = signed_in(name="ann"), signed_in(name="bob")
    others = claim(ann, 1)
    ann.post("/api/review/release", json={"candidates": [others[0]["id"]]})
    others, own = claim(bob, 1), claim(ann, 2)
    sent = [
        decision_body(own[0]["id"]),
        decision_body(others[0]["id"]),
        decision_body(str(uuid.uuid4())),
        decision_body(own[1]["id"], "reject"),
    ]
    results = send_batch(ann, sent)
    assert [result["taken"] is not None for result in results] == [True, False, False, True]
    assert results[1]["refused"]["hint"] == "continue with the next one"
    assert "was never shown to you" in results[2]["refused"]["message"]
    assert states(database, round_id) == {"accepted": 1, "rejected": 1, "showing": 1, "waiting": 9}


def test_a_batch_of_decisions_is_undone_in_one_request(signed_in, round_id, database):
    ann = signed_in()
    items = claim(ann, 5)
    sent = send_batch(ann, [decision_body(item["id"], "accept") for item in items])
    undos = [{"decision": result["taken"]["decision"], "key": str(uuid.uuid4())} for result in sent]
    response = ann.post(
        "/api/review/undo/batch",
        json={"undos": [*undos, {"decision": 10**9, "key": str(uuid.uuid4())}]},
    )
    assert response.status_code == 200
    *undone, unknown = response.json()
    assert [result["taken"]["candidate"] for result in undone] == items
    assert unknown["refused"]["message"] == "you have no decision to undo"
    assert states(database, round_id) == {"showing": 5, "waiting": 7}
    with database.transaction() as tx:
        assert tx.scalar(sa.select(sa.func.count()).where(samples.c.withdrawn_at.is_(None))) == 0


@pytest.mark.parametrize("count", [0, 49])
def test_a_batch_has_a_minimum_and_a_maximum_size(signed_in, round_id, count):
    ann = signed_in()
    for path, name, body in (
        ("decisions", "decisions", decision_body(str(uuid.uuid4()))),
        ("undo", "undos", {"key": str(uuid.uuid4())}),
    ):
        assert ann.post(f"/api/review/{path}/batch", json={name: [body] * count}).status_code == 422


def test_the_largest_batch_fits_into_one_request(signed_in, database, store):
    with database.transaction() as tx:
        round_id = make_round(tx)
        make_candidates(tx, store, round_id, 48)
    ann = signed_in()
    items = claim(ann, 48)
    assert len(items) == 48
    results = send_batch(
        ann,
        [
            decision_body(item["id"], "reject", reasons=["halo"], comment="x" * 500)
            for item in items
        ],
    )
    assert all(result["taken"] for result in results)
    assert states(database, round_id) == {"rejected": 48}


def test_a_batch_without_a_session_is_a_401(client, round_id):
    response = client.post(
        "/api/review/decisions/batch", json={"decisions": [decision_body(str(uuid.uuid4()))]}
    )
    assert response.status_code == 401


def test_the_latest_decisions_are_those_that_can_be_undone(signed_in, round_id, database):
    ann, bob = signed_in(name="ann"), signed_in(name="bob")
    items = claim(ann, 5)
    send_batch(bob, [decision_body(claim(bob, 1)[0]["id"])])
    sent = send_batch(
        ann,
        [
            decision_body(items[0]["id"]),
            decision_body(items[1]["id"], "reject", reasons=["halo"], comment="a rim"),
            decision_body(items[2]["id"], "skip"),
            decision_body(items[3]["id"]),
        ],
    )
    undone = sent[3]["taken"]["decision"]
    ann.post(
        "/api/review/undo", json={"decision": undone, "key": str(uuid.uuid4())}
    ).raise_for_status()
    found = ann.get("/api/review/latest").json()
    assert [recent["candidate"]["id"] for recent in found] == [
        items[index]["id"] for index in (2, 1, 0)
    ]
    assert [recent["verdict"] for recent in found] == ["skip", "reject", "accept"]
    assert (found[1]["reasons"], found[1]["comment"], found[1]["layers"]) == (["halo"], "a rim", [])
    for recent in found:
        body = {"decision": recent["decision"], "key": str(uuid.uuid4())}
        assert ann.post("/api/review/undo", json=body).status_code == 200
    assert ann.get("/api/review/latest").json() == []
    assert len(bob.get("/api/review/latest?count=1").json()) == 1


def test_verdicts_of_a_closed_round_are_not_offered(signed_in, round_id, database):
    ann = signed_in()
    send_batch(ann, [decision_body(claim(ann, 1)[0]["id"])])
    with database.transaction() as tx:
        tx.execute(sa.update(rounds).values(state="closed"))
    assert ann.get("/api/review/latest").json() == []


@pytest.fixture
def large(database, store, round_id) -> str:
    """Replace the first candidate's layer by one of 1000 x 700 px, a soft disc over hidden magenta; return its hash."""
    y, x = np.mgrid[:700, :1000]
    rgba = np.zeros((700, 1000, 4), np.uint8)
    rgba[..., 0] = rgba[..., 2] = 255
    alpha = np.clip((250 - np.hypot(x - 500, y - 350)) / 4 + 0.5, 0, 1)
    rgba[alpha > 0, :3] = (40, 120, 60)
    rgba[..., 3] = np.rint(alpha * 255)
    sha = store.put(encode_layer(rgba))
    with database.transaction() as tx:
        tx.execute(
            sa.insert(layers).values(sha256=sha, width=1000, height=700, bytes=1, visible=sha)
        )
        candidate_id = tx.scalar(sa.select(candidate_layers.c.candidate_id).limit(1))
        tx.execute(
            sa.update(candidate_layers)
            .where(candidate_layers.c.candidate_id == candidate_id)
            .values(sha256=sha)
        )
    return sha


def test_a_large_layer_has_a_small_address_and_a_small_one_has_its_own(
    signed_in, round_id, large, store
):
    ann = signed_in()
    items = {
        item["layers"]["foreground"]["width"]: item["layers"]["foreground"]
        for item in claim(ann, 12)
    }
    assert items[32]["small"] == items[32]["url"]
    response = ann.get(items[1000]["small"])
    assert (response.status_code, response.headers["content-type"]) == (200, "image/webp")
    assert "immutable" in response.headers["cache-control"]
    assert response.headers["content-security-policy"] == "default-src 'none'; sandbox"
    assert len(response.content) < len(store.get(large))
    small = decode_layer(response.content)
    assert small.shape == (224, THUMBNAIL_SIDE, 4)
    expected = Image.fromarray(decode_layer(store.get(large))).resize(
        (THUMBNAIL_SIDE, 224), Image.Resampling.BOX
    )
    assert np.abs(small[..., 3].astype(int) - np.asarray(expected)[..., 3]).max() <= 8
    edge = (small[..., 3] > 40) & (small[..., 3] < 255)
    assert np.abs(small[edge][:, :3].astype(int) - (40, 120, 60)).mean() < 12, (
        "no fringe of the hidden magenta"
    )
    assert ann.get(items[1000]["small"]).content == response.content
    assert (
        ann.get(
            items[1000]["small"], headers={"if-none-match": response.headers["etag"]}
        ).status_code
        == 304
    )


def test_a_signature_covers_the_size(client, app, large):
    small = app.state.links.address(large, side=THUMBNAIL_SIDE)
    assert client.get(small).status_code == 200
    for wrong in (
        small.replace("side=320", "side=321"),
        small.replace("side=320&", ""),
        small.replace("320", "-1"),
    ):
        assert client.get(wrong).status_code in {404, 422}


def test_a_file_that_is_no_layer_has_no_thumbnail(client, app, store):
    out = io.BytesIO()
    Image.new("RGBA", (400, 400)).save(out, "WEBP")
    assert (
        client.get(
            app.state.links.address(store.put(out.getvalue()), side=THUMBNAIL_SIDE)
        ).status_code
        == 404
    )


def test_thumbnails_are_cached_up_to_a_number_of_bytes():
    cache, rendered = ThumbnailCache(most=10), []

    def get(key: str, size: int) -> bytes:
        return cache.get(key, lambda: rendered.append(key) or b"x" * size)

    for key in ("a", "b", "a"):
        assert get(key, 4) == b"xxxx"
    get("c", 4)
    get("a", 4)
    assert rendered == ["a", "b", "c"], "a was used more recently than b"
    get("b", 4)
    get("big", 40)
    get("big", 40)
    assert rendered == ["a", "b", "c", "b", "big", "big"]


def test_the_nearest_sample_has_urls_of_its_layers(signed_in, round_id, database):
    ann = signed_in()
    item = claim(ann, 1)[0]
    assert ann.get("/api/review/nearest", params={"candidate": item["id"]}).json() is None
    with database.transaction() as tx:
        grace = add_reviewer(tx, "Grace")
        accepted = claim_items(tx, grace.id, round_id, 1, (), 60)[0]
        decide(tx, grace.id, accepted.id, Verdict.accept, key=uuid.uuid4())
    found = ann.get("/api/review/nearest", params={"candidate": item["id"]}).json()
    assert found["caption"] == accepted.prompt
    assert found["bits"] is None, "nothing was screened here, so there are no fingerprints"
    assert ann.get(found["layers"]["foreground"]["url"]).status_code == 200
    assert (
        ann.get("/api/review/nearest", params={"candidate": str(uuid.uuid4())}).status_code == 404
    )
