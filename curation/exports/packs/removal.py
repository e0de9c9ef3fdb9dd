"""Removal of rows from a pack for ever: shards that hold them are written again without them.

The pack is readable at any time, and an interrupted removal goes on when it is repeated: new shards
come first, then the version that names them, then the old version goes, and last its files.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from curation.datasets.successors import write_successor
from curation.errors import Conflict, Corrupt, NotFound, Refused
from curation.exports.packs.energon import FOLDER
from curation.exports.packs.folder import UNFINISHED, PackFolder
from curation.exports.packs.index import read_index
from curation.exports.packs.plan import KnownShard, known_shards, make_plan, wanted_rows
from curation.exports.packs.reader import PackReader, read_root
from curation.exports.packs.tar import ShardMember
from curation.exports.packs.version import (
    CURRENT,
    PackVersion,
    current_snapshot,
    is_unfinished,
    notice_path,
    object_path,
    packed_snapshots,
    read_version,
    version_path,
)
from curation.exports.packs.writer import CountingFolder, name_newest, write_objects, write_shards
from curation.object_store import ObjectReader, ObjectWriter
from curation.ports import ProgressCallback

_TOKEN = re.compile(rb"[0-9a-f]{64}|[0-9a-f]{32}")
ENDINGS = (".parquet", ".tar.idx", ".tar")
"""Endings of a shard's files; an index goes before its tar, which is complete with an index."""

EncodeNotice = Callable[[str, str | None], bytes]
"""Returns the notice about a snapshot, given its id and its successor's."""


class SnapshotStore(ObjectReader, ObjectWriter, Protocol):
    """The store of an instance: manifests of successors are written to it and read from it."""


@dataclass(frozen=True)
class RemovedContent:
    """What may not stay in a pack.

    Attributes:
        ids: Ids of samples and candidates, as hex digits.
        layers: Names of layers.
    """

    ids: frozenset[str]
    layers: frozenset[str]

    def rows(self, members: Collection[ShardMember]) -> frozenset[str]:
        """Return the ids of the rows among the members of a shard that may not stay."""
        return frozenset(
            one.sample for one in members if one.sample in self.ids or one.sha256 in self.layers
        )


@dataclass(frozen=True)
class PackRemoval:
    """What a removal did.

    Attributes:
        rows: Rows that are gone; a row of several shards counts once.
        shards: Shards that are gone.
        written_bytes: Bytes of the files that were written.
        successors: New snapshot in the pack, if any, by the one that it replaces.
    """

    rows: int
    shards: int
    written_bytes: int
    successors: Mapping[str, str | None]


def find_rows(folder: PackFolder, removed: RemovedContent) -> dict[str, frozenset[str]]:
    """Return the rows of a pack that may not stay, by the name of their shard.

    A shard that was not finished counts too, without rows, since nobody can tell what it holds.

    Args:
        folder: The folder of the pack.
        removed: What may not stay.

    Raises:
        Corrupt: The index of a shard in use cannot be read.
        Unreachable: The server of the pack does not answer.
    """
    sizes = folder.sizes("shards")
    named = set[str]().union(*map(_names, _versions(folder)))
    found = {}
    for name in sorted({_shard_of(path) for path in sizes}):
        try:
            data = folder.read(f"shards/{name}.parquet")
            rows = removed.rows(read_index(data, sizes.get(f"shards/{name}.tar", 0), name))
        except (Corrupt, NotFound) as error:
            if name in named:
                raise Corrupt(
                    f"shard {name} of {folder.address} cannot be examined: {error.message}",
                    "pack the snapshot into another place, and delete this pack",
                ) from error
            found[name] = frozenset[str]()
            continue
        if rows:
            found[name] = rows
    return found


def remove_rows(
    folder: PackFolder,
    removed: RemovedContent,
    store: SnapshotStore,
    encode_notice: EncodeNotice,
    report: ProgressCallback = lambda _: None,
    *,
    workers: int = 8,
) -> PackRemoval:
    """Remove rows from all snapshots of a pack, with the bytes of their layers; idempotent.

    Only the shards that hold such rows are written again. A snapshot that has such a row is
    replaced by the one of its other samples, and a notice in the pack says so.

    Args:
        folder: The folder of the pack.
        removed: What may not stay.
        store: The instance's store.
        encode_notice: Returns the notice about a snapshot that is replaced.
        report: Receives the progress.
        workers: Number of threads that read layers.

    Raises:
        Conflict: Somebody packs into the bucket at this time.
        Corrupt: The pack is damaged.
        Unreachable: The server of the pack does not answer.
    """
    with folder.locked(exclusive=True):
        folder.remove_incomplete()
        affected = find_rows(folder, removed)
        if not affected and not is_unfinished(folder):
            return PackRemoval(0, 0, 0, {})
        counter = CountingFolder(folder)
        counter.write(UNFINISHED, _marker())
        gone = frozenset[str]().union(*affected.values())
        successors: dict[str, str | None] = {}
        versions = _versions(folder)
        # Unused shards go first: a new shard may have the name of one that was not finished.
        unused = set(affected).difference(*(_names(version) for version in versions))
        for path in list(_files_of(folder, unused)):
            folder.remove(path)
        old = affected.keys() - unused
        for version in versions:
            if any(shard.name in affected for shard in version.shards):
                rewriting = _Rewriting(counter, version, affected, gone, store, encode_notice)
                successor = rewriting.run(report, workers)
                if successor != version.snapshot:
                    successors[version.snapshot] = successor
        _describe(folder, counter)
        for path in list(_unwanted(folder, old, removed)):
            folder.remove(path)
        if find_rows(folder, removed):
            raise Conflict(
                f"rows came back to {folder.address} while they were removed",
                "end the packers that write there, then run the same command again",
            )
        folder.remove(UNFINISHED)
        return PackRemoval(len(gone), len(affected), counter.written_bytes, successors)


