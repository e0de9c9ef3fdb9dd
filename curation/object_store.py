"""Object store in a local folder: content-addressed files, written atomically."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Collection, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from curation.errors import Corrupt, NotFound, TakenDown
from curation.ports import ObjectStore
from curation.store_inventory import StoredObject

CHUNK = 1 << 20
WRITING = ".put-"
"""Prefix of a file that is being written."""
REMOVING = ".gc-"
"""Prefix of an object's file while it is being removed."""
NOTICES = "taken-down"
"""Folder of the notices about objects that a takedown removed, beside the objects."""
MISSING_HINT = "run 'layerloop doctor' to list what is missing"


class ObjectReader(Protocol):
    """Objects under the sha256 of their content, to read."""

    def get(self, sha256: str) -> bytes:
        """Return the bytes with that sha256, after checking it. Raises NotFound, Corrupt."""


class ObjectWriter(Protocol):
    """Objects under the sha256 of their content, to write."""

    def put(self, source: bytes) -> str:
        """Store bytes, and return the sha256 in hex."""


class FolderStore:
    """Objects under `folder/ab/cdef...`, durable when `put` returns.

    Concurrent writers on one machine are safe.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        # The class and its arguments, with which other processes open the same store.
        self.opening = ("curation.object_store:FolderStore", str(self.folder.resolve()))

    def put(self, source: bytes | Path) -> str:
        """Store bytes or a file under their sha256; a second put only renews the file's time.

        Args:
            source: The bytes, or the path of a file.

        Returns:
            The sha256 in hex.
        """
        name = compute_sha256(source)
        target = self._path(name)
        # The time shows `remove` that somebody is about to use the object. If it was removed just
        # now, or belongs to another user, it is written again.
        try:
            os.utime(target)
        except (FileNotFoundError, PermissionError):
            new_folder = not target.parent.exists()
            target.parent.mkdir(exist_ok=True)
            self._write(source, target)
            # A new folder is durable only when the folder that contains it is synced too.
            if new_folder:
                fsync_path(self.folder)
        return name

    def get(self, sha256: str) -> bytes:
        """Return the bytes with that sha256, after checking it.

        Args:
            sha256: The object's name, 64 hex digits.

        Raises:
            NotFound: There is no such object.
            Corrupt: The stored bytes have another sha256.
        """
        data = self.get_unchecked(sha256)
        if hashlib.sha256(data).hexdigest() != sha256:
            raise _corrupt(sha256)
        return data

    def get_unchecked(self, sha256: str) -> bytes:
        """Return the bytes that are stored under a sha256, to examine a damaged object.

        Args:
            sha256: The object's name, 64 hex digits.

        Raises:
            NotFound: There is no such object.
        """
        try:
            return self._path(sha256).read_bytes()
        except FileNotFoundError:
            notice = self.folder / NOTICES / sha256
            if notice.is_file():
                raise taken_down(sha256, notice.read_bytes()) from None
            raise NotFound(f"no object {sha256}", MISSING_HINT) from None

    def has(self, sha256: str) -> bool:
        """Return whether an object of that name is stored."""
        return self._path(sha256).exists()

    def size(self, sha256: str) -> int:
        """Return the length of an object in bytes. Raises NotFound."""
        try:
            return self._path(sha256).stat().st_size
        except FileNotFoundError:
            raise NotFound(f"no object {sha256}", MISSING_HINT) from None

    def address(self, sha256: str, media_type: str, signed_at: int, seconds: int) -> str | None:
        """Return None: a folder has no server of its own, and the API serves its layers."""
        del sha256, media_type, signed_at, seconds
        return None

    def list_objects(self, after: str = "") -> Iterator[StoredObject]:
        """Yield the objects with a name greater than `after`, in the order of their names."""
        for shard in sorted(path for path in self.folder.iterdir() if len(path.name) == 2):
            if shard.name < after[:2]:
                continue
            with os.scandir(shard) as found:
                entries = sorted(found, key=lambda entry: entry.name)
            for entry in entries:
                name = shard.name + entry.name
                if not is_sha256(name) or name <= after:
                    continue
                # Skip an object that is removed meanwhile.
                with suppress(FileNotFoundError):
                    yield _describe(name, entry.stat())

    def sizes(self, names: Collection[str]) -> dict[str, int]:
        """Return the sizes in bytes of those objects that are stored."""
        found = {}
        for name in names:
            with suppress(FileNotFoundError):
                found[name] = self._path(name).stat().st_size
        return found

    def read_to(self, sha256: str, target: Path) -> None:
        """Write an object to a file, after checking it.

        Args:
            sha256: The object's name, 64 hex digits.
            target: The file to write.

        Raises:
            NotFound: There is no such object.
            Corrupt: The stored bytes have another sha256.
        """
        try:
            shutil.copyfile(self._path(sha256), target)
        except FileNotFoundError:
            raise NotFound(f"no object {sha256}", MISSING_HINT) from None
        check_file(target, sha256)

    def remove(self, names: Collection[str], before: datetime) -> list[str]:
        """Remove objects that nobody has put since `before`, and return the removed names.

        Args:
            names: Names of the objects.
            before: Objects that were put at this time or later are kept.
        """
        # A file that an interrupted removal left becomes an object again.
        for shard in {self._path(name).parent for name in names}:
            for left in shard.glob(f"{REMOVING}*"):
                _put_back(left)
        return [name for name in names if _remove_unless_put(self._path(name), before.timestamp())]

    def write_notice(self, sha256: str, notice: bytes) -> None:
        """Keep a notice about an object that is removed for ever, which `get` then reports."""
        folder = self.folder / NOTICES
        folder.mkdir(exist_ok=True)
        write_file_atomically(folder / sha256, notice)

    def remove_incomplete(self, before: datetime) -> int:
        """Remove files that killed writers left before that time, and return their number.

        Objects that a killed process was about to remove are objects again.
        """
        for left in self.folder.glob(f"??/{REMOVING}*"):
            _put_back(left)
        removed = 0
        for left in self.folder.glob(f"??/{WRITING}*"):
            with suppress(FileNotFoundError):
                if left.stat().st_mtime < before.timestamp():
                    left.unlink()
                    removed += 1
        return removed

    def _path(self, sha256: str) -> Path:
        if not is_sha256(sha256):
            raise NotFound(f"{sha256[:80]!r} is not a sha256 in lower-case hex")
        return self.folder / sha256[:2] / sha256[2:]

    def _write(self, source: bytes | Path, target: Path) -> None:
        # Written beside the target and renamed, so that a reader never sees half an object.
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=WRITING)
        try:
            with os.fdopen(handle, "wb") as out:
                for chunk in _chunks(source):
                    out.write(chunk)
                out.flush()
                os.fsync(out.fileno())
            # Another writer may have stored the same bytes; replacing them is atomic and harmless.
            Path(name).replace(target)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        fsync_path(target.parent)


class OverlayStore:
    """An object store on top of another: writes go to the upper store, reads to either."""

    def __init__(self, upper: ObjectStore, lower: ObjectStore) -> None:
        self.upper, self.lower = upper, lower

    def put(self, source: bytes | Path) -> str:
        """Store bytes or a file in the upper store, and return the sha256."""
        return self.upper.put(source)

    def get(self, sha256: str) -> bytes:
        """Return the bytes with that sha256. Raises NotFound, Corrupt."""
        return (self.upper if self.upper.has(sha256) else self.lower).get(sha256)

    def has(self, sha256: str) -> bool:
        """Return whether the upper or the lower store has the object."""
        return self.upper.has(sha256) or self.lower.has(sha256)

    def address(self, sha256: str, media_type: str, signed_at: int, seconds: int) -> str | None:
        """Return None: these objects are not served."""
        del sha256, media_type, signed_at, seconds
        return None


def is_sha256(name: str) -> bool:
    """Return whether a name is a sha256 in lower-case hex."""
    return len(name) == 64 and all(digit in "0123456789abcdef" for digit in name)


def encode_notice(takedown: str, date: str, successor: str | None) -> bytes:
    """Return the notice about a snapshot that lost samples to a takedown.

    Args:
        takedown: Id of the takedown.
        date: The day, as ISO 8601.
        successor: Id of the snapshot of the other samples, if there are any.
    """
    return json.dumps({"takedown": takedown, "date": date, "successor": successor}).encode()


def taken_down(sha256: str, notice: bytes) -> TakenDown:
    """Return the error that a notice about a snapshot's manifest stands for."""
    try:
        found = json.loads(notice)
        date, successor = str(found["date"]), found["successor"]
    except (ValueError, KeyError, TypeError):
        date, successor = "an unknown date", None
    return TakenDown(
        f"snapshot {sha256[:12]} was taken down on {date}: samples of it were removed for ever",
        f"use snapshot {successor}, which has the other samples"
        if successor
        else "no snapshot has its other samples; freeze a new one",
    )


