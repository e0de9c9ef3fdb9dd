"""Seeded single-bit flips in manifests, parts, layers, packs and pulls: all are found and named."""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from curation.datasets.manifest import read_manifest, read_samples
from curation.exports.damage import Damage
from curation.exports.flipped_bits import find_flip, line_trials
from curation.exports.formats import pull_snapshot
from curation.exports.packs.check import verify_pack
from curation.exports.packs.folder import LocalPackFolder
from curation.exports.packs.index import read_index
from curation.exports.packs.version import read_version
from curation.exports.packs.writer import pack_snapshot
from curation.exports.verify import verify_snapshot
from curation.exports.verify_pull import verify_folder
from curation.object_store import FolderStore
from tests.curation.exports.test_pull import request
from tests.support.snapshots import make_sample, make_snapshot

FLIPS = int(os.environ.get("LAYERLOOP_TEST_FLIPS", "64"))
"""`LAYERLOOP_TEST_FLIPS=1000` runs the full number."""
SEED = 20261130
WORDS = [
    "a",
    "red",
    "glass",
    "bottle",
    "on",
    "the",
    "oak",
    "table",
    "in",
    "front",
    "of",
    "some",
    "blue",
    "flowers",
]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("flips")


@pytest.fixture(scope="module")
def store(place) -> FolderStore:
    return FolderStore(place / "objects")


@pytest.fixture(scope="module")
def samples(store):
    rng = random.Random(1)
    # Captions of common words, so that many lines are alike; the part is longer than 70 kB.
    texts = [" ".join(rng.choices(WORDS, k=12)) for _ in range(180)]
    return [make_sample(store, number, caption=text) for number, text in enumerate(texts, 1)]


@pytest.fixture(scope="module")
def snapshot(store, samples):
    return make_snapshot(store, samples, withheld=[one.id for one in samples[3:9]])


@pytest.fixture(scope="module")
def folder(store, snapshot, place):
    folder = LocalPackFolder(place / "pack")
    pack_snapshot(store, snapshot, folder, shard_bytes=60_000)
    return folder


@pytest.fixture(scope="module")
def pulls(store, snapshot, place):
    found = {}
    for name in ("imagefolder", "webdataset", "parquet", "kohya"):
        pull_snapshot(store, snapshot, request(name, shard_bytes=30_000), place / name)
        found[name] = place / name
    return found


