"""Packing a snapshot: shards are written for the rows that a pack lacks, the others are marked.

Shards are immutable and named by their content; rows are cut into shards in the order of their ids.
So a pack that was interrupted goes on where it stopped, and two packers write the same files. The
version is written last, and names only complete shards.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

from curation.datasets.manifest import read_manifest
from curation.domain import LayerRole, Progress
from curation.errors import Conflict
from curation.exports.packs.energon import write_energon
from curation.exports.packs.folder import PackFolder
from curation.exports.packs.index import write_index, write_offsets
from curation.exports.packs.plan import (
    PackPlan,
    PackRow,
    known_shards,
    make_plan,
    samples_of,
    wanted_rows,
)
from curation.exports.packs.tar import CAPTION, RECORD, ShardFile
from curation.exports.packs.version import (
    CURRENT,
    PackVersion,
    Shard,
    current_bytes,
    current_snapshot,
    object_path,
)
from curation.exports.parallel import in_parallel
from curation.object_store import ObjectReader, compute_sha256
from curation.ports import ProgressCallback

SHARD_BYTES = 256 << 20
"""Size from which a shard is closed."""
TRIES = 3
_PNG = b"\x89PNG"


@dataclass(frozen=True)
class PackResult:
    """What packing did.

    Attributes:
        snapshot: Id of the snapshot.
        samples: Number of its samples.
        shards: Number of its shards.
        written: Samples and decided candidates that were written now.
        removed: Rows in the shards that the snapshot does not have.
        written_bytes: Bytes that were written now.
    """

    snapshot: str
    samples: int
    shards: int
    written: int
    removed: int
    written_bytes: int


class CountingFolder:
    """A pack's folder that counts the bytes that are written to it."""

    def __init__(self, folder: PackFolder) -> None:
        self.folder = folder
        self.written_bytes = 0

    def write(self, path: str, source: bytes | Path) -> None:
        """Write a file."""
        self.written_bytes += len(source) if isinstance(source, bytes) else source.stat().st_size
        self.folder.write(path, source)


def pack_snapshot(
    source: ObjectReader,
    snapshot: str,
    folder: PackFolder,
    report: ProgressCallback = lambda _: None,
    *,
    shard_bytes: int = SHARD_BYTES,
    workers: int = 8,
) -> PackResult:
    """Pack a snapshot into a folder, beside the versions that are there.

    Args:
        source: Store of the snapshot.
        snapshot: Full id of the snapshot.
        folder: The folder: new, or of a pack.
        report: Receives the progress.
        shard_bytes: Size in bytes from which a shard is closed.
        workers: Number of threads that fetch layers.

    Raises:
        NotFound: The snapshot, a part or a layer is not in the store.
        Corrupt: An object is damaged.
        Conflict: Shards vanish again and again while it packs.
    """
    rows = wanted_rows(source, snapshot)
    counter = CountingFolder(folder)
    written = 0
    for _ in range(TRIES):
        with folder.locked(exclusive=False):
            plan = make_plan(rows, known_shards(folder))
            write_objects(source, snapshot, counter)
            shards = write_shards(source, plan, counter, report, shard_bytes, workers)
            written += len(plan.missing)
            version = PackVersion(snapshot, (*plan.kept, *shards))
            publish(version, counter)
            # Where the folder has no locks, a repack may have removed a shard meanwhile.
            if is_complete(folder, version):
                removed = sum(len(shard.removed) for shard in version.shards)
                return PackResult(
                    snapshot, samples_of(rows), len(version.shards), written, removed,
                    counter.written_bytes,
                )  # fmt: skip
    raise Conflict(f"shards of {folder.address} vanish while they are used", "end other repacks")


