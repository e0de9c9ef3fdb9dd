"""Pulling a snapshot into shards: shards that are still right stay, the rest is packed anew."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby

from curation.domain import Progress
from curation.exports.blocks import block_hashes
from curation.exports.parallel import WINDOW
from curation.exports.pull import (
    CountingReader,
    PullResult,
    is_intact,
    remove_unwanted,
)
from curation.exports.record import FileRecord, PullRecord
from curation.exports.shards import ShardFormat, ShardRow
from curation.object_store import ObjectReader, compute_sha256
from curation.ports import ProgressCallback

Images = Mapping[str, bytes]


def write_shards(
    source: ObjectReader,
    record: PullRecord,
    rows: Sequence[ShardRow],
    shard_format: ShardFormat,
    report: ProgressCallback,
    *,
    workers: int,
    shard_bytes: int,
    image_type: str,
) -> PullResult:
    """Bring the shards of a folder to the rows of a snapshot.

    Args:
        source: Store of the layers.
        record: The open record of the folder.
        rows: All rows that the shards shall have.
        shard_format: The file format.
        report: Receives the progress.
        workers: Number of threads that fetch and encode.
        shard_bytes: Size of the images from which a shard is closed.
        image_type: Ending of images.

    Raises:
        NotFound: A layer is missing in the source.
        Corrupt: A layer is damaged.
    """
    keys = {row.sample: row.key for row in rows}
    # A shard stays if all its rows are wanted; of the others, unchanged images are taken.
    kept, former = _sort_shards(record, keys)
    placed = {sample for file in kept for sample in file.rows}
    origin = {sample: file for file in former for sample in file.rows}
    missing = [row for row in rows if row.sample not in placed]
    missing.sort(key=lambda row: (row.split, _path_of(origin.get(row.sample)), row.sample))
    result = PullResult(files=0, kept=len(kept))
    reader = CountingReader(source)
    report(Progress("pulling", len(placed), len(rows)))
    done = len(placed)
    wanted = {file.path for file in kept}
    for split, group in groupby(missing, key=lambda row: row.split):
        loaded = _load_rows(list(group), origin, record, shard_format, reader, workers)
        for shard in _cut(loaded, shard_bytes):
            file = _write_shard(record, split, shard, shard_format, image_type)
            record.add(file)
            wanted.add(file.path)
            result.written += 1
            done += len(shard)
            report(Progress("pulling", done, len(rows), {"MB": reader.total_bytes / 1e6}))
    remove_unwanted(record, wanted, result)
    result.files = len(wanted)
    result.fetched_bytes = reader.total_bytes
    return result


def _sort_shards(
    record: PullRecord, keys: Mapping[str, str]
) -> tuple[list[FileRecord], list[FileRecord]]:
    """Return the shards to keep, and the intact ones to take images from."""
    kept: list[FileRecord] = []
    former: list[FileRecord] = []
    for file in record.files.values():
        if not file.rows or not is_intact(record.folder, file, quick=not record.interrupted):
            continue
        is_right = all(keys.get(sample) == key for sample, key in file.rows.items())
        # An interrupted pull may have written rows a second time; the first shard keeps them.
        taken = any(sample in other.rows for other in kept for sample in file.rows)
        (kept if is_right and not taken else former).append(file)
    return kept, former


def _load_rows(
    rows: Sequence[ShardRow],
    origin: Mapping[str, FileRecord],
    record: PullRecord,
    shard_format: ShardFormat,
    reader: ObjectReader,
    workers: int,
) -> Iterator[tuple[ShardRow, Images]]:
    """Yield rows with their images in order, from old shards or from the source."""
    with ThreadPoolExecutor(workers, "pull") as pool:
        for path, group in groupby(rows, key=lambda row: _path_of(origin.get(row.sample))):
            known = _known_images(record, path, shard_format) if path else {}
            load = _loader(known, reader)
            block = list(group)
            # Bounded, since each waiting row holds its images.
            for start in range(0, len(block), workers * WINDOW):
                ahead = block[start : start + workers * WINDOW]
                yield from zip(ahead, pool.map(load, ahead), strict=True)


def _known_images(
    record: PullRecord, path: str, shard_format: ShardFormat
) -> dict[tuple[str, str], bytes]:
    """Return the images of an old shard by sample and key."""
    file = record.files[path]
    if compute_sha256(record.folder / path) != file.sha256:
        return {}
    images = shard_format.read_images(record.folder / path)
    return {
        (sample, key): data
        for (sample, column), data in images.items()
        if (key := file.images.get(f"{sample}.{column}"))
    }


def _loader(
    known: Mapping[tuple[str, str], bytes], reader: ObjectReader
) -> Callable[[ShardRow], Images]:
    def load(row: ShardRow) -> Images:
        return {
            column: known.get((row.sample, image.key)) or image.content(reader.get)
            for column, image in row.images.items()
        }

    return load


def _cut(
    loaded: Iterator[tuple[ShardRow, Images]], shard_bytes: int
) -> Iterator[list[tuple[ShardRow, Images]]]:
    """Cut rows into shards of a size."""
    shard: list[tuple[ShardRow, Images]] = []
    size = 0
    for row, images in loaded:
        shard.append((row, images))
        size += sum(map(len, images.values()))
        if size >= shard_bytes:
            yield shard
            shard, size = [], 0
    if shard:
        yield shard


def _write_shard(
    record: PullRecord,
    split: str,
    shard: Sequence[tuple[ShardRow, Images]],
    shard_format: ShardFormat,
    image_type: str,
) -> FileRecord:
    data = record.folder / "data"
    data.mkdir(parents=True, exist_ok=True)
    new = data / f".new-{split}-{os.getpid()}"
    try:
        shard_format.write(new, iter(shard), image_type)
        digest = compute_sha256(new)
        path = f"data/{split}-{digest[:12]}.{shard_format.ending}"
        new.replace(record.folder / path)
    finally:
        new.unlink(missing_ok=True)
    status = (record.folder / path).stat()
    rows = {row.sample: row.key for row, _ in shard}
    images = {
        f"{row.sample}.{column}": image.key
        for row, _ in shard
        for column, image in row.images.items()
    }
    digests = {
        f"{row.sample}.{column}": hashlib.sha256(data).hexdigest()
        for row, found in shard
        for column, data in found.items()
    }
    key = hashlib.sha256("".join(sorted(rows.values())).encode()).hexdigest()
    return FileRecord(
        path, key, digest, status.st_size, status.st_mtime_ns, "", rows, images, digests,
        block_hashes(record.folder / path),
    )  # fmt: skip


def _path_of(file: FileRecord | None) -> str:
    return file.path if file else ""
