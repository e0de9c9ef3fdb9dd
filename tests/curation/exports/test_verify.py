"""Verification: any flipped bit of a store or a pull is found, and the sample is named."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from curation.datasets.manifest import read_manifest, read_samples, snapshot_objects
from curation.errors import NotFound
from curation.exports.formats import pull_snapshot
from curation.exports.verify import verify_snapshot
from curation.exports.verify_pull import verify_folder
from tests.curation.exports.test_pull import request
from tests.support.snapshots import make_sample, make_snapshot


@pytest.fixture
def samples(store):
    return [make_sample(store, number) for number in range(1, 25)]


@pytest.fixture
def snapshot(store, samples):
    return make_snapshot(store, samples, withheld=[samples[3].id])


def flip(path: Path, rng: random.Random) -> int:
    """Flip one bit of a file; returns the offset of its byte."""
    data = bytearray(path.read_bytes())
    index = rng.randrange(len(data))
    data[index] ^= 1 << rng.randrange(8)
    path.write_bytes(data)
    return index


def test_a_sound_snapshot_and_a_sound_pull_have_no_damage(store, snapshot, tmp_path):
    assert verify_snapshot(store, snapshot) == []
    pull_snapshot(store, snapshot, request(), tmp_path / "p")
    assert verify_folder(tmp_path / "p") == []
    with pytest.raises(NotFound):
        verify_folder(tmp_path)


def test_a_flipped_bit_of_a_layer_names_the_samples(store, samples, snapshot):
    rng = random.Random(1)
    for sample in samples:
        _, name = rng.choice(sorted(sample.layers.items()))
        path = store._path(name)
        sound = path.read_bytes()
        flip(path, rng)
        [damage] = verify_snapshot(store, snapshot)
        assert (damage.kind, damage.name, damage.samples) == ("layer", name, (sample.id,))
        path.write_bytes(sound)


@pytest.mark.slow
def test_a_flipped_bit_of_a_part_names_the_sample_of_its_line(store, samples, snapshot):
    rng = random.Random(2)
    [part] = read_manifest(store, snapshot).parts
    path = store._path(part.sha256)
    sound = path.read_bytes()
    ids = [one.id for one in read_samples(store, snapshot)]
    for _ in range(60):
        index = flip(path, rng)
        [damage] = verify_snapshot(store, snapshot, manifest_only=True)
        line = sound.count(b"\n", 0, index)
        assert (damage.kind, damage.name) == ("part", part.sha256)
        # A flipped end of a line concerns the lines on both sides.
        assert set(damage.samples) & {*ids[line : line + 2], "unreadable"}, (index, damage)
        path.write_bytes(sound)


def test_a_flipped_bit_of_a_manifest_or_list_is_found(store, snapshot):
    rng = random.Random(3)
    for name in [snapshot, *snapshot_objects(store, snapshot)] * 8:
        path = store._path(name)
        sound = path.read_bytes()
        flip(path, rng)
        assert name in {one.name for one in verify_snapshot(store, snapshot, manifest_only=True)}
        path.write_bytes(sound)


def test_a_missing_layer_is_found(store, samples, snapshot):
    name = next(iter(samples[0].layers.values()))
    store._path(name).unlink()
    [damage] = verify_snapshot(store, snapshot)
    assert (damage.problem, damage.samples) == ("it is missing", (samples[0].id,))


@pytest.mark.parametrize("name", ["imagefolder", "kohya", "webdataset", "parquet"])
def test_a_flipped_bit_of_any_pulled_file_is_found(store, samples, snapshot, tmp_path, name):
    tmp_path = tmp_path / "p"
    pull_snapshot(store, snapshot, request(name), tmp_path)
    rng = random.Random(4)
    objects = tmp_path / ".layerloop" / "objects"
    files = [one for one in sorted(tmp_path.rglob("*")) if one.is_file()]
    ids = {one.id for one in samples}
    for path in [one for one in files if objects not in one.parents]:
        sound = path.read_bytes()
        flip(path, rng)
        [damage] = verify_folder(tmp_path)
        assert damage.name == str(path.relative_to(tmp_path))
        if path.stem in ids:
            assert damage.samples == (path.stem,)
        path.write_bytes(sound)
    assert verify_folder(tmp_path) == []


def test_a_damaged_image_inside_a_shard_names_its_sample(store, samples, snapshot, tmp_path):
    tmp_path = tmp_path / "p"
    pull_snapshot(store, snapshot, request("webdataset"), tmp_path)
    shard = next((tmp_path / "data").iterdir())
    data = bytearray(shard.read_bytes())
    # The first member's header takes 512 bytes; its image follows.
    sample = data[:32].decode()
    data[512 + 200] ^= 4
    shard.write_bytes(data)
    [damage] = verify_folder(tmp_path)
    assert damage.samples == (sample,)
