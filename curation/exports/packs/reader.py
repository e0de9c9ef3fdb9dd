"""A snapshot in a pack as a store to read: objects are ranges of shards, parts are joined lines.

Everything that reads a store reads a pack with it: pulls, verification, and the loader.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from curation.datasets.manifest import Manifest, Part, parse_manifest
from curation.errors import Corrupt, NotFound
from curation.exports.packs.folder import PackFolder
from curation.exports.packs.index import group_by_sample, read_index
from curation.exports.packs.tar import RECORD, ShardMember
from curation.exports.packs.version import (
    DECIDED,
    PackVersion,
    Shard,
    object_path,
    packed_snapshots,
    read_version,
)
from curation.object_store import compute_sha256, is_sha256

READERS = 8
"""Indexes that are read at the same time when a pack is opened."""
MAX_INDEX_BYTES = 2 << 30
REPAIR = "pack the snapshot again, or restore the file"


class PackReader:
    """The objects of a snapshot in a pack; several threads may use it, and processes copies of it.

    Args:
        folder: The folder of the pack.
        snapshot: Full id of the snapshot.
    """

    def __init__(self, folder: PackFolder, snapshot: str) -> None:
        self.folder = folder
        self.version = read_version(folder, snapshot)
        sizes = folder.sizes("shards")
        with ThreadPoolExecutor(READERS, "index") as pool:
            indexes = list(
                pool.map(lambda shard: open_index(folder, shard, sizes), self.version.shards)
            )
        # Equal layers may be in several places; any of them is right.
        places = {
            one.sha256: (number, one.offset, one.length)
            for number, members in enumerate(indexes)
            for one in members
            if one.is_layer
        }
        # Snapshot, and lines of samples and of candidates by sorted ids, read when a part is.
        self._loaded: tuple[str, dict[str, str], dict[str, str]] | None = None
        names = sorted(places)
        self._names = np.array([bytes.fromhex(name) for name in names], dtype="V32")
        self._firsts = np.array([int(name[:15], 16) for name in names], dtype=np.int64)
        self._places = np.array([places[name] for name in names], dtype=np.int64).reshape(-1, 3)

    def get(self, sha256: str) -> bytes:
        """Return the bytes with that sha256, after checking it.

        Args:
            sha256: The object's name, 64 hex digits.

        Raises:
            NotFound: The pack has no such object.
            Corrupt: The bytes have another sha256.
            Unreachable: The server of the pack does not answer.
        """
        data = self.get_unchecked(sha256)
        if hashlib.sha256(data).hexdigest() != sha256:
            raise Corrupt(
                f"the bytes of object {sha256} in {self.folder.address} do not match its sha256",
                REPAIR,
            )
        return data

    def get_unchecked(self, sha256: str) -> bytes:
        """Return the bytes that are stored under a sha256, to examine a damaged object.

        Args:
            sha256: The object's name, 64 hex digits.

        Raises:
            NotFound: The pack has no such object.
            Unreachable: The server of the pack does not answer.
        """
        if not is_sha256(sha256):
            raise NotFound(f"{sha256[:80]!r} is not a sha256 in lower-case hex")
        place = self._find(sha256)
        if place is not None:
            number, offset, length = place
            return self.folder.read_range(self.version.shards[number].tar, offset, length)
        try:
            return self.folder.read(object_path(sha256))
        except NotFound:
            return self._join_part(sha256)

    def size(self, sha256: str) -> int:
        """Return the length of a layer in bytes. Raises NotFound."""
        place = self._find(sha256)
        if place is None:
            raise NotFound(f"there is no layer {sha256} in {self.folder.address}")
        return place[2]

    def has(self, sha256: str) -> bool:
        """Return whether the pack holds a layer of that name."""
        return self._find(sha256) is not None

    def _find(self, sha256: str) -> tuple[int, int, int] | None:
        """Return shard, offset and length of a layer."""
        first = np.int64(int(sha256[:15], 16))
        start = int(np.searchsorted(self._firsts, first, "left"))
        end = int(np.searchsorted(self._firsts, first, "right"))
        wanted = bytes.fromhex(sha256)
        for row in range(start, end):
            if self._names[row].tobytes() == wanted:
                number, offset, length = (int(value) for value in self._places[row])
                return number, offset, length
        return None

    def _join_part(self, sha256: str) -> bytes:
        """Return a part of a manifest in the pack, whose lines are in the indexes."""
        own = self.version.snapshot
        for snapshot in [own, *(one for one in packed_snapshots(self.folder) if one != own)]:
            manifest = read_root(self.folder, snapshot)
            for decided, parts in (
                (False, manifest.parts),
                (True, manifest.decisions.parts if manifest.decisions else ()),
            ):
                for part in parts:
                    if part.sha256 == sha256:
                        return self._join(snapshot, part, decided=decided)
        raise NotFound(f"there is no object {sha256} in {self.folder.address}")

    def lines(self, snapshot: str, *, decided: bool = False) -> dict[str, str]:
        """Return the lines of a snapshot in the pack by id, sorted.

        Args:
            snapshot: Full id of the snapshot.
            decided: Return the lines of decided candidates instead of samples.
        """
        loaded = self._loaded
        if loaded is None or loaded[0] != snapshot:
            version = self.version
            if snapshot != version.snapshot:
                version = read_version(self.folder, snapshot)
            loaded = self._loaded = (snapshot, *live_records(self.folder, version))
        return loaded[2] if decided else loaded[1]

    def _join(self, snapshot: str, part: Part, *, decided: bool) -> bytes:
        lines = self.lines(snapshot, decided=decided)
        ids = list(lines)
        # "g" follows all hex digits.
        start, end = bisect_left(ids, part.prefix), bisect_left(ids, part.prefix + "g")
        return "".join(f"{lines[one]}\n" for one in ids[start:end]).encode()


def read_root(folder: PackFolder, snapshot: str) -> Manifest:
    """Return the manifest of a snapshot in a pack. Raises NotFound, Corrupt."""
    data = folder.read(object_path(snapshot))
    if compute_sha256(data) != snapshot:
        raise Corrupt(f"manifest {snapshot[:12]} in {folder.address} is damaged", REPAIR)
    return parse_manifest(data, snapshot)


def open_index(folder: PackFolder, shard: Shard, sizes: dict[str, int]) -> list[ShardMember]:
    """Return the members of a shard, after checking the sizes of its files and its index.

    Args:
        folder: The folder of the pack.
        shard: The shard.
        sizes: Sizes of the files in the pack.

    Raises:
        NotFound: A file is missing.
        Corrupt: A file is not what the version names.
    """
    for path in (shard.tar, shard.index_path):
        if path not in sizes:
            raise NotFound(f"{folder.address} lacks {path}", REPAIR)
    if sizes[shard.tar] != shard.size:
        raise Corrupt(f"{shard.tar} has {sizes[shard.tar]} bytes instead of {shard.size}", REPAIR)
    if sizes[shard.index_path] > MAX_INDEX_BYTES:
        raise Corrupt(f"{shard.index_path} is too large for an index", REPAIR)
    data = folder.read(shard.index_path)
    if compute_sha256(data) != shard.index:
        raise Corrupt(f"{shard.index_path} does not match its hash in the version", REPAIR)
    members = read_index(data, shard.size, shard.name)
    if len(group_by_sample(members)) != shard.samples:
        raise Corrupt(f"{shard.index_path} has another number of samples than stated", REPAIR)
    return members


def live_records(folder: PackFolder, version: PackVersion) -> tuple[dict[str, str], dict[str, str]]:
    """Return the lines of the samples of a version, and of its decided candidates, by sorted id.

    Args:
        folder: The folder of the pack.
        version: The version.
    """
    sizes = folder.sizes("shards")
    samples: dict[str, str] = {}
    decided: dict[str, str] = {}
    for shard in version.shards:
        lines = decided if shard.group == DECIDED else samples
        lines |= live_lines(shard, open_index(folder, shard, sizes))
    return dict(sorted(samples.items())), dict(sorted(decided.items()))


def live_lines(shard: Shard, members: Sequence[ShardMember]) -> dict[str, str]:
    """Return the lines of a shard that are not removed, by id."""
    records = [one for one in members if one.name == RECORD]
    removed = set(shard.removed)
    return {one.sample: one.record for number, one in enumerate(records) if number not in removed}
