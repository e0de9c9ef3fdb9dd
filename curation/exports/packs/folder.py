"""The port of a pack's folder, on a disk or in a bucket, and the folder on a disk."""

from __future__ import annotations

import fcntl
import os
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Protocol

from curation.errors import NotFound, Refused
from curation.object_store import NOTICES, fsync_path, write_file_atomically

NEW = ".new-"
"""Prefix of a small file that is being written (`write_file_atomically`)."""
SCRATCH = ".shard-"
"""Prefix of a shard that is being written; those that nobody has locked are abandoned."""
LOCK = ".lock"
UNFINISHED = "takedown-unfinished.json"
"""A file that is there while a takedown rewrites the pack."""


class PackFolder(Protocol):
    """Files by their path inside a folder; several threads may use it."""

    address: str

    def sizes(self, under: str) -> dict[str, int]:
        """Return the size of each file in bytes, by path, in one subfolder and below it."""

    def read(self, path: str) -> bytes:
        """Return a file. Raises NotFound, Unreachable."""

    def read_range(self, path: str, start: int, length: int) -> bytes:
        """Return a part of a file, which is shorter at its end. Raises NotFound, Unreachable."""

    def write(self, path: str, source: bytes | Path) -> None:
        """Write a file as a whole or not at all; a given file may be moved."""

    def remove(self, path: str) -> None:
        """Remove a file, if it is there."""

    def remove_incomplete(self) -> None:
        """Remove what killed packers left, while nobody else writes, as far as the folder can."""

    def scratch(self) -> AbstractContextManager[Path]:
        """Return the path of a new file for `write`, which is removed at the end."""

    def locked(self, *, exclusive: bool) -> AbstractContextManager[None]:
        """Keep repacks away from packers, as far as the folder can."""


class LocalPackFolder:
    """A pack's folder on a disk; `write` is durable when it returns.

    Args:
        folder: The folder, which need not exist.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.address = str(folder)

    def sizes(self, under: str) -> dict[str, int]:
        """Return the size of each file in bytes, by path, in one subfolder and below it."""
        found = {}
        for place, _, names in os.walk(self.folder / under):
            for name in names:
                file = Path(place) / name
                # Others may write, move and remove files at the same time.
                with suppress(FileNotFoundError):
                    if not name.startswith((NEW, SCRATCH)) and file.is_file():
                        found[file.relative_to(self.folder).as_posix()] = file.stat().st_size
        return found

    def read(self, path: str) -> bytes:
        """Return a file. Raises NotFound."""
        with self._translated(path):
            return (self.folder / path).read_bytes()

    def read_range(self, path: str, start: int, length: int) -> bytes:
        """Return a part of a file, which is shorter at its end. Raises NotFound."""
        with self._translated(path), (self.folder / path).open("rb", buffering=0) as file:
            return os.pread(file.fileno(), length, start)

    def write(self, path: str, source: bytes | Path) -> None:
        """Write a file as a whole or not at all; a given file is moved.

        Args:
            path: Path inside the folder.
            source: The bytes, or a file on the same disk.
        """
        target = self.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(source, bytes):
            write_file_atomically(target, source)
        else:
            fsync_path(source)
            source.replace(target)
        fsync_path(target.parent)

    def remove(self, path: str) -> None:
        """Remove a file, if it is there."""
        (self.folder / path).unlink(missing_ok=True)

    def remove_incomplete(self) -> None:
        """Remove what killed packers left; the caller holds the exclusive lock."""
        self._remove_abandoned()
        for left in self.folder.rglob(f"{NEW}*"):
            left.unlink(missing_ok=True)

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """Return the path of a new file for `write`, which is removed at the end."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._remove_abandoned()
        path = self.folder / f"{SCRATCH}{uuid.uuid4().hex}"
        while True:
            with path.open("ab") as mark:
                # The lock ends with the process, so that others know which files are abandoned.
                fcntl.flock(mark, fcntl.LOCK_EX)
                # Another packer may have removed the file before it was locked.
                if not (path.exists() and os.path.samestat(os.fstat(mark.fileno()), path.stat())):
                    continue
                try:
                    yield path
                finally:
                    path.unlink(missing_ok=True)
                return

    @contextmanager
    def locked(self, *, exclusive: bool) -> Iterator[None]:
        """Keep repacks away from packers in other processes of this machine.

        Args:
            exclusive: Whether nobody else may hold the lock.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / LOCK).open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH)
            yield

    def _remove_abandoned(self) -> None:
        for left in self.folder.glob(f"{SCRATCH}*"):
            with suppress(OSError), left.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                left.unlink()

    @contextmanager
    def _translated(self, path: str) -> Iterator[None]:
        try:
            yield
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            raise NotFound(f"{self.address} has no file {path}") from error


def check_new_folder(folder: Path) -> None:
    """Refuse to write a pack into a folder with other files.

    Args:
        folder: The folder.

    Raises:
        Refused: It has files and is no pack.
    """
    if folder.exists() and not folder.is_dir():
        raise Refused(f"{folder} is not a folder", "name a new folder")
    known = {"shards", "versions", "objects", ".nv-meta", "pack.json", NOTICES, UNFINISHED, LOCK}
    others = [one.name for one in folder.iterdir()] if folder.is_dir() else []
    others = [name for name in others if name not in known and not name.startswith((NEW, SCRATCH))]
    if others:
        raise Refused(
            f"{folder} holds other files than a pack's: {min(others)}", "name a new folder"
        )