def write_shards(
    source: ObjectReader,
    plan: PackPlan,
    counter: CountingFolder,
    report: ProgressCallback,
    shard_bytes: int,
    workers: int,
) -> list[Shard]:
    """Write the missing rows of a plan as shards.

    Args:
        source: Store of the layers.
        plan: The plan.
        counter: The folder of the pack.
        report: Receives the progress.
        shard_bytes: Size in bytes from which a shard is closed.
        workers: Number of threads that fetch layers.
    """
    total = len(plan.missing)
    done = 0
    shards: list[Shard] = []
    report(Progress("packing", 0, total))
    for group, rows in groupby(plan.missing, key=lambda row: row.group):
        contents = in_parallel(
            lambda row: (row, contents_of(source, row)), list(rows), workers, ordered=True
        )
        while shard := _write_shard(counter, group, contents, shard_bytes):
            shards.append(shard)
            done += shard.samples
            report(Progress("packing", done, total, {"MB": counter.written_bytes / 1e6}))
    return shards


def contents_of(source: ObjectReader, row: PackRow) -> dict[str, bytes]:
    """Return the contents of a row's members by name: the layers as they are stored, and texts.

    Args:
        source: Store of the layers.
        row: The row.

    Raises:
        NotFound: A layer is not in the store.
        Corrupt: A layer is damaged.
    """
    contents = {}
    for role in LayerRole:
        if role in row.layers:
            data = source.get(row.layers[role])
            contents[f"{role}.{'png' if data.startswith(_PNG) else 'webp'}"] = data
    return contents | {CAPTION: row.caption.encode(), RECORD: row.line.encode()}


def write_objects(source: ObjectReader, snapshot: str, counter: CountingFolder) -> None:
    """Copy the manifest and the list of withheld samples; parts follow from the rows.

    Args:
        source: Store of the snapshot.
        snapshot: Full id of the snapshot.
        counter: The folder of the pack.
    """
    present = counter.folder.sizes("objects")
    manifest = read_manifest(source, snapshot)
    for name in [snapshot, *([manifest.withheld] if manifest.withheld else [])]:
        if object_path(name) not in present:
            counter.write(object_path(name), source.get(name))


def publish(version: PackVersion, counter: CountingFolder) -> None:
    """Write a version, name it as the newest one, and describe it for Energon.

    Args:
        version: The version, whose shards are written.
        counter: The folder of the pack.
    """
    counter.write(version.path, version.bytes())
    name_newest(version.snapshot, counter)


def name_newest(snapshot: str, counter: CountingFolder) -> None:
    """Name a version as the newest one, and describe it for Energon.

    Args:
        snapshot: Id of the version, which is written.
        counter: The folder of the pack.
    """
    counter.write(CURRENT, current_bytes(snapshot))
    # Another packer may publish at the same time: the description is that of the newest version.
    described = ""
    while described != (newest := current_snapshot(counter.folder)):
        write_energon(counter.folder, newest, counter.write)
        described = newest


def is_complete(folder: PackFolder, version: PackVersion) -> bool:
    """Return whether all shards of a version are there."""
    sizes = folder.sizes("shards")
    return all(sizes.get(shard.tar) == shard.size for shard in version.shards)


def _write_shard(
    counter: CountingFolder,
    group: str,
    contents: Iterator[tuple[PackRow, dict[str, bytes]]],
    shard_bytes: int,
) -> Shard | None:
    """Write a shard of the next rows; return None if there are none."""
    with counter.folder.scratch() as path:
        with path.open("r+b") as out:
            tar = ShardFile(out)
            for row, one in contents:
                tar.add(row.id, one)
                if tar.size >= shard_bytes:
                    break
            digest = tar.finish()
        if not tar.samples:
            return None
        shard = Shard(f"{group}-{digest}", tar.size, tar.samples, "")
        index = write_index(tar.members)
        # The index comes last: a tar without an index counts as not written.
        counter.write(shard.tar, path)
        counter.write(shard.offsets_path, write_offsets(tar.members))
        counter.write(shard.index_path, index)
    return replace(shard, index=compute_sha256(index))
