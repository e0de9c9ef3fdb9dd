"""What a contact sheet and a trail need of the API: several decisions in one request, the latest ones, small layers."""

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
    answer = client.post("/api/review/claims", json={"count": count})
    assert answer.status_code == 200, answer.text
    return answer.json()["candidates"]


def said(candidate: str, verdict: str = "accept", **more) -> dict:
    return {"candidate": candidate, "verdict": verdict, "key": str(uuid.uuid4()), **more}


def several(client, made: list[dict]) -> list[dict]:
    answer = client.post("/api/review/decisions/batch", json={"decisions": made})
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_a_batch_of_decisions_is_idempotent(signed_in, round_id, database):
    ann = signed_in()
    items = claim(ann, 6)
    made = [
        said(item["id"], "accept" if turn == 0 else "reject") for turn, item in enumerate(items)
    ]
    first = several(ann, made)
    assert [one["candidate"] for one in first] == [item["id"] for item in items]
    assert [one["taken"]["state"] for one in first] == ["accepted"] + ["rejected"] * 5
    assert several(ann, made) == first
    assert states(database, round_id) == {"accepted": 1, "rejected": 5, "waiting": 6}
    with database.transaction() as tx:
        assert tx.scalar(sa.select(sa.func.count()).select_from(decisions)) == 6


def test_a_conflict_does_not_affect_the_other_decisions(signed_in, round_id, database):
    ann, bob = signed_in(name="ann"), signed_in(name="bob")
    others = claim(ann, 1)
    ann.post("/api/review/release", json={"candidates": [others[0]["id"]]})
    others, own = claim(bob, 1), claim(ann, 2)
    made = [
        said(own[0]["id"]),
        said(others[0]["id"]),
        said(str(uuid.uuid4())),
        said(own[1]["id"], "reject"),
    ]
    answers = several(ann, made)
    assert [one["taken"] is not None for one in answers] == [True, False, False, True]
    assert answers[1]["refused"]["hint"] == "continue with the next one"
    assert "was never shown to you" in answers[2]["refused"]["message"]
    assert states(database, round_id) == {"accepted": 1, "rejected": 1, "showing": 1, "waiting": 9}


def test_a_batch_of_decisions_is_undone_in_one_request(signed_in, round_id, database):
    ann = signed_in()
    items = claim(ann, 5)
    made = several(ann, [said(item["id"], "accept") for item in items])
    undos = [{"decision": one["taken"]["decision"], "key": str(uuid.uuid4())} for one in made]
    answer = ann.post(
        "/api/review/undo/batch",
        json={"undos": [*undos, {"decision": 10**9, "key": str(uuid.uuid4())}]},
    )
    assert answer.status_code == 200
    *undone, unknown = answer.json()
    assert [one["taken"]["candidate"] for one in undone] == items
    assert unknown["refused"]["message"] == "you have no decision to undo"
    assert states(database, round_id) == {"showing": 5, "waiting": 7}
    with database.transaction() as tx:
        assert tx.scalar(sa.select(sa.func.count()).where(samples.c.withdrawn_at.is_(None))) == 0


@pytest.mark.parametrize("count", [0, 49])
def test_a_batch_has_a_minimum_and_a_maximum_size(signed_in, round_id, count):
    ann = signed_in()
    for path, name, one in (
        ("decisions", "decisions", said(str(uuid.uuid4()))),
        ("undo", "undos", {"key": str(uuid.uuid4())}),
    ):
        assert ann.post(f"/api/review/{path}/batch", json={name: [one] * count}).status_code == 422


def test_the_largest_batch_fits_into_one_request(signed_in, database, store):
    with database.transaction() as tx:
        round_id = make_round(tx)
        make_candidates(tx, store, round_id, 48)
    ann = signed_in()
    items = claim(ann, 48)
    assert len(items) == 48
    answers = several(
        ann, [said(item["id"], "reject", reasons=["halo"], comment="x" * 500) for item in items]
    )
    assert all(one["taken"] for one in answers)
    assert states(database, round_id) == {"rejected": 48}


