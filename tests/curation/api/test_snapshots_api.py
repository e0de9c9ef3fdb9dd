"""Snapshots over HTTP: freezing, listing, and paging through one."""

from __future__ import annotations

import json

import pytest
import sqlalchemy as sa

from curation.adapters.snapshot_sources import pack_folder
from curation.datasets.manifest import Manifest, Part, read_manifest, read_samples
from curation.datasets.samples import NewSample, StoredLayer, add_samples
from curation.db.tables import samples as sample_rows
from curation.domain import Kind, LayerRole, Role, canonical_json
from curation.images.codec import encode_layer, pixel_hash
from curation.takedown.execution import TakedownPlace, take_down
from curation.takedown.selectors import Selector
from tests.support.factories import image
from tests.support.small_instance import fill_instance


@pytest.fixture
def samples(database, store) -> int:
    """Seven samples."""
    with database.transaction() as tx:
        return len(add_samples(tx, [new_sample(store, seed) for seed in range(7)]))


def new_sample(store, seed: int) -> NewSample:
    """Return a sample of one layer."""
    rgba = image(seed)
    data = encode_layer(rgba)
    layer = StoredLayer(store.put(data), rgba.shape[1], rgba.shape[0], len(data), pixel_hash(rgba))
    layers = {LayerRole.foreground: layer}
    return NewSample(Kind.single, f"seed {seed}", "CC0-1.0", f"{seed}.png", 0, layers)


def test_freezing_twice_is_one_snapshot(signed_in, samples, store):
    engineer = signed_in(Role.engineer)
    first = engineer.post("/api/snapshots", json={"tag": "first"})
    assert first.status_code == 201
    assert (first.json()["samples"], first.json()["tags"]) == (7, ["first"])
    assert first.json()["counts"]["licence"] == {"CC0-1.0": 7}
    second = engineer.post("/api/snapshots", json={"tag": "again"}).json()
    assert (second["id"], second["tags"]) == (first.json()["id"], ["again", "first"])
    assert engineer.get("/api/snapshots").json() == [second]
    assert len(list(read_samples(store, second["id"]))) == 7


def test_paging_shows_every_sample_once(signed_in, samples, store):
    engineer = signed_in(Role.engineer)
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


def test_unknown_snapshots_are_not_found(signed_in):
    engineer = signed_in(Role.engineer)
    empty = engineer.post("/api/snapshots", json={})
    assert (empty.status_code, empty.json()["error"]["message"]) == (
        409,
        "there are no samples to freeze",
    )
    assert engineer.get("/api/snapshots/nothing").status_code == 404
    assert engineer.get("/api/snapshots/x", params={"limit": 1000}).status_code == 422
    assert signed_in(Role.annotator).get("/api/snapshots").status_code == 403


def test_a_bad_tag_freezes_nothing_that_is_listed(signed_in, samples):
    engineer = signed_in(Role.engineer)
    assert engineer.post("/api/snapshots", json={"tag": "../x"}).status_code == 422
    assert engineer.get("/api/snapshots").json() == []


def test_paging_reads_no_part_before_the_page(store, monkeypatch):
    """A hundred thousand samples lie in many parts; a page in the middle opens one or two of them."""
    line = {
        "kind": "single",
        "caption": "",
        "licence": "",
        "source": "",
        "split": "train",
        "round": 0,
        "visible": "",
    }
    ids = [f"{prefix}{i:031x}" for prefix in "0123456789abcdef" for i in range(3)]
    parts = []
    for prefix in "0123456789abcdef":
        lines = [
            canonical_json(line | {"id": one, "layers": {}})
            for one in ids
            if one.startswith(prefix)
        ]
        parts.append(
            Part(prefix, store.put("".join(one + "\n" for one in lines).encode()), len(lines))
        )
    snapshot = store.put(Manifest(tuple(parts), {}).bytes())
    read: list[str] = []
    get = store.get
    monkeypatch.setattr(store, "get", lambda sha: read.append(sha) or get(sha))
    assert [sample.id for sample in read_samples(store, snapshot)] == ids
    for after in (ids[0], ids[20], ids[23], ids[-2], ids[-1], "7", "8" * 32):
        assert [sample.id for sample in read_samples(store, snapshot, after)] == [
            one for one in ids if one > after
        ]
    read.clear()
    next(read_samples(store, snapshot, ids[25]))
    assert read == [snapshot, parts[8].sha256]


