"""The object store in a local folder: content-addressed files, written whole or not at all."""

from __future__ import annotations

import hashlib
import os
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

from curation.errors import Corrupt, NotFound
from curation.ports import ObjectStore

CHUNK = 1 << 20


class FolderStore:
    """Objects under `folder/ab/cdef...`; safe under concurrent writers of one machine, durable when `put` returns."""

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.opening = (
            "curation.object_store:FolderStore",
            str(self.folder.resolve()),
        )  # for other processes

    def put(self, source: bytes | Path) -> str:
        """Store bytes or a file under their sha256. A second put of the same bytes writes nothing."""
        name = sha256_of(source)
        target = self._path(name)
        if not target.exists():
            new_folder = not target.parent.exists()
            target.parent.mkdir(exist_ok=True)
            self._write(source, target)
            if new_folder:
                sync(self.folder)
        return name

    def get(self, sha256: str) -> bytes:
        """The bytes of that name, hashed again on the way: a bit that rotted is an error, not a picture."""
        try:
            data = self._path(sha256).read_bytes()
        except FileNotFoundError:
            raise NotFound(
                f"no object {sha256}", "run 'layerloop doctor' to list what is missing"
            ) from None
        if hashlib.sha256(data).hexdigest() != sha256:
            raise Corrupt(
                f"object {sha256} does not have the bytes it is named by",
                "restore it from a backup",
            )
        return data

    def has(self, sha256: str) -> bool:
        """Whether a file of that name is there."""
        return self._path(sha256).exists()

    def address(self, sha256: str, seconds: int) -> str | None:  # noqa: ARG002  # the door's own shape
        """None: a folder has no server of its own; the API serves its layers."""
        return None

    def _path(self, sha256: str) -> Path:
        if len(sha256) != 64 or not all(digit in "0123456789abcdef" for digit in sha256):
            raise NotFound(f"{sha256[:80]!r} is no sha256 in lower-case hex")
        return self.folder / sha256[:2] / sha256[2:]

    def _write(self, source: bytes | Path, target: Path) -> None:
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=".put-")
        try:
            with os.fdopen(handle, "wb") as out:
                for chunk in _chunks(source):
                    out.write(chunk)
                out.flush()
                os.fsync(out.fileno())
            # An equal file may have won the race; replacing it with the same bytes is harmless and atomic.
            Path(name).replace(target)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        sync(target.parent)


class OverlayStore:
    """An object store over another one: everything is written to the upper, and read from it or from the lower."""

    def __init__(self, upper: ObjectStore, lower: ObjectStore) -> None:
        self.upper, self.lower = upper, lower

    def put(self, source: bytes | Path) -> str:
        """Store in the upper one."""
        return self.upper.put(source)

    def get(self, sha256: str) -> bytes:
        """Return the bytes of that name. Raises NotFound, Corrupt."""
        return (self.upper if self.upper.has(sha256) else self.lower).get(sha256)

    def has(self, sha256: str) -> bool:
        """Whether either has them."""
        return self.upper.has(sha256) or self.lower.has(sha256)

    def address(self, sha256: str, seconds: int) -> str | None:
        """Return None: what is here is not served."""
        del sha256, seconds
        return None


def sha256_of(source: bytes | Path) -> str:
    """The sha256 in hex of bytes, or of a file read in pieces."""
    digest = hashlib.sha256()
    for chunk in _chunks(source):
        digest.update(chunk)
    return digest.hexdigest()


def _chunks(source: bytes | Path) -> Iterator[bytes]:
    if isinstance(source, bytes):
        yield source
        return
    with source.open("rb") as file:
        while chunk := file.read(CHUNK):
            yield chunk


def write_file(path: Path, data: bytes) -> None:
    """Write a file that somebody named: whole or not at all, also where the writing is interrupted.

    It is made beside its place and then renamed, with the permissions of the file that it replaces; a link stays and
    its target is replaced. What is no regular file, such as /dev/stdout, is written to as it is.
    """
    if path.exists() and not path.is_file():
        path.write_bytes(data)
        return
    target = Path(os.path.realpath(path))
    new = target.with_name(f".new-{uuid.uuid4().hex}")
    try:
        with new.open("xb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        if target.exists():
            new.chmod(target.stat().st_mode & 0o7777)
        new.replace(target)
    except BaseException as error:
        new.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename == str(new):
            error.filename = str(path)  # people know the name that they gave
        raise


def sync(path: Path) -> None:
    """Make a file or a folder durable; a file's own fsync does not cover the entry in the folder that names it."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
