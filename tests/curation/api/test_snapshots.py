"""Snapshots over HTTP: freezing, listing, and paging through one."""

from __future__ import annotations

import pytest

from curation.domain import Access, Kind, LayerRole
from curation.layers import encode_layer, visible_hash
from curation.manifest import read_samples
from curation.samples import NewSample, StoredLayer, add_samples
from tests.making import picture


@pytest.fixture
def samples(database, store) -> int:
    """Seven samples."""
    new = []
    for seed in range(7):
        rgba = picture(seed)
        data = encode_layer(rgba)
        layer = StoredLayer(store.put(data), rgba.shape[1], rgba.shape[0], len(data), visible_hash(rgba))
        new.append(NewSample(Kind.single, f"seed {seed}", "CC0-1.0", f"{seed}.png", 0, {LayerRole.foreground: layer}))
    with database.transaction() as tx:
        return len(add_samples(tx, new))


def test_freezing_twice_is_one_snapshot(signed_in, samples, store):
    engineer = signed_in(Access.engineer)
    first = engineer.post("/api/snapshots", json={"tag": "first"})
    assert first.status_code == 201
    assert (first.json()["samples"], first.json()["tags"]) == (7, ["first"])
    assert first.json()["counts"]["licence"] == {"CC0-1.0": 7}
    second = engineer.post("/api/snapshots", json={"tag": "again"}).json()
    assert (second["id"], second["tags"]) == (first.json()["id"], ["again", "first"])
    assert engineer.get("/api/snapshots").json() == [second]
    assert len(list(read_samples(store, second["id"]))) == 7


def test_paging_shows_every_sample_once(signed_in, samples, store):
    engineer = signed_in(Access.engineer)
    frozen = engineer.post("/api/snapshots", json={"tag": "first"}).json()
    seen, after = [], ""
    for _ in range(4):
        page = engineer.get("/api/snapshots/first", params={"after": after, "limit": 2}).json()
        seen += page["samples"]
        after = page["next"]
        if after is None:
            break
    assert [one["id"] for one in seen] == [one.id for one in read_samples(store, frozen["id"])]
    assert page["snapshot"] == frozen
    layer = seen[0]["layers"]["foreground"]
    assert (layer["width"], layer["height"]) == (32, 24)
    assert engineer.get(layer["url"]).status_code == 200
    assert (seen[0]["licence"], seen[0]["round"]) == ("CC0-1.0", 0)


def test_what_is_not_there(signed_in):
    engineer = signed_in(Access.engineer)
    empty = engineer.post("/api/snapshots", json={})
    assert (empty.status_code, empty.json()["error"]["message"]) == (422, "there are no samples to freeze")
    assert engineer.get("/api/snapshots/nothing").status_code == 404
    assert engineer.get("/api/snapshots/x", params={"limit": 1000}).status_code == 422
    assert signed_in(Access.annotator).get("/api/snapshots").status_code == 403


def test_a_bad_tag_freezes_nothing_that_is_listed(signed_in, samples):
    engineer = signed_in(Access.engineer)
    assert engineer.post("/api/snapshots", json={"tag": "../x"}).status_code == 422
    assert engineer.get("/api/snapshots").json() == []