def test_a_snapshot_that_was_taken_down_says_so(signed_in, samples, database, store):
    engineer = signed_in(Role.engineer)
    touched = engineer.post("/api/snapshots", json={"tag": "first"}).json()["id"]
    gone = next(read_samples(store, touched))
    place = TakedownPlace(database, store, "secret" * 8, "test", pack_folder)
    take_down(place, Selector("sample", (gone.id,)), "", lambda _: None)
    rows = {row["id"]: row for row in engineer.get("/api/snapshots").json()}
    successor = rows[touched]["successor"]
    assert rows[touched]["taken_down"]
    assert (rows[successor]["tags"], rows[successor]["samples"]) == (["first"], 6)
    parts = ("", f"/objects/{touched}", "/statistics")
    for path in (f"/api/snapshots/{touched}{part}" for part in parts):
        answer = engineer.get(path)
        assert answer.status_code == 410
        assert successor in answer.json()["error"]["hint"]
    assert len(engineer.get("/api/snapshots/first").json()["samples"]) == 6
    answer = engineer.get(f"/api/samples/{gone.id}/lineage")
    assert (answer.status_code, gone.caption in answer.text) == (410, False)
    assert "was taken down on" in answer.json()["error"]["message"]
    # What a snapshot had that was taken down is not shown as the change of its child.
    child = engineer.get("/api/snapshots/first/changes").json()
    assert (child["parent"], child["changes"]) == (None, [])


def test_decisions_are_frozen_on_request_and_counted(signed_in, database, store):
    made = fill_instance(database, store)
    engineer = signed_in(Role.engineer)
    plain = engineer.post("/api/snapshots", json={}).json()
    assert plain["decisions"] is None
    frozen = engineer.post("/api/snapshots", json={"with_rejects": True}).json()
    assert frozen["id"] == made.snapshot != plain["id"]
    assert frozen["decisions"]["verdict"] == {"accept": 3, "reject": 3}
    part = read_manifest(store, made.snapshot).decisions.parts[0].sha256
    address = f"/api/snapshots/{made.snapshot}/objects/{part}"
    assert engineer.get(address).content == store.get(part)
    assert signed_in(Role.annotator).get(address).status_code == 403
    assert engineer.post("/api/snapshots", json={"with_rejects": "yes"}).status_code == 422


def test_changes_since_the_parent_are_listed_page_by_page(signed_in, samples, database, store):
    engineer = signed_in(Role.engineer)
    first = engineer.post("/api/snapshots", json={}).json()
    assert (first["parent"], first["change"]) == (None, None)
    page = engineer.get(f"/api/snapshots/{first['id']}/changes").json()
    assert page == {"parent": None, "changes": [], "next": None}
    # One sample has another caption, one is withdrawn, and two are new.
    with database.transaction() as tx:
        lines = dict(tx.execute(sa.select(sample_rows.c.id, sample_rows.c.line)).all())
        changed, removed = sorted(lines)[:2]
        line = json.loads(lines[changed]) | {"caption": "another caption"}
        of_changed = sa.update(sample_rows).where(sample_rows.c.id == changed)
        tx.execute(of_changed.values(line=canonical_json(line)))
        of_removed = sa.update(sample_rows).where(sample_rows.c.id == removed)
        tx.execute(of_removed.values(withdrawn_at=sa.func.now()))
        added = add_samples(tx, [new_sample(store, one) for one in (100, 101)])
    second = engineer.post("/api/snapshots", json={"tag": "second"}).json()
    assert second["parent"] == first["id"]
    assert sum(second["change"]["kind"].values()) == 1
    found, after = [], ""
    while after is not None:
        page = engineer.get(
            "/api/snapshots/second/changes", params={"after": after, "limit": 2}
        ).json()
        assert (page["parent"], len(page["changes"]) <= 2) == (first["id"], True)
        found += page["changes"]
        after = page["next"]
    kinds = {one["sample"]["id"]: one["change"] for one in found}
    assert kinds == {changed.hex: "changed", removed.hex: "removed"} | {
        one.hex: "added" for one in added
    }
    [described] = [one for one in found if one["change"] == "changed"]
    assert (described["fields"], described["before"]) == (
        ["caption"], json.loads(lines[changed])["caption"],
    )  # fmt: skip
    assert described["sample"]["caption"] == "another caption"
    small = described["sample"]["layers"]["foreground"]["small"]
    assert engineer.get(small).status_code == 200
    only = engineer.get("/api/snapshots/second/changes", params={"kind": "removed"}).json()
    assert [one["sample"]["id"] for one in only["changes"]] == [removed.hex]
    refused = engineer.get("/api/snapshots/second/changes", params={"kind": "moved"})
    assert refused.status_code == 422


def test_statistics_and_formats_describe_the_snapshot(signed_in, samples):
    engineer = signed_in(Role.engineer)
    engineer.post("/api/snapshots", json={"tag": "first"})
    found = engineer.get("/api/snapshots/first/statistics").json()
    assert (found["samples"], found["measured"], found["signals"]) == (7, 7, {})
    assert found["words"] == [{"word": "seed", "captions": 7}]
    assert found["caption_lengths"] == {"low": 1, "high": 1, "median": 1, "counts": [7]}
    names = [one["name"] for one in engineer.get("/api/snapshots/first/formats").json()]
    assert "imagefolder" in names
    assert not {"musubi", "diffsynth"} & set(names), "these hold only pairs"
    for part in ("changes", "statistics", "formats"):
        assert engineer.get(f"/api/snapshots/nothing/{part}").status_code == 404
        annotator = signed_in(Role.annotator)
        assert annotator.get(f"/api/snapshots/first/{part}").status_code == 403
