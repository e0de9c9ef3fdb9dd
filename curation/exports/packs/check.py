"""Verification of packs: every byte of every file follows from the manifest, or is damage.

Tars are read once from end to end. Headers and padding follow from the index, contents have hashes
in it, the index has its hash in the version, each line of which has a check of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from curation.datasets.decision_records import DecisionRecord
from curation.datasets.manifest import Part, parse_manifest
from curation.domain import Sample
from curation.errors import Corrupt, LayerloopError, NotFound
from curation.exports.damage import Damage
from curation.exports.flipped_bits import find_flip
from curation.exports.packs.check_files import (
    AGAIN,
    check_descriptions,
    check_tars,
    shard_damage,
)
from curation.exports.packs.folder import PackFolder
from curation.exports.packs.index import read_index
from curation.exports.packs.reader import PackReader, open_index
from curation.exports.packs.scan import scan_tar
from curation.exports.packs.tar import ShardMember
from curation.exports.packs.version import (
    DECIDED,
    PackVersion,
    Shard,
    parse_line,
    parse_version,
    read_version_file,
    version_path,
)
from curation.exports.verify import manifest_damage, verify_snapshot
from curation.object_store import compute_sha256
from curation.ports import ProgressCallback


def verify_pack(
    folder: PackFolder,
    snapshots: Sequence[str],
    report: ProgressCallback = lambda _: None,
    *,
    workers: int = 4,
    manifest_only: bool = False,
) -> list[Damage]:
    """Read every file of snapshots in a pack, and return all that is missing or damaged.

    Args:
        folder: The folder of the pack.
        snapshots: Full ids of the snapshots; a shard of several of them is read once.
        report: Receives the progress.
        workers: Number of threads.
        manifest_only: Leave out the tars.

    Raises:
        NotFound: The pack does not hold a snapshot.
    """
    found: list[Damage] = []
    indexes: dict[str, Sequence[ShardMember]] = {}
    shards: dict[str, Shard] = {}
    for snapshot in snapshots:
        version, damage = _check_version(folder, snapshot)
        found += damage
        if version is None:
            continue
        damaged = _check_indexes(folder, version, indexes)
        shards |= {shard.name: shard for shard in version.shards if shard.name in indexes}
        found += damaged or _check_contents(folder, version, workers)
        found += check_descriptions(folder, version)
    if not manifest_only:
        found += check_tars(folder, list(shards.values()), indexes, report, workers)
    return sorted(set(found), key=lambda one: (one.kind, one.name, one.problem))


def _check_version(folder: PackFolder, snapshot: str) -> tuple[PackVersion | None, list[Damage]]:
    path = version_path(snapshot)
    data = read_version_file(folder, snapshot)
    try:
        return parse_version(data, snapshot), []
    except Corrupt as error:
        damage = Damage("pack", path, error.message)
        for shard, ids in _damaged_shards(folder, data):
            damage = _with(damage, ids, is_decided=shard.group == DECIDED)
        return None, [damage]


def _check_indexes(
    folder: PackFolder, version: PackVersion, indexes: dict[str, Sequence[ShardMember]]
) -> list[Damage]:
    sizes = folder.sizes("shards")
    found = (_check_index(folder, shard, sizes, indexes) for shard in version.shards)
    return [damage for damage in found if damage]


def _check_contents(folder: PackFolder, version: PackVersion, workers: int) -> list[Damage]:
    """Check the manifest, and that there is a row for each of its samples."""
    reader = PackReader(folder, version.snapshot)
    try:
        root = reader.get_unchecked(version.snapshot)
    except NotFound:
        return [Damage("manifest", version.snapshot, "it is missing")]
    if compute_sha256(root) != version.snapshot:
        return [_manifest_damage(reader, root, version.snapshot)]
    found = verify_snapshot(reader, version.snapshot, workers=workers, manifest_only=True)
    if found:
        return found
    lacking: dict[str, Damage] = {}
    for id_, layers, is_decided in _rows_of(reader, version):
        for name in layers:
            if not reader.has(name):
                known = lacking.get(name, Damage("layer", name, "the pack does not hold it"))
                lacking[name] = _with(known, (id_,), is_decided=is_decided)
    return list(lacking.values())


def _manifest_damage(reader: PackReader, root: bytes, snapshot: str) -> Damage:
    flip = find_flip(root, snapshot)
    if flip is None:
        return Damage("manifest", snapshot, "its bytes do not match its hash")
    manifest = parse_manifest(flip.repaired, snapshot)
    decisions = manifest.decisions.parts if manifest.decisions else ()

    def ids_of(part: Part) -> list[str]:
        lines = reader.lines(snapshot, decided=part in decisions)
        return [one for one in lines if one.startswith(part.prefix)]

    return manifest_damage(manifest, flip, ids_of)


def _rows_of(reader: PackReader, version: PackVersion) -> Iterator[tuple[str, Iterable[str], bool]]:
    """Yield id and layers of each sample and decided candidate, and whether it is a candidate."""
    for id_, line in reader.lines(version.snapshot).items():
        yield id_, Sample.read(line).layers.values(), False
    for id_, line in reader.lines(version.snapshot, decided=True).items():
        yield id_, DecisionRecord.read(line).layers.values(), True


def _with(damage: Damage, ids: Iterable[str], *, is_decided: bool) -> Damage:
    """Return a damage that concerns more samples, or candidates."""
    if is_decided:
        return replace(damage, candidates=tuple(dict.fromkeys((*damage.candidates, *ids))))
    return replace(damage, samples=tuple(dict.fromkeys((*damage.samples, *ids))))


def _check_index(
    folder: PackFolder,
    shard: Shard,
    sizes: dict[str, int],
    indexes: dict[str, Sequence[ShardMember]],
) -> Damage | None:
    """Check the index of a shard and keep it; a damaged one is read from the tar."""
    try:
        indexes[shard.name] = open_index(folder, shard, sizes)
    except NotFound as error:
        if shard.tar not in sizes:
            return shard_damage("shard", shard.tar, shard, error.message, _ids_in(folder, shard))
        return _index_damage(folder, shard, indexes, error)
    except Corrupt as error:
        if sizes.get(shard.tar) != shard.size:
            return shard_damage("shard", shard.tar, shard, error.message, _ids_in(folder, shard))
        return _index_damage(folder, shard, indexes, error)
    return None


def _index_damage(
    folder: PackFolder,
    shard: Shard,
    indexes: dict[str, Sequence[ShardMember]],
    error: LayerloopError,
) -> Damage:
    """Name the samples whose rows differ from the tar, or all if the index cannot be read."""
    true = scan_tar(folder, shard)
    indexes[shard.name] = true
    samples = tuple(dict.fromkeys(one.sample for one in true))
    try:
        stated = read_index(folder.read(shard.index_path), shard.size, shard.name)
        differing = {one.sample for one in set(true) ^ set(stated)}
        samples = tuple(sorted(differing)) or samples
    except (Corrupt, NotFound):
        pass
    return shard_damage("index", shard.index_path, shard, f"{error.message}; {AGAIN}", samples)


def _damaged_shards(folder: PackFolder, data: bytes) -> Iterator[tuple[Shard, tuple[str, ...]]]:
    """Yield the shards whose lines in a version are damaged, with the ids of their rows."""
    sound = set()
    for line in data.split(b"\n"):
        try:
            sound.add(str(parse_line(line.decode()).get("name", "")))
        except (ValueError, UnicodeDecodeError):
            continue
    for path, size in folder.sizes("shards").items():
        name = path.removeprefix("shards/").removesuffix(".tar")
        # Of a damaged name at least one piece is left.
        pieces = (name[-64:-44], name[-40:-20], name[-20:])
        is_named = any(piece.encode() in data for piece in pieces)
        if path.endswith(".tar") and name not in sound and is_named:
            shard = Shard(name, size, 0, "")
            yield shard, _ids_in(folder, shard)


def _ids_in(folder: PackFolder, shard: Shard) -> tuple[str, ...]:
    """Return the ids of the rows of a shard, by its index or else its tar."""
    try:
        members = read_index(folder.read(shard.index_path), shard.size, shard.name)
    except (Corrupt, NotFound):
        try:
            members = scan_tar(folder, shard)
        except (Corrupt, NotFound):
            return ()
    return tuple(dict.fromkeys(one.sample for one in members))
