"""The plan of a pack: which rows a snapshot needs, which shards hold them, and what is missing."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from curation.datasets.decision_records import DecisionRecord, read_decisions_part
from curation.datasets.manifest import read_manifest, read_part, read_withheld_list
from curation.domain import LayerRole, Sample
from curation.errors import Corrupt, NotFound
from curation.exports.packs.folder import PackFolder
from curation.exports.packs.index import group_by_sample, read_index
from curation.exports.packs.tar import RECORD, ShardMember
from curation.exports.packs.version import (
    DECIDED,
    GROUPS,
    WITHHELD,
    Shard,
    current_snapshot,
    packed_snapshots,
    read_version,
)
from curation.exports.plan import SPLIT_FOLDERS
from curation.object_store import ObjectReader, is_sha256


@dataclass(frozen=True)
class PackRow:
    """A sample or a decided candidate as a pack shall hold it.

    Attributes:
        group: The group of shards that it belongs to.
        id: Id of the sample or candidate.
        line: Its line in the manifest.
        caption: Its caption.
        layers: The layers to store.
    """

    group: str
    id: str
    line: str
    caption: str
    layers: Mapping[LayerRole, str]

    @property
    def key(self) -> tuple[str, str, str]:
        """Group, id and hash of the line: rows with equal keys are equal."""
        return self.group, self.id, hashlib.sha256(self.line.encode()).hexdigest()


@dataclass(frozen=True)
class KnownShard:
    """A complete shard in the folder, perhaps of a pack that was interrupted."""

    shard: Shard
    members: Sequence[ShardMember]

    @property
    def keys(self) -> list[tuple[str, str, str]]:
        """The keys of its rows, in the order of the tar."""
        group = self.shard.group
        return [(group, one.sample, one.sha256) for one in self.members if one.name == RECORD]


@dataclass(frozen=True)
class PackPlan:
    """What packing a snapshot takes.

    Attributes:
        kept: The shards that are there, with their rows that the snapshot lacks marked.
        missing: The rows to write, by group and id.
    """

    kept: tuple[Shard, ...]
    missing: tuple[PackRow, ...]


def wanted_rows(source: ObjectReader, snapshot: str) -> list[PackRow]:
    """Return the rows of a snapshot, by group and id.

    Args:
        source: Store of the snapshot.
        snapshot: Full id of the snapshot.

    Raises:
        NotFound: The snapshot or a part is not in the store.
        Corrupt: A part cannot be read.
    """
    manifest = read_manifest(source, snapshot)
    withheld = read_withheld_list(source, manifest)
    rows = [
        _sample_row(one, withheld) for part in manifest.parts for one in read_part(source, part)
    ]
    for part in manifest.decisions.parts if manifest.decisions else ():
        rows += map(_decision_row, read_decisions_part(source, part))
    return sorted(rows, key=lambda row: (row.group, row.id))


def _sample_row(sample: Sample, withheld: Collection[str]) -> PackRow:
    group = WITHHELD if sample.id in withheld else SPLIT_FOLDERS[sample.split]
    return PackRow(group, sample.id, sample.line(), sample.caption_for(), sample.layers)


def _decision_row(record: DecisionRecord) -> PackRow:
    # The layers of a sample are in its own row.
    layers = {} if record.sample else record.layers
    return PackRow(DECIDED, record.candidate, record.line(), record.caption_for(), layers)


def samples_of(rows: Sequence[PackRow]) -> int:
    """Return the number of samples among rows."""
    return sum(row.group != DECIDED for row in rows)


def make_plan(
    rows: Sequence[PackRow], known: Sequence[KnownShard], rewritten: Collection[str] = ()
) -> PackPlan:
    """Plan a pack.

    Args:
        rows: The rows that it shall hold.
        known: The complete shards in the folder, the preferred ones first.
        rewritten: Names of shards whose rows shall be written again.
    """
    open_rows = {row.key: row for row in rows}
    kept = []
    for one in known:
        if one.shard.name in rewritten:
            continue
        # A row that an earlier shard holds already counts as removed in a later one.
        removed = tuple(
            number for number, key in enumerate(one.keys) if open_rows.pop(key, None) is None
        )
        if len(removed) < one.shard.samples:
            kept.append(replace(one.shard, removed=removed))
    return PackPlan(tuple(kept), tuple(open_rows.values()))


def known_shards(folder: PackFolder) -> list[KnownShard]:
    """Return the complete shards of a pack, those of the newest version first.

    An index is written after its tar, so that a tar with an index is complete. What cannot be read
    is left out, and written again.

    Args:
        folder: The folder of the pack.
    """
    sizes = folder.sizes("shards")
    names = [
        path.removeprefix("shards/").removesuffix(".parquet")
        for path in sizes
        if path.endswith(".parquet")
    ]
    preferred = {name: place for place, name in enumerate(_current_names(folder))}
    names.sort(key=lambda name: (preferred.get(name, len(preferred)), name))
    found = []
    for name in names:
        group, _, digest = name.partition("-")
        size = sizes.get(f"shards/{name}.tar")
        if group in GROUPS and is_sha256(digest) and size is not None:
            found += _read_known(folder, name, size)
    return found


def _read_known(folder: PackFolder, name: str, size: int) -> list[KnownShard]:
    try:
        data = folder.read(f"shards/{name}.parquet")
        members = read_index(data, size, name)
    except (Corrupt, NotFound):
        return []
    samples = len(group_by_sample(members))
    index = hashlib.sha256(data).hexdigest()
    return [KnownShard(Shard(name, size, samples, index), members)]


def _current_names(folder: PackFolder) -> list[str]:
    try:
        return [shard.name for shard in read_version(folder, current_snapshot(folder)).shards]
    except (NotFound, Corrupt):
        return []


def referenced_shards(folder: PackFolder, snapshots: Collection[str] | None = None) -> set[str]:
    """Return the names of the shards that versions of a pack name.

    Args:
        folder: The folder of the pack.
        snapshots: The versions; by default all.

    Raises:
        Corrupt: A version is damaged.
    """
    chosen = packed_snapshots(folder) if snapshots is None else snapshots
    return {shard.name for one in chosen for shard in read_version(folder, one).shards}
