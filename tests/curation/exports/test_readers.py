"""Pulls are read by other libraries, unchanged, in an environment of their own."""

from __future__ import annotations

import pytest

from curation.domain import LayerRole, Split, Verdict
from curation.exports.decisions import DecisionForm, DecisionsRequest
from curation.exports.formats import FORMATS, pull_snapshot
from curation.exports.packs.folder import LocalPackFolder
from curation.exports.packs.writer import pack_snapshot
from curation.exports.rendering import Alpha
from curation.images.codec import composite_over, decode_layer
from tests.curation.exports.test_pull import request
from tests.support.snapshot_readers import read_with
from tests.support.snapshots import make_decision, make_sample, make_snapshot

pytestmark = pytest.mark.slow


@pytest.fixture
def samples(store):
    return [make_sample(store, index) for index in range(1, 25)]


@pytest.fixture
def snapshot(store, samples):
    return make_snapshot(store, samples)


@pytest.mark.parametrize("alpha", list(Alpha))
@pytest.mark.parametrize(
    ("name", "program"),
    [("imagefolder", "imagefolder"), ("imagefolder", "card"), ("parquet", "parquet"),
     ("parquet", "card"), ("webdataset", "webdataset"), ("webdataset", "card"),
     ("webdataset", "wds")],
)  # fmt: skip
def test_rows_are_read_with_captions_and_images(
    store, samples, snapshot, tmp_path, name, program, alpha
):
    pull_snapshot(store, snapshot, request(name, alpha), tmp_path / "p")
    found = read_with(program, tmp_path / "p", tmp_path / "cache")
    image, text = ("png", "txt") if name == "webdataset" and program != "wds" else ("image", "text")
    for split, folder in ((Split.train, "train"), (Split.heldout, "validation")):
        expected = {
            sample.id: (sample.caption_for(LayerRole.foreground), 24, 20)
            for sample in samples
            if sample.split is split
        }
        rows = {}
        for row in found[folder]:
            mode, width, height = row[image]
            # webdataset's "pilrgba" converts every image.
            is_rgba = alpha is Alpha.keep or program == "wds"
            assert mode == ("RGBA" if is_rgba else "RGB")
            sample = row.get("sample_id") or row["__key__"]
            rows[sample] = (row[text], width, height)
            if alpha is Alpha.mask and program != "wds":
                assert row["mask.png" if name == "webdataset" else "mask"][0] == "L"
        assert rows == expected


@pytest.mark.parametrize("name", ["imagefolder", "parquet", "webdataset"])
def test_several_layers_are_columns(store, samples, snapshot, tmp_path, name):
    wish = request(name, roles=(LayerRole.foreground, LayerRole.background))
    pull_snapshot(store, snapshot, wish, tmp_path / "p")
    found = read_with(name, tmp_path / "p", tmp_path / "cache")
    column = "background.png" if name == "webdataset" else "background"
    pairs = {sample.id for sample in samples if LayerRole.background in sample.layers}
    rows = [row for part in found.values() for row in part]
    with_layer = {row.get("sample_id") or row["__key__"] for row in rows if row.get(column)}
    assert with_layer == pairs
    # Only a table may have rows without a layer; readers of the others would not notice it.
    assert len(rows) == (len(samples) if name == "parquet" else len(pairs))


def test_webdataset_reads_the_shards_of_a_pack(store, samples, snapshot, tmp_path):
    folder = LocalPackFolder(tmp_path / "pack")
    pack_snapshot(store, snapshot, folder)
    # One is removed, and one has another caption: its row is written again.
    changed = make_sample(store, 2, caption="another")
    later = [changed, *(one for one in samples[:-1] if one.id != changed.id)]
    pack_snapshot(store, make_snapshot(store, later), folder)
    found = read_with("packed", folder.folder, tmp_path / "cache")
    for split, part in ((Split.train, "train"), (Split.heldout, "val")):
        expected = [[one.id, one.caption_for(), one.id, "RGBA", 24, 20]
                    for one in later if one.split is split]  # fmt: skip
        assert sorted(found[part]) == sorted(expected)
    assert found["all train"] + found["all val"] == len(samples) + 1


@pytest.mark.parametrize("name", FORMATS)
def test_croissant_is_valid_in_every_format(store, samples, snapshot, tmp_path, name):
    info = {"frozen_at": "2026-11-30T12:00:00+00:00", "parent": "f" * 64}
    pull_snapshot(store, snapshot, request(name), tmp_path / "p", info=info)
    found = read_with("croissant", tmp_path / "p", tmp_path / "cache")
    assert found["errors"] == []
    assert found["version"].endswith("V_1_1")
    if found["records"]:
        rows = read_with("records", tmp_path / "p", tmp_path / "cache")["rows"]
        chosen = FORMATS[name].splits
        assert sorted(rows) == sorted(sample.id for sample in samples if sample.split in chosen)


@pytest.mark.parametrize("form", list(DecisionForm))
@pytest.mark.parametrize("name", ["imagefolder", "parquet"])
def test_decisions_are_read_with_their_images(store, samples, tmp_path, name, form):
    decided = [make_decision(store, number) for number in range(30)]
    snapshot = make_snapshot(store, samples, decisions=decided)
    alpha = Alpha.composite if form is DecisionForm.pairs else Alpha.keep
    pull_snapshot(
        store, snapshot, request(name, alpha, decisions=DecisionsRequest(form)), tmp_path / "p"
    )
    checked = read_with("croissant", tmp_path / "p", tmp_path / "cache")
    assert checked["errors"] == []
    records = {one.candidate: one for one in decided}
    if form is DecisionForm.labels:
        rows = read_with(name, tmp_path / "p", tmp_path / "cache")["train"]
        people = {one.candidate for one in decided if not one.automatic}
        assert {row["candidate_id"] for row in rows} == people
        for row in rows:
            assert row["image"] == ["RGBA", 24, 20]
            assert row["label"] == (records[row["candidate_id"]].verdict is Verdict.accept)
    elif name == "imagefolder":
        rows = read_with(name, tmp_path / "p", tmp_path / "cache")["train"]
        assert rows
        assert all(row["chosen"] == row["rejected"] == ["RGB", 24, 20] for row in rows)
    else:
        found = read_with("dpo", tmp_path / "p", tmp_path / "cache")
        assert found
        for pair, (caption, *pixels) in found.items():
            for id_, pixel in zip(pair.split("-"), pixels, strict=True):
                layer = decode_layer(store.get(records[id_].layers[LayerRole.foreground]))
                assert pixel == composite_over(layer, (255, 255, 255))[9, 9].tolist()
                assert caption == records[id_].prompt
