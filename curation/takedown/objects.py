"""Removal of the objects of a takedown from the store, unless something else names them."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from itertools import groupby

from curation.datasets.named_objects import list_manifests, manifest_objects, named_objects
from curation.db.engine import Database
from curation.domain import Progress
from curation.errors import Conflict
from curation.ports import ProgressCallback
from curation.store_inventory import InstanceStore
from curation.takedown.marking import read_items


def remove_objects(
    database: Database, store: InstanceStore, takedown: uuid.UUID, report: ProgressCallback
) -> int:
    """Remove the objects of a takedown; the call is idempotent.

    Args:
        database: The database.
        store: The store.
        takedown: Id of the takedown.
        report: Receives the progress.

    Returns:
        The number of objects that are gone.

    Raises:
        Conflict: Objects are left, since somebody put them again at this time.
    """
    # Manifests name parts alone, so that they matter only where snapshots were touched.
    by_manifests: set[str] = set()
    if read_items(database, takedown, "snapshot"):
        with database.transaction() as tx:
            manifests = list_manifests(tx)
        for kind, name in manifests:
            by_manifests.update(manifest_objects(store, kind, name))
    names = read_items(database, takedown, "object")
    # Nobody may keep them by having put them just now: their rows are refused.
    before = datetime.now(UTC) + timedelta(days=1)
    gone = left = 0
    for shard, group in groupby(names, key=lambda name: name[:2]):
        with database.transaction() as tx:
            wanted = set(named_objects(tx, shard)) | by_manifests
        unnamed = [name for name in group if name not in wanted]
        if unnamed:
            store.remove(unnamed, before)
        left += sum(store.has(name) for name in unnamed)
        gone += len(unnamed)
        report(Progress("removing objects", gone, len(names)))
    if left:
        raise Conflict(f"{left} objects could not be removed", "run the same command again")
    return gone