def test_a_batch_without_a_session_is_a_401(client, round_id):
    answer = client.post(
        "/api/review/decisions/batch", json={"decisions": [said(str(uuid.uuid4()))]}
    )
    assert answer.status_code == 401


def test_the_latest_decisions_are_those_that_can_be_undone(signed_in, round_id, database):
    ann, bob = signed_in(name="ann"), signed_in(name="bob")
    items = claim(ann, 5)
    several(bob, [said(claim(bob, 1)[0]["id"])])
    made = several(
        ann,
        [
            said(items[0]["id"]),
            said(items[1]["id"], "reject", reasons=["halo"], comment="a rim"),
            said(items[2]["id"], "skip"),
            said(items[3]["id"]),
        ],
    )
    undone = made[3]["taken"]["decision"]
    ann.post(
        "/api/review/undo", json={"decision": undone, "key": str(uuid.uuid4())}
    ).raise_for_status()
    found = ann.get("/api/review/latest").json()
    assert [one["candidate"]["id"] for one in found] == [items[index]["id"] for index in (2, 1, 0)]
    assert [one["verdict"] for one in found] == ["skip", "reject", "accept"]
    assert (found[1]["reasons"], found[1]["comment"], found[1]["layers"]) == (["halo"], "a rim", [])
    for one in found:
        body = {"decision": one["decision"], "key": str(uuid.uuid4())}
        assert ann.post("/api/review/undo", json=body).status_code == 200
    assert ann.get("/api/review/latest").json() == []
    assert len(bob.get("/api/review/latest?count=1").json()) == 1


def test_verdicts_of_a_closed_round_are_not_offered(signed_in, round_id, database):
    ann = signed_in()
    several(ann, [said(claim(ann, 1)[0]["id"])])
    with database.transaction() as tx:
        tx.execute(sa.update(rounds).values(state="closed"))
    assert ann.get("/api/review/latest").json() == []


@pytest.fixture
def large(database, store, round_id) -> str:
    """Return a layer of 1000 x 700 px in the place of the first candidate's: a soft disc over hidden magenta."""
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
        one = tx.scalar(sa.select(candidate_layers.c.candidate_id).limit(1))
        tx.execute(
            sa.update(candidate_layers)
            .where(candidate_layers.c.candidate_id == one)
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
    answer = ann.get(items[1000]["small"])
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/webp")
    assert "immutable" in answer.headers["cache-control"]
    assert answer.headers["content-security-policy"] == "default-src 'none'; sandbox"
    assert len(answer.content) < len(store.get(large))
    small = decode_layer(answer.content)
    assert small.shape == (224, THUMBNAIL_SIDE, 4)
    expected = Image.fromarray(decode_layer(store.get(large))).resize(
        (THUMBNAIL_SIDE, 224), Image.Resampling.BOX
    )
    assert np.abs(small[..., 3].astype(int) - np.asarray(expected)[..., 3]).max() <= 8
    edge = (small[..., 3] > 40) & (small[..., 3] < 255)
    assert np.abs(small[edge][:, :3].astype(int) - (40, 120, 60)).mean() < 12, (
        "hidden magenta is no fringe"
    )
    assert ann.get(items[1000]["small"]).content == answer.content
    assert (
        ann.get(items[1000]["small"], headers={"if-none-match": answer.headers["etag"]}).status_code
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
    kept, made = ThumbnailCache(most=10), []

    def ask(key: str, size: int) -> bytes:
        return kept.get(key, lambda: made.append(key) or b"x" * size)

    for key in ("a", "b", "a"):
        assert ask(key, 4) == b"xxxx"
    ask("c", 4)
    ask("a", 4)
    assert made == ["a", "b", "c"], "a was asked for lately, so b went"
    ask("b", 4)
    ask("big", 40)
    ask("big", 40)
    assert made == ["a", "b", "c", "b", "big", "big"]


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