class Flips:
    """Targets of flips by kind: a file, how it is verified, and whom a flip at a byte concerns."""

    def __init__(self, store, samples, snapshot, folder, pulls) -> None:
        self.store, self.snapshot, self.folder, self.pulls = store, snapshot, folder, pulls
        self.ids = [one.id for one in read_samples(store, snapshot)]
        self.owners: dict[str, set[str]] = {}
        for one in samples:
            for name in one.layers.values():
                self.owners.setdefault(name, set()).add(one.id)
        self.kinds: dict[str, Callable[[random.Random], tuple]] = {
            "manifest": self.manifest,
            "part": self.part,
            "withheld": self.withheld,
            "layer": self.layer,
            "pack tar": self.pack_tar,
            "pack index": self.pack_index,
            "pack version": self.pack_version,
            "pack manifest": self.pack_manifest,
            "pack offsets": self.pack_offsets,
            "pulled image": self.pulled_image,
            "pulled shard": self.pulled_shard,
            "pulled table": self.pulled_table,
            "pulled texts": self.pulled_texts,
            "pull record": self.pull_record,
            "pulled part": self.pulled_part,
        }

    def verify_store(self) -> list[Damage]:
        return verify_snapshot(self.store, self.snapshot)

    def verify_pack(self) -> list[Damage]:
        return verify_pack(self.folder, [self.snapshot])

    def manifest(self, _rng):
        text = self.store.get(self.snapshot)
        [part] = read_manifest(self.store, self.snapshot).parts
        entry = text.index(part.sha256.encode())
        # The hash of the part is about its samples, the counts are about all.
        concerns = lambda at: set(self.ids) if entry <= at < entry + 64 else set()  # noqa: E731
        return self.store._path(self.snapshot), self.verify_store, concerns

    def part(self, _rng):
        [part] = read_manifest(self.store, self.snapshot).parts
        text = self.store.get(part.sha256)
        assert len(text) > 70_000
        return self.store._path(part.sha256), self.verify_store, self._line_of(text, self.ids)

    def withheld(self, _rng):
        name = read_manifest(self.store, self.snapshot).withheld
        text = self.store.get(name)
        path = self.store._path(name)
        return path, self.verify_store, self._line_of(text, text.decode().split())

    def layer(self, rng):
        name = rng.choice(sorted(self.owners))
        return self.store._path(name), self.verify_store, lambda _at: self.owners[name]

    def pack_tar(self, rng):
        shard, members = self._shard(rng)

        def concerns(at: int) -> set[str]:
            found = [one.sample for one in members if at < one.end]
            return {found[0] if found else members[-1].sample}

        return self.folder.folder / shard.tar, self.verify_pack, concerns

    def pack_index(self, rng):
        shard, _ = self._shard(rng)
        return self.folder.folder / shard.index_path, self.verify_pack, None

    def pack_offsets(self, rng):
        shard, members = self._shard(rng)
        ids = list(dict.fromkeys(one.sample for one in members))
        path = self.folder.folder / shard.offsets_path
        return path, self.verify_pack, lambda at: {ids[min(at // 8, len(ids) - 1)]}

    def pack_version(self, _rng):
        version = read_version(self.folder, self.snapshot)
        shards = [{one.sample for one in self._members(shard)} for shard in version.shards]
        lines = self.folder.read(version.path).split(b"\n")
        starts = [sum(len(line) + 1 for line in lines[: n + 1]) for n in range(len(lines))]

        def concerns(at: int) -> set[str]:
            number = sum(start <= at for start in starts)
            # The first line is about the whole version.
            return shards[number - 1] if number else set()

        return self.folder.folder / version.path, self.verify_pack, concerns

    def pack_manifest(self, rng):
        _, _, concerns = self.manifest(rng)
        path = self.folder.folder / "objects" / self.snapshot[:2] / self.snapshot[2:]
        return path, self.verify_pack, concerns

    def pulled_image(self, rng):
        path = rng.choice(sorted(self.pulls["imagefolder"].rglob("*.png")))
        return path, lambda: verify_folder(self.pulls["imagefolder"]), lambda _at: {path.stem}

    def pulled_shard(self, rng):
        path = rng.choice(sorted(self.pulls["webdataset"].rglob("*.tar")))
        return path, lambda: verify_folder(self.pulls["webdataset"]), None

    def pulled_table(self, rng):
        path = rng.choice(sorted(self.pulls["parquet"].rglob("*.parquet")))
        return path, lambda: verify_folder(self.pulls["parquet"]), None

    def pulled_texts(self, rng):
        path = rng.choice(sorted(self.pulls["imagefolder"].rglob("metadata.jsonl")))
        text = path.read_bytes()
        ids = [line.partition('"sample_id":"')[2][:32] for line in text.decode().split("\n")[:-1]]
        verify = lambda: verify_folder(self.pulls["imagefolder"])  # noqa: E731
        return path, verify, self._line_of(text, ids)

    def pull_record(self, rng):
        name = rng.choice(["imagefolder", "kohya", "webdataset"])
        return (
            self.pulls[name] / ".layerloop" / "files.jsonl",
            lambda: verify_folder(self.pulls[name]),
            lambda _at: set(),
        )

    def pulled_part(self, _rng):
        [part] = read_manifest(self.store, self.snapshot).parts
        objects = FolderStore(self.pulls["kohya"] / ".layerloop" / "objects")
        path = objects._path(part.sha256)
        text = self.store.get(part.sha256)
        return path, lambda: verify_folder(self.pulls["kohya"]), self._line_of(text, self.ids)

    def _shard(self, rng):
        shard = rng.choice(read_version(self.folder, self.snapshot).shards)
        return shard, self._members(shard)

    def _members(self, shard):
        return read_index(self.folder.read(shard.index_path), shard.size, shard.name)

    def _line_of(self, text: bytes, ids: list[str]) -> Callable[[int], set[str]]:
        def concerns(at: int) -> set[str]:
            line = text.count(b"\n", 0, at)
            # A newline concerns both of its neighbors.
            return set(ids[line : line + 2] if text[at : at + 1] == b"\n" else [ids[line]])

        return concerns


@pytest.mark.slow
def test_every_flipped_bit_is_found_and_its_sample_is_named(
    store, samples, snapshot, folder, pulls
):
    flips = Flips(store, samples, snapshot, folder, pulls)
    assert flips.verify_store() == flips.verify_pack() == []
    assert [verify_folder(one) for one in pulls.values()] == [[]] * len(pulls)
    kinds = list(flips.kinds)
    for turn in range(FLIPS):
        rng = random.Random(f"{SEED} {turn}")
        kind = kinds[turn % len(kinds)]
        path, verify, concerns = flips.kinds[kind](rng)
        sound = path.read_bytes()
        at, bit = rng.randrange(len(sound)), rng.randrange(8)
        path.write_bytes(sound[:at] + bytes([sound[at] ^ (1 << bit)]) + sound[at + 1 :])
        where = f"{kind}, seed {SEED}, turn {turn}: bit {bit} of byte {at} of {path}"
        try:
            found = verify()
        finally:
            path.write_bytes(sound)
        assert found, where
        named = {sample for one in found for sample in one.samples}
        if concerns is None:
            # Rows of a table share bytes: then all of them are named.
            assert named, (where, found)
            assert named <= set(flips.ids), (where, found)
            continue
        expected = concerns(at)
        assert expected <= named, (where, found)
        # Where one sample is concerned, no others are accused.
        assert len(expected) != 1 or len(named) <= 2, (where, found)


@pytest.mark.parametrize("seed", range(40))
def test_the_flipped_bit_of_a_text_is_found_whatever_the_text_is(seed):
    rng = random.Random(seed)
    size = rng.choice([1, 2, 63, 64, 65, 4_095, 4_096, 4_097, 9_000])
    data = bytes(rng.choice(b'\n"{}[]:,abc \x80\xff\\') for _ in range(size))
    at, bit = rng.randrange(size), rng.randrange(8)
    damaged = data[:at] + bytes([data[at] ^ (1 << bit)]) + data[at + 1 :]
    digest = hashlib.sha256(data).hexdigest()
    flip = find_flip(damaged, digest, line_trials(damaged, lambda line: b"a" not in line))
    assert flip is not None
    assert (flip.place, flip.bit, flip.repaired) == (at, bit, data)
    # Two flipped bits are not explained by one.
    if size > 2:
        twice = bytes([damaged[0] ^ 64, damaged[1] ^ 32]) + damaged[2:]
        if twice != data and size < 100:
            assert find_flip(twice, digest) is None or at < 2
