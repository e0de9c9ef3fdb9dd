"""Successors of touched snapshots: the same samples without those that were removed."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa

from curation.datasets.manifest import Manifest, snapshot_objects
from curation.datasets.snapshot_history import add_note
from curation.datasets.snapshot_tags import tag_snapshot
from curation.datasets.snapshots import add_snapshot
from curation.datasets.successors import write_successor
from curation.db.engine import Database, Transaction
from curation.db.tables import snapshots, tags
from curation.object_store import encode_notice
from curation.store_inventory import InstanceStore
from curation.takedown.marking import add_items, read_items


def replace_snapshots(
    database: Database, store: InstanceStore, takedown: uuid.UUID, actor: str
) -> None:
    """Freeze a successor of each touched snapshot, move its tags, and give up its objects.

    Args:
        database: The database.
        store: The store.
        takedown: Id of the takedown.
        actor: Name of the person.
    """
    removed = frozenset(read_items(database, takedown, "sample"))
    candidates = read_items(database, takedown, "candidate")
    removed |= {name.replace("-", "") for name in candidates}
    for touched in read_items(database, takedown, "snapshot"):
        with database.transaction() as tx:
            query = sa.select(snapshots.c.taken_down_by).where(snapshots.c.id == touched)
            done = tx.scalar(query) is not None
        if done:
            continue
        manifest = write_successor(store, store, touched, removed)
        given_up = [touched, *snapshot_objects(store, touched)]
        # The notice comes first: a reader that finds no manifest any more finds the notice.
        today = f"{datetime.now(UTC):%Y-%m-%d}"
        successor = manifest.id if manifest else None
        store.write_notice(touched, encode_notice(str(takedown), today, successor))
        with database.transaction() as tx:
            add_items(tx, takedown, "object", given_up)
            _record(tx, takedown, touched, manifest, actor)


def _record(
    tx: Transaction, takedown: uuid.UUID, touched: str, manifest: Manifest | None, actor: str
) -> None:
    values: dict[str, object] = {"taken_down_by": takedown}
    if manifest is not None:
        old = tx.execute(sa.select(snapshots).where(snapshots.c.id == touched)).mappings().one()
        row = {"query": old["query"], "review": old["review"], "parent_id": touched}
        # It takes the place in time of the one that it replaces, so that the newest stays so.
        row["created_at"] = old["created_at"] + timedelta(microseconds=1)
        if add_snapshot(tx, manifest, row):
            tx.log(actor, "snapshot frozen", manifest.id, samples=manifest.samples)
        values["successor_id"] = manifest.id
        add_note(tx, manifest.id, f"{touched[:12]} without what was taken down", actor)
        for name in tx.execute(
            sa.select(tags.c.name).where(tags.c.snapshot_id == touched)
        ).scalars():
            tag_snapshot(tx, name, manifest.id, actor)
    else:
        tx.execute(sa.delete(tags).where(tags.c.snapshot_id == touched))
    tx.execute(sa.update(snapshots).where(snapshots.c.id == touched).values(values))
    tx.log(actor, "snapshot taken down", touched, successor=values.get("successor_id"))
