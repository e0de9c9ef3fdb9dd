"""Garbage collection: removal of objects that neither a row nor a manifest names."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import groupby

import sqlalchemy as sa

from curation.datasets.named_objects import list_manifests, manifest_objects, named_objects
from curation.db.engine import Database, Transaction
from curation.db.tables import training_runs
from curation.domain import Progress, RunState
from curation.ports import ProgressCallback
from curation.store_inventory import InstanceStore, StoredObject

SHARDS = 256


@dataclass(frozen=True)
class GarbageReport:
    """The result of a garbage collection; of a dry run, what would be removed."""

    named: int
    # Unnamed, but put too recently.
    young: int
    removed: int
    removed_bytes: int
    # Parts of writes that were interrupted.
    incomplete: int
    before: datetime
    """Objects that were put at this time or later are kept."""


def collect_garbage(
    database: Database,
    store: InstanceStore,
    grace: timedelta,
    on_progress: ProgressCallback,
    *,
    dry_run: bool,
) -> GarbageReport:
    """Remove objects that nothing names and that were not put within the grace period.

    Work that runs meanwhile is safe: an object is put, or its time renewed, before a row that names
    it is committed, and the store keeps an object that is put during its removal.

    Args:
        database: The database.
        store: The object store.
        grace: The longest time between a put and the commit of a row that names the object.
        on_progress: Receives the progress.
        dry_run: Only count.

    Raises:
        NotFound: A manifest is missing, so that it is not known what it names; nothing is removed.
        Corrupt: A manifest cannot be read; nothing is removed.
        Conflict: Another garbage collection runs.
    """
    # Read what manifests name first: without it nothing may be removed.
    with database.transaction() as tx:
        before = _keep_since(tx, datetime.now(UTC) - grace)
        manifests = list_manifests(tx)
    by_manifests: set[str] = set()
    for kind, name in manifests:
        by_manifests.update(manifest_objects(store, kind, name))

    # One shard at a time, so that memory is bounded. Names are read after the shard's listing: an
    # object of the listing whose row is committed later was put or renewed within the grace period.
    named = young = removed = removed_bytes = 0
    for shard, group in groupby(store.list_objects(), key=lambda found: found.sha256[:2]):
        listed = list(group)
        with database.transaction() as tx:
            wanted = set(named_objects(tx, shard)) | by_manifests
        unnamed = [found for found in listed if found.sha256 not in wanted]
        garbage = [found for found in unnamed if found.modified_at < before]
        deleted = garbage if dry_run else _remove(store, garbage, before)
        # Count, and report.
        named += len(listed) - len(unnamed)
        young += len(unnamed) - len(deleted)
        removed += len(deleted)
        removed_bytes += sum(found.bytes for found in deleted)
        on_progress(Progress("collecting garbage", int(shard, 16) + 1, SHARDS))
    incomplete = 0 if dry_run else store.remove_incomplete(before)
    return GarbageReport(named, young, removed, removed_bytes, incomplete, before)


def _remove(
    store: InstanceStore, garbage: list[StoredObject], before: datetime
) -> list[StoredObject]:
    if not garbage:
        return []
    removed = set(store.remove([found.sha256 for found in garbage], before))
    return [found for found in garbage if found.sha256 in removed]


def _keep_since(tx: Transaction, before: datetime) -> datetime:
    """Return `before`, or the start of the oldest unfinished training if that is earlier.

    A training stores the parts of its checkpoint one after another, days apart, and their row comes
    at its end.
    """
    unfinished = training_runs.c.state.in_([RunState.requested, RunState.running, RunState.paused])
    oldest = tx.scalar(sa.select(sa.func.min(training_runs.c.started_at)).where(unfinished))
    return min(before, oldest) if oldest else before
