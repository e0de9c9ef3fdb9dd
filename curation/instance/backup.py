"""Backups of an instance: its rows from one view of the database, and all objects that they name.

A backup is a folder or an S3 prefix. `objects/` has the instance's objects and the chunks of rows,
each once for all backups in it; `backups/` has a small file for each backup, named by its time,
which contains the hash of its description.
"""

from __future__ import annotations

import json
import re
import tempfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from curation import __version__
from curation.adapters.named_files import FolderFiles, NamedFiles, S3Files
from curation.datasets.named_objects import manifest_objects
from curation.db.engine import Database
from curation.domain import canonical_json
from curation.errors import Corrupt, NotFound, Refused
from curation.instance.object_copy import CopyPlan, copy_objects, find_damaged, plan_copy
from curation.instance.rows import ChunkFolder, InstanceView, RowDump, dump_rows
from curation.object_store import FolderStore
from curation.ports import ObjectStore, ProgressCallback
from curation.store_inventory import InstanceStore

FORMAT = "layerloop backup 1"
_NAME = re.compile(r"\d{8}T\d{6}Z")


@dataclass(frozen=True)
class BackupPlace:
    """Where backups are kept."""

    store: InstanceStore
    files: NamedFiles


@dataclass(frozen=True)
class Backup:
    """The description of one backup."""

    name: str
    version: str
    dump: RowDump
    # Chunks of the list of objects, and its counts.
    object_list: tuple[str, ...]
    objects: int
    object_bytes: int

    def encode(self) -> bytes:
        """Return the description as JSON."""
        value = self.__dict__ | {"format": FORMAT, "dump": self.dump.to_json()}
        return (canonical_json(value) + "\n").encode()

    @property
    def chunks(self) -> list[str]:
        """The names of the chunks with rows and with the list of objects."""
        return [*self.object_list, *(sha for table in self.dump.tables for sha in table.chunks)]


def open_place(address: str, endpoint: str | None = None) -> BackupPlace:
    """Open a folder or an s3://bucket/prefix for backups.

    Args:
        address: Path of a folder, or URL.
        endpoint: URL of an S3 server other than Amazon's.
    """
    if not address.startswith("s3://"):
        if "://" in address:
            raise Refused(f"{address!r} cannot hold backups", "name a folder or s3://bucket/prefix")
        folder = Path(address)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return BackupPlace(FolderStore(folder / "objects"), FolderFiles(folder / "backups"))
    from curation.adapters.s3 import S3Store

    split = urlsplit(address)
    prefix = split.path.strip("/")
    inner = f"{prefix}/objects" if prefix else "objects"
    store = S3Store(split.netloc, inner, endpoint)
    return BackupPlace(store, S3Files(store, f"{prefix}/backups" if prefix else "backups"))


def plan_backup(
    database: Database,
    store: InstanceStore,
    place: BackupPlace,
    scratch: Path,
    on_progress: ProgressCallback,
) -> tuple[InstanceView, CopyPlan]:
    """Read the rows into a scratch folder, and compare the objects.

    Args:
        database: The database; others may write meanwhile.
        store: The object store.
        place: Where backups are kept.
        scratch: An empty folder on a local disk.
        on_progress: Receives the progress.
    """
    view = dump_rows(database, ChunkFolder(scratch), on_progress)
    return view, plan_copy(store, place.store, complete_names(store, view))


def complete_names(store: ObjectStore, view: InstanceView) -> set[str]:
    """Return the names of all objects of a view, including those that manifests name."""
    names = set(view.objects)
    for kind, name in view.manifests:
        names.update(manifest_objects(store, kind, name))
    return names


def make_backup(
    database: Database,
    store: InstanceStore,
    place: BackupPlace,
    on_progress: ProgressCallback,
    *,
    read_back: bool = True,
) -> tuple[Backup, CopyPlan]:
    """Back up an instance while its processes run; only objects that are new are copied.

    Args:
        database: The database.
        store: The object store.
        place: Where backups are kept.
        on_progress: Receives the progress.
        read_back: Read each new object from the backup, and check its hash.

    Returns:
        The backup, and which objects it needed.

    Raises:
        NotFound: An object that rows name is missing.
        Corrupt: The bytes of an object do not match its name.
    """
    with tempfile.TemporaryDirectory() as folder:
        view, plan = plan_backup(database, store, place, Path(folder), on_progress)
        copy_objects(store, place.store, plan, on_progress, read_back=read_back)
        # The rows, the list of objects and the description come last: an interrupted backup has no
        # name, and the next one finds its objects.
        rows = ChunkFolder(Path(folder))
        for table in view.dump.tables:
            for chunk in table.chunks:
                place.store.put(rows.get(chunk))
    listed = "".join(f"{name} {size}\n" for name, size in sorted(plan.wanted.items()))
    object_list = (place.store.put(zlib.compress(listed.encode(), 3)),)
    name = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    size = sum(plan.wanted.values())
    backup = Backup(name, __version__, view.dump, object_list, len(plan.wanted), size)
    place.files.write(name, (place.store.put(backup.encode()) + "\n").encode())
    return backup, plan


def list_backups(place: BackupPlace) -> list[str]:
    """Return the names of all backups, oldest first."""
    return [name for name in place.files.names() if _NAME.fullmatch(name)]


def read_backup(place: BackupPlace, name: str | None = None) -> Backup:
    """Read the description of a backup.

    Args:
        place: Where backups are kept.
        name: Name of the backup; None for the newest.

    Raises:
        NotFound: There is no such backup.
        Corrupt: Its description was changed.
        Refused: Another version wrote it, in another format.
    """
    names = list_backups(place)
    chosen = name or (names[-1] if names else "")
    if chosen not in names:
        listed = ", ".join(names[-5:]) or "none"
        raise NotFound(f"there is no backup {chosen!r} here", f"there are: {listed}")
    sha256 = place.files.read(chosen).decode("ascii", "replace").strip()
    return _parse(json.loads(place.store.get(sha256)), chosen)


def read_object_list(place: BackupPlace, backup: Backup) -> dict[str, int]:
    """Return the objects of a backup, with their size in bytes."""
    text = b"".join(zlib.decompress(place.store.get(sha)) for sha in backup.object_list).decode()
    pairs = (line.split(" ") for line in text.splitlines())
    return {name: int(size) for name, size in pairs}


def verify_backup(place: BackupPlace, backup: Backup, on_progress: ProgressCallback) -> list[str]:
    """Read everything of a backup, and return the objects that are missing or damaged."""
    damaged = find_damaged(place.store, backup.chunks, on_progress, "verifying rows")
    if set(damaged) & set(backup.object_list):
        return damaged
    names = read_object_list(place, backup)
    return damaged + find_damaged(place.store, sorted(names), on_progress, "verifying objects")


def _parse(root: Mapping[str, Any], name: str) -> Backup:
    if root.get("format") != FORMAT:
        raise Refused(f"backup {name} has a format of another version", "upgrade Layerloop")
    try:
        fields = {key: value for key, value in root.items() if key not in ("format", "dump")}
        fields["object_list"] = tuple(fields["object_list"])
        return Backup(dump=RowDump.from_json(root["dump"]), **fields)
    except (TypeError, KeyError) as error:
        raise Corrupt(f"the description of backup {name} cannot be read: {error}") from error