def check_file(path: Path, sha256: str) -> None:
    """Remove a copy of an object if it has other bytes, and raise Corrupt."""
    if compute_sha256(path) != sha256:
        path.unlink()
        raise _corrupt(sha256)


def _corrupt(sha256: str) -> Corrupt:
    return Corrupt(
        f"the bytes of object {sha256} do not match its sha256", "restore it from a backup"
    )


def _describe(name: str, status: os.stat_result) -> StoredObject:
    return StoredObject(name, status.st_size, datetime.fromtimestamp(status.st_mtime, UTC))


def _remove_unless_put(path: Path, before: float) -> bool:
    """Remove a file that is older than `before`; return whether it was removed."""
    moved = path.with_name(REMOVING + path.name)
    try:
        if path.stat().st_mtime >= before:
            return False
        path.rename(moved)
    except FileNotFoundError:
        return False
    # A put that came before the rename has renewed the time of this file; a later put does not find
    # the object, and writes it again.
    if moved.stat().st_mtime >= before:
        _put_back(moved)
        return False
    moved.unlink(missing_ok=True)
    return True


def _put_back(moved: Path) -> None:
    # The object may have been written again meanwhile.
    with suppress(FileExistsError, FileNotFoundError):
        moved.with_name(moved.name.removeprefix(REMOVING)).hardlink_to(moved)
    moved.unlink(missing_ok=True)


def compute_sha256(source: bytes | Path) -> str:
    """Return the sha256, in hex, of bytes or of a file, which is read in chunks."""
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


def write_file_atomically(path: Path, data: bytes) -> None:
    """Write a user's output file atomically, also where the writing is interrupted.

    A temporary file in the same folder is renamed to the target, with the permissions of the file
    that it replaces. If the path is a link, the link stays and its target is replaced. A path that
    is not a regular file, such as /dev/stdout, is written to directly.

    Args:
        path: The file to write.
        data: Its content.
    """
    if path.exists() and not path.is_file():
        path.write_bytes(data)
        return
    # Write beside the target.
    target = Path(os.path.realpath(path))
    new = target.with_name(f".new-{uuid.uuid4().hex}")
    try:
        with new.open("xb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        # Keep the permissions of the file that is replaced.
        if target.exists():
            new.chmod(target.stat().st_mode & 0o7777)
        new.replace(target)
    except BaseException as error:
        new.unlink(missing_ok=True)
        # Report the path that the user gave, not the temporary name.
        if isinstance(error, OSError) and error.filename == str(new):
            error.filename = str(path)
        raise


def fsync_path(path: Path) -> None:
    """Call fsync on a file or a folder; a file's own fsync does not cover its directory entry."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
