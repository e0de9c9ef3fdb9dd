"""The record of a pull beside its files: each written file with its content key and hash.

`.layerloop/pull.json` names the snapshot, the options, and the hash of `.layerloop/files.jsonl`,
which has a line per file. While a pull runs, finished files are appended to
`.layerloop/journal.jsonl`, so that an interrupted pull resumes. Manifests of snapshots are kept in
`.layerloop/objects`.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from curation.domain import canonical_json
from curation.errors import Corrupt, Refused
from curation.object_store import FolderStore, write_file_atomically

FORMAT = "layerloop pull 1"
STATE = ".layerloop"


@dataclass(frozen=True)
class FileRecord:
    """A file that was written.

    Attributes:
        path: Path inside the folder, with slashes.
        key: Key of its content, computed without fetching it (PlannedFile.key).
        sha256: Hash of its bytes.
        size: Its size in bytes.
        modified_ns: Its time of modification, so that an unchanged file is recognized.
        sample: Id of its sample; "" for a file about all samples and for shards.
        rows: Of a shard, the keys of its rows by sample.
        images: Of a shard, the keys of its images by "sample.column".
        digests: Of a shard, the hashes of its images by "sample.column".
        blocks: Of a file about several samples, short hashes of its blocks.
    """

    path: str
    key: str
    sha256: str
    size: int
    modified_ns: int
    sample: str = ""
    rows: Mapping[str, str] = field(default_factory=dict)
    images: Mapping[str, str] = field(default_factory=dict)
    digests: Mapping[str, str] = field(default_factory=dict)
    blocks: str = ""

    def line(self) -> str:
        """Return the record as a line of canonical JSON without empty fields, with its check."""
        row = {name: value for name, value in asdict(self).items() if value not in ("", {})}
        return canonical_json(row | {"check": _check_of(row)}) + "\n"


class PullRecord:
    """The record in a folder; several threads may add files to it."""

    def __init__(self, folder: Path) -> None:
        """Open the record of a folder, which may be new or hold an interrupted pull.

        Args:
            folder: The folder of the pull.

        Raises:
            Refused: The folder has files and no record of a pull.
            Corrupt: The record cannot be read.
        """
        self.folder = folder
        self.state = folder / STATE
        has_files = folder.is_dir() and any(folder.iterdir())
        if has_files and not self.state.is_dir():
            raise Refused(f"{folder} is not empty and was not pulled", "name an empty folder")
        self.description = read_description(folder)
        self.files = {
            file.path: file for file in _read_lines(self.state / "files.jsonl", strict=True)
        }
        journal = list(_read_lines(self.state / "journal.jsonl", strict=False))
        self.interrupted = bool(journal)
        self.files |= {file.path: file for file in journal}
        self._lock = threading.Lock()

    def open(self) -> None:
        """Create the folder; from now on, added files are journaled."""
        self.state.mkdir(parents=True, exist_ok=True)
        self._journal = (self.state / "journal.jsonl").open("a", encoding="utf-8")

    @property
    def objects(self) -> FolderStore:
        """The store of manifests inside the folder."""
        return FolderStore(self.state / "objects")

    def add(self, file: FileRecord) -> None:
        """Record a file that was written."""
        with self._lock:
            self.files[file.path] = file
            self._journal.write(file.line())
            self._journal.flush()

    def remove(self, path: str) -> None:
        """Remove a file of an earlier pull, and folders that it leaves empty."""
        with self._lock:
            self.files.pop(path, None)
        file = self.folder / path
        file.unlink(missing_ok=True)
        for parent in file.parents:
            if parent == self.folder or not parent.is_dir() or any(parent.iterdir()):
                break
            parent.rmdir()

    def close(self, description: Mapping[str, Any]) -> None:
        """Finish a pull: write the sorted record, then the description that names its hash.

        Args:
            description: Snapshot and options.
        """
        lines = "".join(self.files[path].line() for path in sorted(self.files)).encode()
        write_file_atomically(self.state / "files.jsonl", lines)
        body = {"format": FORMAT, "files": hashlib.sha256(lines).hexdigest()} | dict(description)
        body["check"] = hashlib.sha256(canonical_json(body).encode()).hexdigest()
        write_file_atomically(self.state / "pull.json", (canonical_json(body) + "\n").encode())
        self.stop()
        (self.state / "journal.jsonl").unlink()

    def forget_manifests(self, keep: Collection[str]) -> None:
        """Remove manifests of earlier pulls, which may list samples that were taken down since.

        Args:
            keep: Names of the objects of the present snapshot.
        """
        for shard in self.objects.folder.glob("??"):
            for file in shard.iterdir():
                if shard.name + file.name not in keep:
                    file.unlink()

    def stop(self) -> None:
        """Close the journal, which is kept for the next run."""
        self._journal.close()


def read_description(folder: Path) -> dict[str, Any]:
    """Return snapshot and options of the last finished pull into a folder; empty without one.

    Args:
        folder: The folder of the pull.

    Raises:
        Corrupt: The description does not match its own check.
    """
    file = folder / STATE / "pull.json"
    if not file.is_file():
        return {}
    try:
        body: dict[str, Any] = json.loads(file.read_bytes())
        check = body.pop("check")
        is_sound = hashlib.sha256(canonical_json(body).encode()).hexdigest() == check
    except (ValueError, KeyError, AttributeError, TypeError):
        is_sound = False
    if not is_sound:
        raise Corrupt(f"{file} is damaged", "pull the snapshot into an empty folder")
    return body


def parse_record(line: str) -> FileRecord:
    """Parse a line of FileRecord.line. Raises ValueError, TypeError or KeyError."""
    row = json.loads(line)
    # Records of older versions have no check.
    if "check" in row and row.pop("check") != _check_of(row):
        raise ValueError(f"the check of a line does not match: {line[:100]}")
    if not isinstance(row["path"], str) or Path(row["path"]).is_absolute():
        raise ValueError(line)
    if ".." in Path(row["path"]).parts:
        raise ValueError(line)
    return FileRecord(**row)


def _check_of(row: Mapping[str, Any]) -> str:
    """Return the first 8 digits of the hash of a record, so that a damaged line is known."""
    return hashlib.sha256(canonical_json(row).encode()).hexdigest()[:8]


def _read_lines(file: Path, *, strict: bool) -> Iterable[FileRecord]:
    if not file.is_file():
        return
    for line in file.read_text("utf-8", errors="replace").split("\n"):
        try:
            if line:
                yield parse_record(line)
        except (ValueError, KeyError, TypeError) as error:
            # The last line of a journal may have been cut off by an interruption.
            if strict:
                hint = "pull the snapshot into an empty folder"
                raise Corrupt(f"{file} is damaged: {error}", hint) from error
            return
