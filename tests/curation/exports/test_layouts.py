"""Layouts: every file that a trainer's configuration names exists, in the form that its reader expects."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from curation.domain import Kind, LayerRole, Split
from curation.exports.formats import pull_snapshot
from curation.exports.rendering import Alpha
from curation.exports.selection import Selection, parse_weight
from curation.images.codec import decode_layer
from tests.curation.exports.test_pull import open_image, request
from tests.support.snapshots import make_sample, make_snapshot

MIT_TWICE = Selection((Split.train,), weights=(parse_weight("licence=MIT:2"),))


@pytest.fixture
def samples(store):
    return [make_sample(store, index) for index in range(1, 16)]


@pytest.fixture
def snapshot(store, samples):
    return make_snapshot(store, samples)


def trained(samples):
    return [one for one in samples if one.split is Split.train]


def test_kohya_repeats_folders_and_finds_masks(store, samples, snapshot, tmp_path):
    for alpha in Alpha:
        folder = tmp_path / alpha
        pull_snapshot(store, snapshot, request("kohya", alpha, selection=MIT_TWICE), folder)
        config = tomllib.loads((folder / "dataset.toml").read_text())
        subsets = config["datasets"][0]["subsets"]
        repeats = {one["num_repeats"]: Path(one["image_dir"]) for one in subsets}
        for sample in trained(samples):
            image = repeats[2 if sample.licence == "MIT" else 1] / f"{sample.id}.png"
            caption = image.with_suffix(".txt").read_text()
            assert caption == sample.caption_for(LayerRole.foreground) + "\n"
            with Image.open(image) as opened:
                assert opened.mode == ("RGBA" if alpha is Alpha.keep else "RGB")
        for one in subsets:
            assert ("conditioning_data_dir" in one) == (alpha is Alpha.mask)
            assert one.get("alpha_mask", False) == (alpha is Alpha.keep)
            if alpha is Alpha.mask:
                masks = {file.name for file in Path(one["conditioning_data_dir"]).iterdir()}
                images = {file.name for file in Path(one["image_dir"]).glob("*.png")}
                assert masks == images


def test_onetrainer_finds_masks_beside_images(store, samples, snapshot, tmp_path):
    pull_snapshot(
        store, snapshot, request("onetrainer", Alpha.mask, selection=MIT_TWICE), tmp_path / "p"
    )
    concepts = json.loads((tmp_path / "p" / "concepts.json").read_text())
    assert [one["balancing"] for one in concepts] == [1.0, 2.0]
    for one in concepts:
        names = {file.name for file in Path(one["path"]).iterdir()}
        stems = {name.removesuffix(".txt") for name in names if name.endswith(".txt")}
        assert names == {f"{s}{end}" for s in stems for end in (".png", ".txt", "-masklabel.png")}


def test_simpletuner_counts_repeats_from_zero(store, samples, snapshot, tmp_path):
    wish = request("simpletuner", Alpha.mask, selection=MIT_TWICE)
    pull_snapshot(store, snapshot, wish, tmp_path / "p")
    backends = {one["id"]: one
                for one in json.loads((tmp_path / "p" / "multidatabackend.json").read_text())}  # fmt: skip
    assert [backends[f"layerloop-{n}"]["repeats"] for n in (1, 2)] == [0, 1]
    for n in (1, 2):
        masks = backends[backends[f"layerloop-{n}"]["conditioning_data"]]
        assert masks["conditioning_type"] == "mask"
        assert Path(masks["instance_data_dir"]).is_dir()
    assert backends["layerloop-text"]["dataset_type"] == "text_embeds"


def test_ai_toolkit_names_folders_that_exist(store, samples, snapshot, tmp_path):
    yaml = pytest.importorskip("yaml")
    pull_snapshot(
        store, snapshot, request("ai-toolkit", Alpha.mask, selection=MIT_TWICE), tmp_path / "p"
    )
    found = yaml.safe_load((tmp_path / "p" / "datasets.yaml").read_text())["datasets"]
    assert [one["num_repeats"] for one in found] == [1, 2]
    assert all(Path(one[key]).is_dir() for one in found for key in ("folder_path", "mask_path"))


def test_musubi_finds_the_layers_of_each_whole_image(store, samples, snapshot, tmp_path):
    pull_snapshot(store, snapshot, request("musubi"), tmp_path / "p")
    config = tomllib.loads((tmp_path / "p" / "dataset.toml").read_text())["datasets"]
    assert [one["multiple_target"] for one in config] == [True]
    folder = Path(config[0]["image_directory"])
    pairs = [one for one in trained(samples) if one.kind is Kind.pair]
    assert pairs
    ends = (".png", "_0.png", "_1.png", ".txt")
    assert {one.name for one in folder.iterdir()} == {f"{s.id}{end}" for s in pairs for end in ends}
    for sample in pairs:
        rgba = decode_layer(store.get(sample.layers[LayerRole.foreground]))
        assert np.array_equal(open_image(folder / f"{sample.id}_1.png"), rgba)
        assert (folder / f"{sample.id}.txt").read_text() == sample.caption + "\n"


def test_diffsynth_lists_the_whole_image_and_its_layers(store, samples, snapshot, tmp_path):
    selection = Selection((Split.train,), weights=(parse_weight("kind=pair:2"),))
    pull_snapshot(store, snapshot, request("diffsynth", selection=selection), tmp_path / "p")
    rows = json.loads((tmp_path / "p" / "metadata.json").read_text())
    pairs = [one for one in trained(samples) if one.kind is Kind.pair]
    assert len(rows) == 2 * len(pairs)
    for row in rows:
        assert len(row["image"]) == row["layer_num"] + 1 == 3
        assert row["image"][0] == row["layer_input_image"]
        assert all((tmp_path / "p" / name).is_file() for name in row["image"])


def test_label_studio_finds_images_below_its_document_root(store, samples, snapshot, tmp_path):
    roles = (LayerRole.foreground, LayerRole.background)
    pull_snapshot(store, snapshot, request("label-studio", roles=roles), tmp_path / "p")
    tasks = json.loads((tmp_path / "p" / "tasks.json").read_text())
    assert len(tasks) == len(samples)
    for task in tasks:
        for key in ("image", "layer_1"):
            if key in task["data"]:
                path = task["data"][key].removeprefix("/data/local-files/?d=")
                assert (tmp_path / path).is_file()
    assert any("layer_1" in task["data"] for task in tasks)


def test_the_card_counts_licences_and_states_limits(store, samples, snapshot, tmp_path):
    info = {"tags": ["v1"], "query": {"rounds": [1]}, "parent": "f" * 64,
            "notes": ["trained well"], "review": {"mean agreement": 0.9}}  # fmt: skip
    pull_snapshot(store, snapshot, request(), tmp_path / "p", info=info)
    card = (tmp_path / "p" / "README.md").read_text()
    free = sum(one.licence == "CC0-1.0" for one in samples)
    for text in (snapshot, f"| CC0-1.0 | {free} |", "trained well", "rounds: [1]",
                 "mean agreement: 0.9", "Known limits", "split: validation"):  # fmt: skip
        assert text in card
