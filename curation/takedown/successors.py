"""Successors of touched snapshots: the same samples without those that were removed."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Collection, Iterator
from datetime import UTC, datetime, timedelta
from itertools import groupby

import sqlalchemy as sa

from curation.datasets.decision_records import (
    DecidedCandidates,
    DecisionRecord,
    read_decisions_part,
    write_decisions,
)
from curation.datasets.manifest import (
    DecisionsIndex,
    Manifest,
    Part,
    prefix_length,
    read_manifest,
    read_samples,
    read_withheld,
    snapshot_objects,
)
from curation.datasets.snapshot_history import add_note
from curation.datasets.snapshot_tags import tag_snapshot
from curation.datasets.snapshots import add_snapshot
from curation.db.engine import Database, Transaction
from curation.db.tables import snapshots, tags
from curation.domain import Sample, Split
from curation.object_store import encode_notice
from curation.ports import ObjectStore
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
        manifest = write_successor(store, touched, removed)
        given_up = [touched, *snapshot_objects(store, touched)]
        # The notice comes first: a reader that finds no manifest any more finds the notice.
        today = f"{datetime.now(UTC):%Y-%m-%d}"
        successor = manifest.id if manifest else None
        store.write_notice(touched, encode_notice(str(takedown), today, successor))
        with database.transaction() as tx:
            add_items(tx, takedown, "object", given_up)
            _record(tx, takedown, touched, manifest, actor)


def write_successor(store: ObjectStore, touched: str, removed: Collection[str]) -> Manifest | None:
    """Store the snapshot of the samples that are left, and return it; None if none is left.

    Lines are taken over as they are. A sample that was withheld stays so, also if the held-out
    sample that was the reason is gone.

    Args:
        store: The store.
        touched: Id of the touched snapshot.
        removed: Ids of the removed samples and candidates, as hex digits.
    """
    gone = frozenset(removed)
    withheld = sorted(read_withheld(store, touched) - gone)
    counts: dict[str, Counter[str]] = {
        name: Counter() for name in ("kind", "licence", "split", "round")
    }
    for sample in _remaining(store, touched, gone):
        counts["kind"][sample.kind] += 1
        counts["licence"][sample.licence] += 1
        counts["split"][sample.split] += 1
        counts["round"][str(sample.round)] += 1
    total = counts["kind"].total()
    if not total:
        return None
    digits = prefix_length(total)
    parts = tuple(
        _write_part(store, prefix, list(group))
        for prefix, group in groupby(_remaining(store, touched, gone), lambda one: one.id[:digits])
    )
    listed = ""
    if withheld:
        counts["split"][Split.train] -= len(withheld)
        counts["split"]["withheld"] = len(withheld)
        listed = store.put("".join(one + "\n" for one in withheld).encode())
    manifest = Manifest(parts, _plain(counts), listed, _remaining_decisions(store, touched, gone))
    store.put(manifest.bytes())
    return manifest


def _remaining_decisions(
    store: ObjectStore, touched: str, gone: frozenset[str]
) -> DecisionsIndex | None:
    index = read_manifest(store, touched).decisions
    if index is None:
        return None

    def records() -> Iterator[DecisionRecord]:
        for part in index.parts:
            for one in read_decisions_part(store, part):
                if one.candidate not in gone:
                    yield one

    by_checkpoint = Counter(one.checkpoint for one in records())
    return write_decisions(store, DecidedCandidates(by_checkpoint, records()))


def _remaining(store: ObjectStore, touched: str, gone: frozenset[str]) -> Iterator[Sample]:
    return (sample for sample in read_samples(store, touched) if sample.id not in gone)


def _write_part(store: ObjectStore, prefix: str, members: list[Sample]) -> Part:
    lines = "".join(sample.line() + "\n" for sample in members)
    return Part(prefix, store.put(lines.encode()), len(members))


def _plain(counts: dict[str, Counter[str]]) -> dict[str, dict[str, int]]:
    return {name: {str(key): n for key, n in one.items()} for name, one in counts.items()}


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
