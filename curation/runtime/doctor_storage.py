"""Checks of the doctor on disks and on the object store."""

from __future__ import annotations

import os
import secrets
import shutil
import uuid
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, UUID

from curation.db.engine import Transaction
from curation.db.tables import checkpoints, snapshots
from curation.errors import Conflict, LayerloopError
from curation.object_store import FolderStore
from curation.runtime.context import AppContext, open_store
from curation.runtime.finding import Finding
from curation.settings import Settings
from curation.store_inventory import InstanceStore

MIN_FREE_GIB: Final = 2.0
MAX_SAMPLED: Final = 400
"""Largest number of layers of each table that are looked up in the store."""
MAX_READ: Final = 10
"""Number of the sampled objects that are also read, which compares them with their names."""
LEVEL: Final = 0.95


def check_disks(settings: Settings) -> list[Finding]:
    """Check the free space of the home, the embedded database and a store in a folder.

    Folders on one disk are one finding.
    """
    folders = {"home": settings.home.resolve()}
    if settings.embedded:
        folders["database"] = folders["home"] / "postgres"
    if settings.storage.startswith("file://"):
        folders["store"] = Path(settings.storage.removeprefix("file://"))
    disks: dict[int, list[str]] = {}
    folders_by_device: dict[int, Path] = {}
    for name, folder in folders.items():
        existing = next(path for path in (folder, *folder.parents) if path.exists())
        if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
            hint = "set another home with LAYERLOOP_HOME" if name == "home" else "correct its owner"
            return [Finding("disk", False, f"{existing} is not a writable folder", hint)]
        device = existing.stat().st_dev
        disks.setdefault(device, []).append(name)
        folders_by_device.setdefault(device, folder)
    return [_check_disk(" and ".join(disks[device]), folders_by_device[device]) for device in disks]


def _check_disk(names: str, folder: Path) -> Finding:
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(existing).free / 2**30
    hint = "" if free > MIN_FREE_GIB else "free space, or set another home with LAYERLOOP_HOME"
    message = f"{free:.1f} GiB free for {names} at {folder}"
    return Finding("disk", free > MIN_FREE_GIB, message, hint)


def check_store(settings: Settings) -> Finding:
    """Put, get, compare and remove an object of random bytes."""
    try:
        return _probe(open_store(settings))
    except LayerloopError as error:
        return Finding("store", ok=False, message=error.message, hint=error.hint)
    except OSError as error:
        message = f"{error.filename}: {error.strerror}"
        return Finding("store", False, message, "check the folder's owner and its free space")


def _probe(store: InstanceStore) -> Finding:
    data = b"layerloop doctor " + secrets.token_bytes(32)
    name = store.put(data)
    if store.get(name) != data:
        return Finding("store", False, "an object came back changed", "see the store's own logs")
    # Nobody else puts these bytes, so their time does not matter.
    note = ""
    try:
        if name not in store.remove([name], datetime.now(UTC) + timedelta(days=1)):
            note = "; it could not be removed"
    except Conflict:
        note = "; it stays until 'layerloop instance gc', since objects are being removed"
    if store.has(name) and not note:
        note = "; it could not be removed"
    kind = "the folder" if isinstance(store, FolderStore) else "the bucket"
    return Finding("store", ok=True, message=f"{kind} stores, returns and removes an object{note}")


def check_objects(context: AppContext) -> Finding:
    """Check that the objects of snapshots and checkpoints exist, and those of random layers.

    A row without its object is a bug or a lost disk.
    """
    with context.database.transaction() as tx:
        named = [
            *tx.execute(sa.select(snapshots.c.id)).scalars(),
            *(
                sha
                for files in tx.execute(sa.select(checkpoints.c.files)).scalars()
                for sha in files.values()
            ),
        ]
        samples, all_samples = _sample_names(tx, "sample_layers", "sample_id")
        candidates, all_candidates = _sample_names(tx, "candidate_layers", "candidate_id")
    layers = [*samples, *candidates]
    lost = _find_lost(context.store, dict.fromkeys([*named, *layers]))
    if lost:
        listed = ", ".join(sha[:12] for sha in lost[:5])
        return Finding(
            "objects",
            False,
            f"{len(lost)} objects are missing: {listed} ...",
            "restore them from a backup",
        )
    # Reading an object compares it with its name; Corrupt is the finding of the whole check.
    for sha in secrets.SystemRandom().sample(layers, min(MAX_READ, len(layers))):
        context.store.get(sha)
    message = f"{len(set(named))} objects of snapshots and checkpoints, "
    if all_samples and all_candidates:
        message += f"and all {len(set(layers))} layers: none missing"
    else:
        # If none of n random objects is missing, at most this share is, with this confidence.
        share = 1 - (1 - LEVEL) ** (1 / max(1, min(len(samples) or 1, len(candidates) or 1)))
        message += (
            f"and {len(layers)} layers drawn at random, {min(MAX_READ, len(layers))} of them read: "
            f"none missing, so fewer than {share:.1%} are, with {LEVEL:.0%} confidence"
        )
    return Finding("objects", ok=True, message=message)


def _sample_names(tx: Transaction, table: str, key: str) -> tuple[list[str], bool]:
    """Return objects of a table of layers, and whether these are all of it.

    A large table is sampled over the whole range of its ids, which are hashes or random: for each
    random id the next row is taken, so that old and new rows have equal chances.
    """
    names = list(tx.execute(sa.text(_ALL.format(table=table)), {"most": MAX_SAMPLED + 1}).scalars())
    if len(names) <= MAX_SAMPLED:
        return names, True
    random_ids = [uuid.uuid4() for _ in range(MAX_SAMPLED)]
    query = sa.text(_NEXT.format(table=table, key=key)).bindparams(
        sa.bindparam("ids", type_=ARRAY(UUID))
    )
    found = tx.execute(query, {"ids": random_ids}).scalars()
    return [sha for sha in found if sha is not None], False


def _find_lost(store: InstanceStore, names: Iterable[str]) -> Sequence[str]:
    """Return the names that the store does not have."""
    wanted = list(names)
    with ThreadPoolExecutor(8) as pool:
        is_stored = pool.map(store.has, wanted)
        return [sha for sha, stored in zip(wanted, is_stored, strict=True) if not stored]


_ALL = "select sha256 from {table} limit :most"

# The last rows are followed by the first.
_NEXT = """
    select coalesce(
        (select sha256 from {table} where {key} >= random_ids.id order by {key} limit 1),
        (select sha256 from {table} order by {key} limit 1))
    from unnest(:ids) as random_ids (id)"""
