"""Verification of a pulled folder, offline: its files, its record, and the manifest in it."""

from __future__ import annotations

import hashlib
import io
import re
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from curation.domain import Progress
from curation.errors import Corrupt, NotFound
from curation.exports.damage import Damage
from curation.exports.flipped_bits import Flip, find_flip, find_flip_in_blocks, line_trials
from curation.exports.parallel import in_parallel
from curation.exports.record import STATE, FileRecord, parse_record, read_description
from curation.exports.shards import KEYS
from curation.exports.verify import verify_snapshot
from curation.object_store import FolderStore, compute_sha256
from curation.ports import ProgressCallback

LONG = 24_000
"""Length of a text in bytes from which all its bits are not tried."""
_RECORDED = re.compile(
    rb'"([0-9a-f]{32})":"[0-9a-f]{32}"|"sample":"([0-9a-f]{32})"|[/"]([0-9a-f]{32})[./]'
)
"""Ids in a line of the record; the values of rows are no ids."""
_ID = re.compile(rb"(?<![0-9a-f])[0-9a-f]{32}(?![0-9a-f])")


def verify_folder(
    folder: Path, report: ProgressCallback = lambda _: None, *, workers: int = 4
) -> list[Damage]:
    """Compare every file of a finished pull with its recorded hash.

    Args:
        folder: The folder of the pull.
        report: Receives the progress.
        workers: Number of threads.

    Raises:
        NotFound: The folder holds no finished pull.
    """
    state = folder / STATE
    try:
        description = read_description(folder)
    except Corrupt as error:
        return [Damage("file", f"{STATE}/pull.json", error.message)]
    if not description or not (state / "files.jsonl").is_file():
        raise NotFound(f"{folder} holds no finished pull", "run 'layerloop snapshot pull' again")
    listed = (state / "files.jsonl").read_bytes()
    if hashlib.sha256(listed).hexdigest() != description["files"]:
        return [_check_record(listed, description["files"])]
    records = [parse_record(line) for line in listed.decode().split("\n") if line]

    def check(record: FileRecord) -> Damage | None:
        return _check_file(folder, record)

    found = []
    report(Progress("verifying", 0, len(records)))
    for done, damage in enumerate(in_parallel(check, records, workers), 1):
        found += [damage] if damage else []
        report(Progress("verifying", done, len(records)))
    if description.get("decisions"):
        found = [replace(damage, samples=(), candidates=damage.samples) for damage in found]
    found += _check_manifest(folder, description["snapshot"], report, workers)
    return sorted(found, key=lambda damage: damage.name)


def _check_manifest(
    folder: Path, snapshot: str, report: ProgressCallback, workers: int
) -> list[Damage]:
    """Check the manifest and its parts that a pull keeps."""
    objects = folder / STATE / "objects"
    if not objects.is_dir():
        return [Damage("manifest", snapshot, "it is missing")]
    store = FolderStore(objects)
    return verify_snapshot(store, snapshot, report, workers=workers, manifest_only=True)


def _check_record(listed: bytes, sha256: str) -> Damage:
    """Name the samples of the damaged lines of a record, each of which has a check of its own."""
    samples: dict[str, None] = {}
    for line in listed.split(b"\n"):
        if line and not _is_sound(line):
            samples |= dict.fromkeys(_recorded_ids(line))
    # A damaged id is read from the line as it was.
    if len(listed) <= LONG and (flip := find_flip(listed, sha256, line_trials(listed, _is_sound))):
        samples = dict.fromkeys(id_ for line in flip.lines() for id_ in _recorded_ids(line))
    return Damage("file", f"{STATE}/files.jsonl", "the record of the files differs", tuple(samples))


def _recorded_ids(line: bytes) -> list[str]:
    return [
        (match.group(1) or match.group(2) or match.group(3)).decode()
        for match in _RECORDED.finditer(line)
    ]


def _is_sound(line: bytes) -> bool:
    try:
        parse_record(line.decode())
    except (ValueError, KeyError, TypeError):
        return False
    return True


def _check_file(folder: Path, record: FileRecord) -> Damage | None:
    path = folder / record.path
    samples = (record.sample,) if record.sample else ()
    if not path.is_file():
        return Damage("file", record.path, "it is missing", samples or tuple(record.rows))
    if path.stat().st_size == record.size and compute_sha256(path) == record.sha256:
        return None
    problem = "it differs from what was pulled"
    return Damage("file", record.path, problem, samples or _inside(path.read_bytes(), record))


def _inside(data: bytes, record: FileRecord) -> tuple[str, ...]:
    """Return the samples that damage of a table or shard concerns; all of a shard at worst."""
    flip = find_flip_in_blocks(data, record.sha256, record.blocks)
    if flip is None and not record.blocks and len(data) <= LONG:
        flip = find_flip(data, record.sha256)
    if flip is None:
        return tuple(record.rows)
    if not record.rows:
        return _ids_near(flip)
    found = _in_tar(flip) if record.path.endswith(".tar") else _in_parquet(data, flip)
    return found or tuple(record.rows)


def _ids_near(flip: Flip) -> tuple[str, ...]:
    """Return the ids in the line of a flipped bit, or the nearest one of a long line."""
    found = dict.fromkeys(id_.decode() for line in flip.lines() for id_ in _ID.findall(line))
    if len(found) <= 2:
        return tuple(found)
    return (
        min(_ID.finditer(flip.repaired), key=lambda id_: _distance(id_, flip)).group().decode(),
    )


def _distance(found: re.Match[bytes], flip: Flip) -> int:
    return max(found.start() - flip.place, flip.place - found.end(), 0)


def _in_tar(flip: Flip) -> tuple[str, ...]:
    """Return the sample in whose members, headers or padding a bit is flipped."""
    last = ""
    with tarfile.open(fileobj=io.BytesIO(flip.repaired)) as tar:
        for member in tar:
            if last and member.offset > flip.place:
                break
            last = member.name.partition(".")[0]
    return (last,) if last else ()


def _in_parquet(data: bytes, flip: Flip) -> tuple[str, ...]:
    """Return the samples whose rows cannot be read or differ: all of a group of rows at worst."""
    from pyarrow import parquet

    whole = parquet.ParquetFile(io.BytesIO(flip.repaired))
    for number in range(whole.num_row_groups):
        group = whole.metadata.row_group(number)
        chunks = [group.column(column) for column in range(group.num_columns)]
        starts = [chunk.dictionary_page_offset or chunk.data_page_offset for chunk in chunks]
        ends = [
            start + chunk.total_compressed_size for start, chunk in zip(starts, chunks, strict=True)
        ]
        if min(starts) <= flip.place < max(ends):
            rows = whole.read_row_group(number).to_pylist()
            differing = _differing_rows(data, number, rows)
            return tuple(_id_of(row) for row in (differing or rows))
    return ()


def _id_of(row: dict[str, Any]) -> str:
    return next((str(row[name]) for name in KEYS if row.get(name)), "")


def _differing_rows(data: bytes, number: int, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows of a group that a damaged file states otherwise; none if it is unreadable."""
    from pyarrow import parquet

    try:
        stated = parquet.ParquetFile(io.BytesIO(data)).read_row_group(number).to_pylist()
    except Exception:  # a damaged file may fail in any way
        return []
    return [row for row, other in zip(rows, stated, strict=False) if row != other]
