"""Pulls: exact pixels, resumed after an interruption, the next version as a difference, no withheld samples."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from curation.domain import LayerRole, Split
from curation.errors import Conflict, NotFound, Refused
from curation.exports.formats import FORMATS, PullRequest, make_plan, pull_snapshot
from curation.exports.rendering import Alpha, ImageType, Treatment, parse_background
from curation.exports.selection import Selection, parse_condition, parse_weight
from curation.images.codec import composite_over, decode_layer
from curation.object_store import FolderStore
from tests.support.snapshots import make_sample, make_snapshot


class Flaky:
    """A store that fails once it has given out a number of layers."""

    def __init__(self, store: FolderStore, layers: int) -> None:
        self.store, self.left = store, layers

    def get(self, sha256: str) -> bytes:
        data = self.store.get(sha256)
        if data[8:12] == b"WEBP":
            self.left -= 1
            if self.left < 0:
                raise NotFound("the connection is lost")
        return data


def request(name: str = "imagefolder", alpha: Alpha | None = None, **fields) -> PullRequest:
    chosen = FORMATS[name]
    treatment = Treatment(alpha or chosen.alpha, fields.pop("background", (255, 255, 255)),
                          fields.pop("image_type", ImageType.png))  # fmt: skip
    selection = fields.pop("selection", Selection(chosen.splits))
    return PullRequest(
        chosen, selection, treatment, **{"workers": 3, "shard_bytes": 9_000} | fields
    )


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file() and ".layerloop" not in file.parts
    }


@pytest.fixture
def samples(store):
    return [make_sample(store, number) for number in range(1, 25)]


@pytest.fixture
def snapshot(store, samples):
    return make_snapshot(store, samples)


def open_image(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


@pytest.mark.parametrize("image_type", list(ImageType))
def test_kept_alpha_is_exact_with_hidden_colors(store, samples, snapshot, tmp_path, image_type):
    roles = (LayerRole.foreground, LayerRole.background)
    pull_snapshot(
        store, snapshot, request("png", image_type=image_type, roles=roles), tmp_path / "p"
    )
    for sample in samples:
        split = "train" if sample.split is Split.train else "validation"
        for role in set(roles) & sample.layers.keys():
            suffix = "" if role is LayerRole.foreground else f".{role}"
            pulled = open_image(tmp_path / "p" / split / f"{sample.id}{suffix}.{image_type}")
            stored = decode_layer(store.get(sample.layers[role]))
            # A decoder may leave out an alpha channel that is opaque everywhere.
            assert np.array_equal(pulled, stored[..., : pulled.shape[-1]])


def test_composited_images_have_the_stated_background_and_masks_the_alpha(
    store, samples, snapshot, tmp_path
):
    wish = request("imagefolder", Alpha.mask, background=parse_background("#102030"))
    pull_snapshot(store, snapshot, wish, tmp_path / "p")
    for sample in samples:
        split = "train" if sample.split is Split.train else "validation"
        base = tmp_path / "p" / split / sample.id[:2]
        rgba = decode_layer(store.get(sample.layers[LayerRole.foreground]))
        flat = composite_over(rgba, (16, 32, 48))
        assert np.array_equal(open_image(base / f"{sample.id}.png"), flat)
        assert np.array_equal(open_image(base / f"{sample.id}.mask.png"), rgba[..., 3])


@pytest.mark.parametrize("name", FORMATS)
def test_an_interrupted_pull_resumes_and_equals_one_that_was_not(
    store, samples, snapshot, tmp_path, name
):
    wish = request(name)
    whole, broken = tmp_path / "a" / "p", tmp_path / "b" / "p"
    first = pull_snapshot(store, snapshot, wish, whole)
    with pytest.raises(NotFound, match="connection is lost"):
        pull_snapshot(Flaky(store, 14), snapshot, wish, broken)
    resumed = pull_snapshot(store, snapshot, wish, broken)
    assert 0 < resumed.fetched_bytes < first.fetched_bytes
    again = pull_snapshot(store, snapshot, wish, broken)
    assert (again.written, again.fetched_bytes, again.removed) == (0, 0, 0)
    expected = {path: data.replace(str(whole).encode(), str(broken).encode())
                for path, data in files_of(whole).items()}  # fmt: skip
    found = files_of(broken)
    if FORMATS[name].layout:
        found.pop("croissant.json"), expected.pop("croissant.json")  # it names sizes and hashes
        assert found == expected
    else:  # shards are cut where the pull was interrupted, with the same rows
        assert shard_rows(broken) == shard_rows(whole)


def shard_rows(folder: Path) -> dict[str, bytes]:
    rows = {}
    for file in (folder / "data").iterdir():
        if file.suffix == ".tar":
            with tarfile.open(file) as tar:
                for one in tar:
                    assert one.name not in rows
                    rows[one.name] = tar.extractfile(one).read()
        else:
            import pyarrow.parquet as pq

            for row in pq.read_table(file).to_pylist():
                assert row["sample_id"] not in rows
                rows[row["sample_id"]] = json.dumps(row, default=repr).encode()
    return rows


@pytest.mark.parametrize("name", ["imagefolder", "parquet", "webdataset", "kohya"])
def test_the_next_version_fetches_the_difference_only(store, samples, snapshot, tmp_path, name):
    pull_snapshot(store, snapshot, request(name), tmp_path / "p")
    # Two are removed, two added, and one has another caption.
    kept = samples[2:-1]
    changed = make_sample(store, 24, caption="another caption")
    added = [make_sample(store, number) for number in (100, 101)]
    newer = make_snapshot(store, [*kept, changed, *added])
    result = pull_snapshot(store, newer, request(name), tmp_path / "p")
    layers = [store.get(one.layers[LayerRole.foreground]) for one in added]
    assert result.fetched_bytes == sum(map(len, layers))
    fresh = tmp_path / "fresh"
    pull_snapshot(store, newer, request(name), fresh)
    if FORMATS[name].layout:
        same = {p: d for p, d in files_of(tmp_path / "p").items() if p.endswith((".png", ".txt"))}
        assert same == {p: d for p, d in files_of(fresh).items() if p.endswith((".png", ".txt"))}
    else:
        assert shard_rows(tmp_path / "p") == shard_rows(fresh)


def test_a_changed_weight_moves_files_and_fetches_nothing(store, samples, snapshot, tmp_path):
    pull_snapshot(store, snapshot, request("kohya"), tmp_path / "p")
    weighted = Selection((Split.train,), weights=(parse_weight("licence=MIT:3"),))
    result = pull_snapshot(store, snapshot, request("kohya", selection=weighted), tmp_path / "p")
    assert result.fetched_bytes == 0
    assert result.moved > 0
    folders = {path.split("/")[1] for path in files_of(tmp_path / "p") if path.startswith("images")}
    assert folders == {"1_layerloop", "3_layerloop"}


def test_a_file_that_somebody_changed_is_written_again(store, samples, snapshot, tmp_path):
    pull_snapshot(store, snapshot, request(), tmp_path / "p")
    before = files_of(tmp_path / "p")
    victim = next((tmp_path / "p" / "train").rglob("*.png"))
    victim.write_bytes(b"x" * victim.stat().st_size)
    assert pull_snapshot(store, snapshot, request(), tmp_path / "p").written == 1
    assert files_of(tmp_path / "p") == before


def test_a_folder_with_something_else_is_refused_and_left_alone(store, snapshot, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("important")
    with pytest.raises(Refused, match="is not empty and was not pulled"):
        pull_snapshot(store, snapshot, request(), tmp_path / "mine")
    assert files_of(tmp_path / "mine") == {"thesis.txt": b"important"}
    pull_snapshot(store, snapshot, request(), tmp_path / "p")
    with pytest.raises(Conflict, match="holds a pull with --format imagefolder"):
        pull_snapshot(store, snapshot, request("kohya"), tmp_path / "p")


def test_withheld_samples_are_never_pulled(store, samples, tmp_path):
    trained = [one for one in samples if one.split is Split.train]
    hidden = sorted(one.id for one in trained[:3])
    snapshot = make_snapshot(store, samples, withheld=hidden)
    plan = make_plan(store, snapshot, request("png"), tmp_path)
    ids = {one.sample.id for one in plan.selected}
    assert ids == {one.id for one in samples} - set(hidden)


def test_conditions_choose_and_weights_multiply(store, samples, snapshot, tmp_path):
    older = make_snapshot(store, samples[:10])
    selection = Selection(
        (Split.train,),
        (parse_condition("licence=MIT"), parse_condition("round>=1")),
        (parse_weight("caption~CAPTION:2"), parse_weight("kind=pair:1.25")),
        since=older,
        new_weight=4,
    )
    plan = make_plan(store, snapshot, request(selection=selection), tmp_path)
    expected = {
        one.id: 2 * (1.25 if len(one.layers) == 3 else 1) * (1 if one in samples[:10] else 4)
        for one in samples
        if one.split is Split.train and one.licence == "MIT" and one.round >= 2
    }
    assert {one.sample.id: one.weight for one in plan.selected} == expected
    with pytest.raises(Refused, match="cannot be expressed by repeated folders"):
        make_plan(store, snapshot, request("kohya", selection=selection), tmp_path)


@pytest.mark.parametrize("text", ["", "licence", "hat=3", "round=three", "licence==", "; drop"])
def test_invalid_conditions_are_refused(text):
    if text == "licence==":
        assert parse_condition(text).value == "="
        return
    with pytest.raises(Refused):
        parse_condition(text)


def test_layers_that_a_format_cannot_hold_are_refused(store, snapshot, tmp_path):
    with pytest.raises(Refused, match="does not support --alpha keep"):
        make_plan(store, snapshot, request("onetrainer", Alpha.keep), tmp_path)
    nothing = Selection(conditions=(parse_condition("round=99"),))
    with pytest.raises(Refused, match="no sample of snapshot"):
        make_plan(store, snapshot, request(selection=nothing), tmp_path)


def test_a_tar_has_the_same_bytes_for_the_same_rows(store, snapshot, tmp_path):
    for name in "ab":
        pull_snapshot(store, snapshot, request("webdataset"), tmp_path / name)
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")
    tar = next((tmp_path / "a" / "data").glob("train-*.tar"))
    with tarfile.open(tar) as opened:
        names = [one.name for one in opened]
        first = Image.open(io.BytesIO(opened.extractfile(names[0]).read()))
    assert first.mode == "RGBA"
    assert [name.partition(".")[2] for name in names[:3]] == ["png", "txt", "json"]