@dataclass(frozen=True)
class _Rewriting:
    """The replacement of one version of a pack."""

    counter: CountingFolder
    version: PackVersion
    affected: Mapping[str, frozenset[str]]
    gone: frozenset[str]
    store: SnapshotStore
    encode_notice: EncodeNotice

    def run(self, report: ProgressCallback, workers: int) -> str | None:
        """Write the new version and remove the old one; return the id of the new one, if any."""
        folder, old = self.counter.folder, self.version.snapshot
        reader = PackReader(folder, old)
        new: str | None = old
        if self._is_touched(reader):
            manifest = write_successor(reader, self.store, old, self.gone)
            new = manifest.id if manifest else None
        is_newest = _newest(folder) == old
        if new is not None:
            self._write(new, _Joined(reader, self.store), report, workers)
        if new == old:
            return new
        self.counter.write(notice_path(old), self.encode_notice(old, new))
        if is_newest:
            others = [one for one in packed_snapshots(folder) if one != old]
            # Without a successor the largest of the others is as good as any.
            newest = new or max(
                others, key=lambda one: (read_root(folder, one).samples, one), default=None
            )
            if newest is not None:
                name_newest(newest, self.counter)
        folder.remove(version_path(old))
        return new

    def _is_touched(self, reader: PackReader) -> bool:
        """Return whether a row that goes is one of the snapshot's, not only marked as removed."""
        snapshot = self.version.snapshot
        lines = (reader.lines(snapshot), reader.lines(snapshot, decided=True))
        return any(not self.gone.isdisjoint(one) for one in lines)

    def _write(
        self, snapshot: str, source: _Joined, report: ProgressCallback, workers: int
    ) -> None:
        folder = self.counter.folder
        own = _names(self.version)
        known = [one for one in known_shards(folder) if one.shard.name not in self.affected]
        known.sort(key=lambda one: _preference(one, own))
        plan = make_plan(wanted_rows(source, snapshot), known)
        # The new shards are about as large as those that they replace.
        size = max(shard.size for shard in self.version.shards if shard.name in self.affected)
        write_objects(source, snapshot, self.counter)
        shards = write_shards(source, plan, self.counter, report, size, workers)
        version = PackVersion(snapshot, (*plan.kept, *shards))
        self.counter.write(version.path, version.bytes())


class _Joined:
    """The layers of a pack, and the manifests of the instance's store or else of the pack."""

    def __init__(self, pack: PackReader, store: ObjectReader) -> None:
        self._pack, self._store = pack, store

    def get(self, sha256: str) -> bytes:
        places: list[ObjectReader] = [self._store, self._pack]
        first, second = reversed(places) if self._pack.has(sha256) else places
        try:
            return first.get(sha256)
        except (NotFound, Corrupt, Refused):
            return second.get(sha256)


def _preference(one: KnownShard, own: Collection[str]) -> tuple[bool, str]:
    return one.shard.name not in own, one.shard.name


def _unwanted(
    folder: PackFolder, affected: Collection[str], removed: RemovedContent
) -> Iterator[str]:
    """Yield the files that may not stay, in the order of their removal."""
    yield from _files_of(folder, affected)
    staying = packed_snapshots(folder)
    needed = set()
    for one in staying:
        withheld = read_root(folder, one).withheld
        needed |= {object_path(one), *([object_path(withheld)] if withheld else [])}
    for path in folder.sizes("objects"):
        if path not in needed and _tells(folder, path, removed):
            yield path
    if not staying:
        yield from (CURRENT, *folder.sizes(FOLDER))


def _files_of(folder: PackFolder, shards: Collection[str]) -> Iterator[str]:
    """Yield the files of shards, in the order of their removal."""
    sizes = folder.sizes("shards")
    for ending in ENDINGS:
        yield from (f"shards/{one}{ending}" for one in shards if f"shards/{one}{ending}" in sizes)


def _names(version: PackVersion) -> set[str]:
    return {shard.name for shard in version.shards}


def _tells(folder: PackFolder, path: str, removed: RemovedContent) -> bool:
    """Return whether an object that no version needs is a replaced manifest, or lists a row."""
    snapshot = path.removeprefix("objects/").replace("/", "")
    with suppress(NotFound):
        folder.read(notice_path(snapshot))
        return True
    tokens = {one.decode() for one in _TOKEN.findall(folder.read(path))}
    return not tokens.isdisjoint(removed.ids | removed.layers)


def _describe(folder: PackFolder, counter: CountingFolder) -> None:
    """Name and describe the newest version again, which an interruption may have left out."""
    newest = _newest(folder)
    if newest is not None and newest in packed_snapshots(folder):
        name_newest(newest, counter)


def _newest(folder: PackFolder) -> str | None:
    try:
        return current_snapshot(folder)
    except (NotFound, Corrupt):
        return None


def _versions(folder: PackFolder) -> list[PackVersion]:
    return [read_version(folder, one) for one in packed_snapshots(folder)]


def _shard_of(path: str) -> str:
    name = path.removeprefix("shards/")
    for ending in ENDINGS:
        if name.endswith(ending):
            return name.removesuffix(ending)
    return name


def _marker() -> bytes:
    hint = "a takedown rewrites this pack; 'layerloop takedown --pack' with its address ends it"
    return (json.dumps({"unfinished": hint}) + "\n").encode()
