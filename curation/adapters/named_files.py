"""Small files by name beside an object store, in a folder or an S3 bucket: lists of backups."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from curation.adapters.s3 import S3Store
from curation.errors import NotFound
from curation.object_store import write_file_atomically


class NamedFiles(Protocol):
    """Files by name in one place."""

    def write(self, name: str, data: bytes) -> None:
        """Write a file atomically."""

    def read(self, name: str) -> bytes:
        """Return the content of a file. Raises NotFound."""

    def names(self) -> list[str]:
        """Return the names of all files, sorted."""


class FolderFiles:
    """Files in a folder, readable only by their owner."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, name: str, data: bytes) -> None:
        """Write a file atomically."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_file_atomically(self.folder / name, data)

    def read(self, name: str) -> bytes:
        """Return the content of a file. Raises NotFound."""
        try:
            return (self.folder / name).read_bytes()
        except FileNotFoundError:
            raise NotFound(f"there is no file {name!r} in {self.folder}") from None

    def names(self) -> list[str]:
        """Return the names of all files, sorted; none if there is no folder."""
        if not self.folder.is_dir():
            return []
        return sorted(path.name for path in self.folder.iterdir() if not path.name.startswith("."))


class S3Files:
    """Files below a prefix of a bucket.

    Args:
        store: The object store whose bucket and connection are used.
        prefix: Prefix of all keys, without a slash at its end.
    """

    def __init__(self, store: S3Store, prefix: str) -> None:
        self.store, self.prefix = store, prefix

    def write(self, name: str, data: bytes) -> None:
        """Write a file."""
        self.store.put_file(f"{self.prefix}/{name}", data)

    def read(self, name: str) -> bytes:
        """Return the content of a file. Raises NotFound."""
        return self.store.get_file(f"{self.prefix}/{name}")

    def names(self) -> list[str]:
        """Return the names of all files, sorted."""
        return sorted(self.store.list_files(f"{self.prefix}/"))
