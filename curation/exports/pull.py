"""Pull of a snapshot into a folder: resumable, parallel, verified, and incremental.

Every object is checked against its hash when it is read. Files are written under a
temporary name, renamed, and recorded when they are complete. A later pull into the same folder
keeps unchanged files, moves those whose path changed, and removes those that are no longer wanted.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from curation.datasets.manifest import snapshot_objects
from curation.domain import Progress
from curation.errors import Conflict, Refused
from curation.exports.blocks import block_hashes
from curation.exports.parallel import in_parallel
from curation.exports.plan import PlannedFile
from curation.exports.record import FileRecord, PullRecord
from curation.object_store import ObjectReader, compute_sha256
from curation.ports import ProgressCallback

DESCRIPTIONS = ("README.md", "croissant.json")
"""Files about a pull, in every format."""


@dataclass
class PullResult:
    """The result of a pull.

    Attributes:
        samples: Number of samples.
        files: Number of files in the folder.
        written: Files that were written now.
        kept: Files that were there already.
        moved: Files that were renamed.
        removed: Files that the snapshot no longer has.
        fetched_bytes: Bytes of layers that were read from the source.
    """

    samples: int = 0
    files: int = 0
    written: int = 0
    kept: int = 0
    moved: int = 0
    removed: int = 0
    fetched_bytes: int = 0


@dataclass
class CountingReader:
    """A reader of objects that counts the bytes; several threads may use it."""

    reader: ObjectReader
    total_bytes: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def get(self, sha256: str) -> bytes:
        """Return an object. Raises NotFound, Corrupt."""
        data = self.reader.get(sha256)
        with self._lock:
            self.total_bytes += len(data)
        return data


def keep_manifest(source: ObjectReader, record: PullRecord, snapshot: str) -> None:
    """Copy manifest, parts and the list of withheld samples into a record.

    Args:
        source: Store of the snapshot.
        record: Record of the pull.
        snapshot: Id of the snapshot.

    Raises:
        NotFound: An object is missing.
        Corrupt: An object is damaged.
    """
    store = record.objects
    for name in [snapshot, *snapshot_objects(source, snapshot)]:
        if not store.has(name):
            store.put(source.get(name))


def check_folder(record: PullRecord, description: Mapping[str, Any]) -> None:
    """Refuse a folder whose files were pulled for another program.

    Args:
        record: Record of the folder.
        description: Snapshot and options of the pull that begins.

    Raises:
        Conflict: The format differs.
    """
    former = record.description.get("layout", description["layout"])
    if record.description and record.description.get("decisions") != description.get("decisions"):
        raise Conflict(
            f"{record.folder} holds a pull with other --decisions", "name another folder"
        )
    if former != description["layout"]:
        raise Conflict(
            f"{record.folder} holds a pull with --format {former}",
            f"name another folder for --format {description['layout']}",
        )


def write_files(
    source: ObjectReader,
    record: PullRecord,
    planned: Sequence[PlannedFile],
    report: ProgressCallback,
    workers: int,
) -> PullResult:
    """Bring the files of a folder to a plan.

    Args:
        source: Store of the layers.
        record: The open record of the folder.
        planned: All files that the folder shall have.
        report: Receives the progress.
        workers: Number of threads that fetch and encode.

    Raises:
        NotFound: A layer is missing in the source.
        Corrupt: A layer is damaged.
        Refused: Two files have one path.
    """
    wanted = {file.path: file for file in planned}
    if len(wanted) != len(planned):
        raise Refused("two files of this layout have the same path", "report this as a bug")
    # Some files are present already, perhaps under another path.
    missing = [file for file in planned if not _is_current(record, file)]
    result = PullResult(files=len(planned), kept=len(planned) - len(missing))
    missing = _move_known(record, missing, wanted, result)
    reader = CountingReader(source)

    def fetch(file: PlannedFile) -> FileRecord:
        return write_file(record.folder, file, file.content(reader.get))

    done = result.kept + result.moved
    report(Progress("pulling", done, len(planned)))
    for written in in_parallel(fetch, missing, workers):
        record.add(written)
        result.written += 1
        megabytes = {"MB": reader.total_bytes / 1e6}
        report(Progress("pulling", done + result.written, len(planned), megabytes))
    # Only after everything new is there, remove what is no longer wanted.
    remove_unwanted(record, wanted.keys(), result)
    result.fetched_bytes = reader.total_bytes
    return result


def remove_unwanted(record: PullRecord, wanted: Collection[str], result: PullResult) -> None:
    """Remove files of earlier pulls; the descriptions are written anew by every pull.

    Args:
        record: Record of the pull.
        wanted: Paths of all other files that stay.
        result: Counts what is removed.
    """
    for path in [path for path in record.files if path not in wanted]:
        if path not in DESCRIPTIONS:
            record.remove(path)
            result.removed += 1


def write_file(folder: Path, file: PlannedFile, content: bytes) -> FileRecord:
    """Write a planned file, and return its record.

    Args:
        folder: The folder of the pull.
        file: The file.
        content: Its bytes.
    """
    path = folder / file.path
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not synced: after an interruption, recorded files are hashed before they are trusted.
    new = path.with_name(f".new-{path.name}")
    new.write_bytes(content)
    new.replace(path)
    status = path.stat()
    digest = hashlib.sha256(content).hexdigest()
    # A file about several samples shows in which block it is damaged.
    blocks = "" if file.sample else block_hashes(content)
    return FileRecord(
        file.path, file.key, digest, status.st_size, status.st_mtime_ns, file.sample, blocks=blocks
    )


def is_intact(folder: Path, file: FileRecord, *, quick: bool) -> bool:
    """Return whether a recorded file still has the recorded content.

    Args:
        folder: The folder of the pull.
        file: The record of the file.
        quick: Trust size and time of modification; otherwise, or if the time differs, hash it.
    """
    try:
        status = (folder / file.path).stat()
    except OSError:
        return False
    if status.st_size != file.size:
        return False
    if quick and status.st_mtime_ns == file.modified_ns:
        return True
    return compute_sha256(folder / file.path) == file.sha256


def _is_current(record: PullRecord, file: PlannedFile) -> bool:
    known = record.files.get(file.path)
    if known is None or known.key != file.key:
        return False
    # After an interruption the last writes may not have reached the disk.
    return is_intact(record.folder, known, quick=not record.interrupted)


def _move_known(
    record: PullRecord,
    missing: Sequence[PlannedFile],
    wanted: Mapping[str, PlannedFile],
    result: PullResult,
) -> list[PlannedFile]:
    """Rename files whose content is wanted under another path; return what is still missing."""
    free = {file.key: file for path, file in record.files.items() if path not in wanted}
    rest = []
    for file in missing:
        known = free.pop(file.key, None)
        if known is None or not is_intact(record.folder, known, quick=False):
            rest.append(file)
            continue
        target = record.folder / file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        (record.folder / known.path).replace(target)
        record.remove(known.path)
        moved = FileRecord(
            file.path, file.key, known.sha256, known.size, target.stat().st_mtime_ns, file.sample
        )
        record.add(moved)
        result.moved += 1
    return rest
