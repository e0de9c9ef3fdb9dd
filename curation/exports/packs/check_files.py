"""Verification of a pack's tars, and of the files that are derived from its version."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence

from curation.domain import Progress
from curation.errors import Corrupt, NotFound
from curation.exports.damage import Damage
from curation.exports.packs.energon import energon_files
from curation.exports.packs.folder import PackFolder
from curation.exports.packs.index import write_offsets
from curation.exports.packs.reader import open_index
from curation.exports.packs.scan import SequentialFile
from curation.exports.packs.tar import BLOCK, END, ShardMember, header, padded
from curation.exports.packs.version import (
    CURRENT,
    DECIDED,
    PackVersion,
    Shard,
    current_snapshot,
    is_unfinished,
)
from curation.exports.parallel import in_parallel
from curation.exports.verify import undecodable
from curation.object_store import compute_sha256
from curation.ports import ProgressCallback

AGAIN = "'layerloop snapshot pack' writes it again"


def shard_damage(kind: str, path: str, shard: Shard, problem: str, ids: Iterable[str]) -> Damage:
    """Return a damage that concerns rows of a shard, which are samples or decided candidates.

    Args:
        kind: Kind of the damage.
        path: Path of the file.
        shard: The shard.
        problem: What is wrong.
        ids: Ids of the rows.
    """
    if shard.group == DECIDED:
        return Damage(kind, path, problem, candidates=tuple(ids))
    return Damage(kind, path, problem, tuple(ids))


def check_tars(
    folder: PackFolder,
    shards: Sequence[Shard],
    indexes: Mapping[str, Sequence[ShardMember]],
    report: ProgressCallback,
    workers: int,
) -> Iterator[Damage]:
    """Compare every byte of tars with their indexes and names.

    Args:
        folder: The folder of the pack.
        shards: The shards.
        indexes: Their members by name.
        report: Receives the progress.
        workers: Number of threads.
    """

    def check(shard: Shard) -> list[Damage]:
        return list(_check_tar(folder, shard, indexes[shard.name]))

    report(Progress("verifying shards", 0, len(shards)))
    for done, found in enumerate(in_parallel(check, shards, workers), 1):
        yield from found
        report(Progress("verifying shards", done, len(shards)))


def _check_tar(
    folder: PackFolder, shard: Shard, members: Sequence[ShardMember]
) -> Iterator[Damage]:
    """Compare each byte of a tar with what its index and its name state."""
    file = SequentialFile(folder, shard.tar, shard.size)
    whole = hashlib.sha256()
    is_explained = False
    for one in members:
        data = file.read(BLOCK + padded(one.length))
        whole.update(data)
        problem = _member_problem(one, data)
        if problem:
            is_explained = True
            named = f"{one.sample}.{one.name}: {problem}"
            yield shard_damage("shard", shard.tar, shard, named, (one.sample,))
    end = file.read(len(END))
    whole.update(end)
    # What follows the last sample concerns none; the last one is its neighbor.
    last = (members[-1].sample,) if members else ()
    if end != END:
        problem = "the end of the tar after the last sample differs"
        yield shard_damage("shard", shard.tar, shard, problem, last)
    elif whole.hexdigest() != shard.sha256 and not is_explained:
        samples = tuple(dict.fromkeys(one.sample for one in members))
        problem = "its name is not the hash of its bytes"
        yield shard_damage("shard", shard.tar, shard, problem, samples)


def _member_problem(one: ShardMember, data: bytes) -> str:
    """Return what is wrong with a member and its header, or nothing."""
    content, rest = data[BLOCK : BLOCK + one.length], data[BLOCK + one.length :]
    if data[:BLOCK] != header(one.sample, one.name, one.length):
        return "its header in the tar differs from the index"
    if compute_sha256(content) != one.sha256:
        return "its bytes do not match its hash"
    if rest.strip(b"\0"):
        return "the padding after it differs"
    if one.record and content != one.record.encode():
        return "its line differs from the index"
    damage = undecodable(one.sha256, content, (one.sample,)) if one.is_layer else None
    return damage.problem if damage else ""


def check_descriptions(folder: PackFolder, version: PackVersion) -> Iterator[Damage]:
    """Check what is derived for other programs, and the name of the newest version."""
    for shard in version.shards:
        try:
            members = open_index(folder, shard, folder.sizes("shards"))
            stated = folder.read(shard.offsets_path)
        except (Corrupt, NotFound) as error:
            if shard.offsets_path in getattr(error, "message", ""):
                yield Damage("energon", shard.offsets_path, f"it is missing; {AGAIN}")
            continue
        true = write_offsets(members)
        if stated != true:
            problem = f"its offsets differ from the index; {AGAIN}"
            wrong = _at_offsets(members, stated, true)
            yield shard_damage("energon", shard.offsets_path, shard, problem, wrong)
    if is_unfinished(folder):
        return  # `pack.json` and the description are those of the state before, or of the one after
    try:
        is_newest = current_snapshot(folder) == version.snapshot
    except (Corrupt, NotFound) as error:
        yield Damage("pack", CURRENT, f"{error.message}; {AGAIN}")
        return
    if is_newest:
        yield from _check_energon(folder, version)


def _check_energon(folder: PackFolder, version: PackVersion) -> Iterator[Damage]:
    try:
        expected = energon_files(folder, version)
    except (Corrupt, NotFound):
        return  # an index is damaged, which is reported already
    for path, data in expected.items():
        try:
            if folder.read(path) != data:
                yield Damage("energon", path, f"it differs from the version; {AGAIN}")
        except NotFound:
            yield Damage("energon", path, f"it is missing; {AGAIN}")


def _at_offsets(members: Sequence[ShardMember], stated: bytes, true: bytes) -> tuple[str, ...]:
    """Return the samples at which offsets differ."""
    ids = list(dict.fromkeys(one.sample for one in members))
    wrong = [
        number for number in range(len(ids) + 1)
        if stated[8 * number : 8 * number + 8] != true[8 * number : 8 * number + 8]
    ]  # fmt: skip
    # The last offset is the end of the last sample.
    return tuple(dict.fromkeys(ids[min(number, len(ids) - 1)] for number in wrong))
