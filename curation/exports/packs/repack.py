"""Repacking: shards with many removed rows are written anew, unused files are removed."""

from __future__ import annotations

from dataclasses import dataclass

from curation.exports.packs.folder import PackFolder
from curation.exports.packs.plan import (
    PackPlan,
    known_shards,
    make_plan,
    referenced_shards,
    wanted_rows,
)
from curation.exports.packs.reader import PackReader, read_root
from curation.exports.packs.version import (
    PackVersion,
    current_snapshot,
    object_path,
    packed_snapshots,
    version_path,
)
from curation.exports.packs.writer import SHARD_BYTES, CountingFolder, publish, write_shards
from curation.ports import ProgressCallback

SMALL_SHARE = 4
"""A shard below this fraction of the shard size is small; several small ones are joined."""


@dataclass(frozen=True)
class RepackResult:
    """What repacking does.

    Attributes:
        snapshot: Id of the snapshot that stays.
        rewritten: Samples and decided candidates that are written anew.
        written_bytes: Bytes of the new files.
        removed_versions: Ids of the older snapshots that the pack no longer holds.
        removed_files: Files that are removed.
        removed_bytes: Bytes of the files that are removed.
    """

    snapshot: str
    rewritten: int
    written_bytes: int
    removed_versions: tuple[str, ...]
    removed_files: int
    removed_bytes: int


def repack(
    folder: PackFolder,
    report: ProgressCallback = lambda _: None,
    *,
    min_removed: float = 0.2,
    keep_versions: bool = False,
    shard_bytes: int = SHARD_BYTES,
    workers: int = 8,
    dry_run: bool = False,
) -> RepackResult:
    """Rewrite the shards of the newest version that have many removed rows or are small.

    Args:
        folder: The folder of the pack.
        report: Receives the progress.
        min_removed: Share of removed samples from which a shard is rewritten, above 0 to 1.
        keep_versions: Keep older versions with their shards, so that their rows stay.
        shard_bytes: Size in bytes from which a shard is closed.
        workers: Number of threads.
        dry_run: Return what would be done, without doing it.

    Raises:
        NotFound: There is no pack.
        Corrupt: The pack is damaged.
    """
    with folder.locked(exclusive=not dry_run):
        snapshot = current_snapshot(folder)
        reader = PackReader(folder, snapshot)
        plan = _plan(folder, reader, min_removed, shard_bytes)
        others = [one for one in packed_snapshots(folder) if one != snapshot]
        dropped = () if keep_versions else tuple(others)
        counter = CountingFolder(folder)
        if dry_run:
            written = _live_bytes(reader, plan)
            kept = {shard.name for shard in plan.kept}
        else:
            shards = write_shards(reader, plan, counter, report, shard_bytes, workers)
            version = PackVersion(snapshot, (*plan.kept, *shards))
            publish(version, counter)
            written = counter.written_bytes
            kept = {shard.name for shard in version.shards}
        unwanted = _unwanted(folder, snapshot, dropped, kept)
        if not dry_run:
            for path in unwanted:
                folder.remove(path)
        return RepackResult(
            snapshot, len(plan.missing), written, dropped, len(unwanted), sum(unwanted.values())
        )


def _plan(folder: PackFolder, reader: PackReader, min_removed: float, shard_bytes: int) -> PackPlan:
    version = reader.version
    rewritten = {
        shard.name
        for shard in version.shards
        if shard.removed and len(shard.removed) >= min_removed * shard.samples
    }
    for group in {shard.group for shard in version.shards}:
        small = [
            shard.name
            for shard in version.shards
            if shard.group == group
            and (shard.size * SMALL_SHARE < shard_bytes or shard.name in rewritten)
        ]
        rewritten |= set(small) if len(small) > 1 else set()
    # Shards that only older versions name would bring removed rows back.
    own = {shard.name for shard in version.shards}
    foreign = referenced_shards(folder) - own
    known = [one for one in known_shards(folder) if one.shard.name not in foreign]
    return make_plan(wanted_rows(reader, version.snapshot), known, rewritten)


def _live_bytes(reader: PackReader, plan: PackPlan) -> int:
    """Return the bytes of the layers of missing rows."""
    return sum(reader.size(name) for row in plan.missing for name in row.layers.values())


def _unwanted(
    folder: PackFolder, snapshot: str, dropped: tuple[str, ...], kept: set[str]
) -> dict[str, int]:
    """Return the sizes of the files that no remaining version needs, in the order of removal."""
    staying = [one for one in packed_snapshots(folder) if one not in (snapshot, *dropped)]
    needed = kept | referenced_shards(folder, staying)
    objects = set()
    for one in (snapshot, *staying):
        withheld = read_root(folder, one).withheld
        objects |= {object_path(one), *([object_path(withheld)] if withheld else [])}
    versions = folder.sizes("versions")
    found = {version_path(one): versions[version_path(one)] for one in dropped}
    # An index goes before its tar, so that a tar with an index is complete at any time.
    for ending in (".parquet", ".tar.idx", ".tar"):
        for path, size in folder.sizes("shards").items():
            name = path.removeprefix("shards/").removesuffix(ending)
            if path.endswith(ending) and name not in needed:
                found.setdefault(path, size)
    listed = folder.sizes("objects").items()
    return found | {path: size for path, size in listed if path not in objects}
