"""Restoring a backup into an empty instance, with the checks of every copy of an instance."""

from __future__ import annotations

import tempfile
from pathlib import Path

from curation.datasets.named_objects import all_named_objects
from curation.datasets.snapshots import next_snapshot
from curation.db import schema
from curation.db.engine import Database
from curation.errors import Corrupt
from curation.instance.backup import Backup, BackupPlace, read_object_list
from curation.instance.object_copy import CopyPlan, copy_objects, plan_copy
from curation.instance.rows import ChunkFolder, RowDump, load_rows, refuse_filled
from curation.ports import ProgressCallback
from curation.store_inventory import InstanceStore


def plan_restore(place: BackupPlace, backup: Backup, store: InstanceStore) -> CopyPlan:
    """Compare the objects of a backup with those of the instance.

    Raises:
        NotFound: The backup lacks objects.
    """
    return plan_copy(place.store, store, set(read_object_list(place, backup)))


def restore_backup(
    place: BackupPlace,
    backup: Backup,
    database: Database,
    store: InstanceStore,
    on_progress: ProgressCallback,
) -> CopyPlan:
    """Restore a backup; after an interruption, the same call resumes.

    Args:
        place: Where the backup is.
        backup: The backup.
        database: The database of an empty instance.
        store: Its object store.
        on_progress: Receives the progress.

    Raises:
        Conflict: The instance is not empty.
        Corrupt: An object or the rows are damaged.
        SchemaMismatch: A newer version made the backup.
    """
    with database.transaction() as tx:
        refuse_filled(tx)
    plan = plan_restore(place, backup, store)
    copy_objects(place.store, store, plan, on_progress, read_back=True)
    # Rows are loaded from a local disk, so that the transaction does not wait for the backup.
    with tempfile.TemporaryDirectory() as folder:
        rows = ChunkFolder(Path(folder))
        for table in backup.dump.tables:
            for chunk in table.chunks:
                rows.put(place.store.get(chunk))
        _load(database, backup.dump, rows, on_progress)
    verify_copy(database, store, backup.dump)
    return plan


def verify_copy(database: Database, store: InstanceStore, dump: RowDump) -> None:
    """Check that all named objects are stored, and that the next snapshot has the same name.

    Raises:
        Corrupt: The copy differs.
    """
    stored = {found.sha256 for found in store.list_objects()}
    if lost := all_named_objects(database, store) - stored:
        raise Corrupt(f"{len(lost)} objects are missing in the copy", "try again")
    with database.transaction(repeatable_read=True) as tx:
        name = next_snapshot(tx)
    if name != dump.next_snapshot:
        raise Corrupt(
            f"the copy would freeze snapshot {name[:12]} instead of {dump.next_snapshot[:12]}",
            "please report this",
        )


def _load(
    database: Database, dump: RowDump, rows: ChunkFolder, on_progress: ProgressCallback
) -> None:
    """Load rows into tables of the revision that they were dumped from, then upgrade these."""
    schema.downgrade(database, dump.revision)
    try:
        with database.transaction() as tx:
            load_rows(tx, dump, rows, on_progress)
    finally:
        schema.upgrade(database)
