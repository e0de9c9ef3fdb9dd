"""Snapshots: immutable sets of samples, stored as objects that are named by their content."""

from __future__ import annotations

import contextlib
import re
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from curation.datasets.blocked import count_takedowns, hold_takedowns
from curation.datasets.decision_records import DecidedCandidates
from curation.datasets.freeze_query import ALL_SAMPLES, FreezeQuery, condition_of
from curation.datasets.holdout import fingerprint_layers
from curation.datasets.licences import LicencePolicy
from curation.datasets.manifest import Manifest
from curation.datasets.object_check import (
    NOT_CHECKED,
    check_objects,
    describe_damage,
    find_doubtful,
    without_samples,
)
from curation.datasets.snapshot_content import count_samples, read_content
from curation.datasets.snapshot_tags import check_tag, tag_snapshot
from curation.db.engine import Database, Transaction
from curation.db.paging import find_place, read_page
from curation.db.tables import snapshot_notes, snapshots, tags
from curation.errors import Conflict, NotFound
from curation.store_inventory import InstanceStore
from curation.text import is_storable

_ID_DIGITS = re.compile(r"[0-9a-f]{8,64}")

DEFAULT_POLICY = LicencePolicy()
FindDecided = Callable[[Transaction, FreezeQuery], DecidedCandidates]
"""Returns the decided candidates of a query (curation.review.frozen_decisions)."""
ATTEMPTS = 5
"""Times that samples are checked again since others were accepted meanwhile."""
REPAIR_HINT = (
    "restore the objects from a backup or import the files again, withdraw the samples, or leave "
    "them out with --leave-out-damaged"
)


def freeze_snapshot(
    database: Database,
    store: InstanceStore,
    *,
    tag: str | None,
    actor: str,
    query: FreezeQuery = ALL_SAMPLES,
    policy: LicencePolicy = DEFAULT_POLICY,
    parent: str | None = None,
    find_decided: FindDecided | None = None,
) -> Manifest:
    """Freeze a snapshot of the samples of a query that are not withdrawn.

    See `prepare_snapshot` and `record_snapshot`, for callers with more to record.

    Args:
        database: The database; no transaction may be open.
        store: Store of the layers and the snapshot.
        tag: Name of a tag to set on the snapshot.
        actor: Name of the person, for the event log.
        query: Which samples it has.
        policy: Which licences may be in it.
        parent: Id of the snapshot that it follows; by default the newest one.
        find_decided: Returns the decided candidates to add; a snapshot without any has the id that
            it would have had without this argument.

    Returns:
        The manifest.

    Raises:
        Conflict: There are no samples, or objects of samples are missing or damaged.
        Refused: The name of the tag or the query is invalid, or the licences are against the
            policy.
    """
    if tag:
        check_tag(tag)
    prepared = prepare_snapshot(database, store, query, policy, find_decided)
    with database.transaction() as tx:
        record_snapshot(tx, prepared, tag=tag, actor=actor, parent=parent)
    return prepared.manifest


@dataclass(frozen=True)
class PreparedSnapshot:
    """A snapshot whose objects are in the store, and which no row names yet.

    Attributes:
        manifest: The manifest.
        query: Which samples it has.
        review: Statistics of the decisions on its samples.
        left_out: The reason for each damaged sample that was left out.
        takedowns: Number of takedowns when the samples were read.
    """

    manifest: Manifest
    query: FreezeQuery
    review: dict[str, Any]
    left_out: Mapping[uuid.UUID, str]
    takedowns: int


def prepare_snapshot(
    database: Database,
    store: InstanceStore,
    query: FreezeQuery = ALL_SAMPLES,
    policy: LicencePolicy = DEFAULT_POLICY,
    find_decided: FindDecided | None = None,
    *,
    leave_out_damaged: bool = False,
) -> PreparedSnapshot:
    """Read the samples of a query and write the objects of their snapshot, without recording it.

    All samples are read in one view of the database; the store is accessed with no transaction
    open. Objects that are not recorded within the grace period are garbage. Training samples that
    share a layer with a held-out sample are listed as withheld (curation.datasets.holdout).

    Args:
        database: The database.
        store: Store of the layers and the snapshot.
        query: Which samples it has.
        policy: Which licences may be in it.
        find_decided: Returns the decided candidates to add.
        leave_out_damaged: Leave out samples whose objects are missing or damaged.

    Raises:
        Conflict: There are no samples, or objects of samples are missing or damaged.
        Refused: The query is invalid, or the licences are against the policy.
    """
    chosen = condition_of(query)
    for _ in range(ATTEMPTS):
        damaged = check_objects(database, store, chosen)
        fingerprint_layers(database, store)
        with contextlib.ExitStack() as stack:
            with database.transaction(repeatable_read=True) as tx:
                doubtful = find_doubtful(tx, chosen)
                # Samples that were accepted after the check are checked in another attempt.
                if any(
                    reason == NOT_CHECKED and id_ not in damaged for id_, reason in doubtful.items()
                ):
                    continue
                left_out = {id_: damaged.get(id_, reason) for id_, reason in doubtful.items()}
                if left_out and not leave_out_damaged:
                    raise Conflict(describe_damage(left_out), REPAIR_HINT)
                taken = without_samples(chosen, list(left_out))
                decided = find_decided(tx, query) if find_decided else None
                counts = _check_counts(tx, taken, query, policy, decided)
                takedowns = count_takedowns(tx)
                content = stack.enter_context(read_content(tx, counts, taken, decided))
            content.objects.write(store)
            return PreparedSnapshot(content.manifest, query, content.review, left_out, takedowns)
    raise Conflict("samples are added faster than their objects are checked", "freeze again")


def record_snapshot(
    tx: Transaction,
    prepared: PreparedSnapshot,
    *,
    tag: str | None,
    actor: str,
    parent: str | None = None,
) -> None:
    """Record a prepared snapshot; equal samples give the same snapshot, whatever the query was.

    The query, the parent and statistics of the decisions are recorded when a snapshot is frozen for
    the first time.

    Args:
        tx: The transaction.
        prepared: The snapshot.
        tag: Name of a tag to set on the snapshot.
        actor: Name of the person, for the event log.
        parent: Id of the snapshot that it follows; by default the newest one.

    Raises:
        Conflict: Samples were taken down after they were read.
        Refused: The name of the tag is invalid.
    """
    # A takedown that was made after the samples were read may have removed some of them.
    hold_takedowns(tx)
    if count_takedowns(tx) != prepared.takedowns:
        raise Conflict("samples were taken down meanwhile", "freeze again")
    manifest, query = prepared.manifest, prepared.query.record()
    values = {"query": query, "review": prepared.review}
    if add_snapshot(tx, manifest, values | {"parent_id": _parent(tx, parent, manifest.id)}):
        tx.log(actor, "snapshot frozen", manifest.id, samples=manifest.samples, query=query)
    if tag:
        tag_snapshot(tx, tag, manifest.id, actor)


def list_taken_down(tx: Transaction) -> set[str]:
    """Return the ids of the snapshots that takedowns concern."""
    return set(
        tx.execute(
            sa.select(snapshots.c.id).where(snapshots.c.taken_down_by.is_not(None))
        ).scalars()
    )


def add_snapshot(tx: Transaction, manifest: Manifest, values: Mapping[str, Any]) -> bool:
    """Add the row of a snapshot, and return whether there was none yet.

    Args:
        tx: The transaction.
        manifest: The manifest.
        values: The columns that do not follow from the manifest.
    """
    row = {"id": manifest.id, "samples": manifest.samples, "counts": manifest.counts}
    row["decisions"] = manifest.decisions.counts if manifest.decisions else None
    adding = insert(snapshots).on_conflict_do_nothing()
    return bool(tx.execute(adding, row | dict(values)).rowcount)


def next_snapshot(tx: Transaction) -> str:
    """Return the id that a snapshot of all samples has, without freezing it; empty without one.

    Args:
        tx: A transaction with `repeatable_read`.
    """
    chosen = condition_of(ALL_SAMPLES)
    counts = count_samples(tx, chosen)
    if not counts["kind"]:
        return ""
    with read_content(tx, counts, chosen) as content:
        return content.manifest.id


def count_chosen(
    tx: Transaction,
    query: FreezeQuery,
    policy: LicencePolicy,
    decided: DecidedCandidates | None = None,
) -> int:
    """Return how many samples a snapshot would have.

    Args:
        tx: The transaction.
        query: Which samples it has.
        policy: Which licences may be in it.
        decided: Decided candidates to add.

    Raises:
        Refused: The query is invalid, or the licences are against the policy.
    """
    counts = count_samples(tx, condition_of(query))
    policy.check(_licences(counts, decided))
    return sum(counts["kind"].values())


def find_snapshot(tx: Transaction, name: str) -> str:
    """Return the id of a snapshot.

    Args:
        tx: The transaction.
        name: Its id, the first eight or more digits of the id, or its tag.

    Raises:
        NotFound: There is no such snapshot.
    """
    # Ids are tried first, so that no tag can hide a snapshot's id.
    if _ID_DIGITS.fullmatch(name):
        found = tx.execute(
            sa.select(snapshots.c.id).where(snapshots.c.id.startswith(name, autoescape=True))
        ).all()
        if len(found) == 1:
            return str(found[0].id)
    tagged = (
        tx.scalar(sa.select(tags.c.snapshot_id).where(tags.c.name == name))
        if is_storable(name)
        else None
    )
    if tagged is None:
        raise NotFound(
            f"there is no snapshot {name[:100]!r}", "'layerloop snapshot list' shows them"
        )
    return str(tagged)


def find_local_snapshot(tx: Transaction, snapshot: str | None) -> str | None:
    """Return a snapshot's id if it exists here, else None.

    The snapshot of a checkpoint from another installation does not exist here.
    """
    return (
        tx.scalar(sa.select(snapshots.c.id).where(snapshots.c.id == snapshot)) if snapshot else None
    )


def list_snapshots(
    tx: Transaction, limit: int = 0, after: str | None = None
) -> list[dict[str, Any]]:
    """Return snapshots with their tags and the texts of their notes, newest first.

    Args:
        tx: The transaction.
        limit: The largest number; 0 for no limit.
        after: Id of the last snapshot of the page before; None for the first page.

    Raises:
        NotFound: There is no snapshot `after`.
    """
    order = [snapshots.c.created_at, snapshots.c.id]
    place = find_place(tx, order, after)
    return _with_tags(tx, read_page(tx, sa.select(snapshots), order, limit=limit, after=place))


def read_snapshots(tx: Transaction, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the rows of snapshots by id, as `list_snapshots` does; unknown ids are left out."""
    rows = tx.execute(sa.select(snapshots).where(snapshots.c.id.in_(ids))).mappings()
    return {row["id"]: row for row in _with_tags(tx, [dict(row) for row in rows])}


def _with_tags(tx: Transaction, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add the tags and the texts of the notes to rows of snapshots."""
    ids = [row["id"] for row in rows]
    named: dict[str, list[str]] = {id_: [] for id_ in ids}
    noted: dict[str, list[str]] = {id_: [] for id_ in ids}
    wanted = sa.select(tags).where(tags.c.snapshot_id.in_(ids)).order_by(tags.c.name)
    for row in tx.execute(wanted):
        named[row.snapshot_id].append(row.name)
    wanted = sa.select(snapshot_notes).where(snapshot_notes.c.snapshot_id.in_(ids))
    for row in tx.execute(wanted.order_by(snapshot_notes.c.id)):
        noted[row.snapshot_id].append(row.text)
    return [row | {"tags": named[row["id"]], "notes": noted[row["id"]]} for row in rows]


def _parent(tx: Transaction, parent: str | None, snapshot: str) -> str | None:
    """Return the parent of a new snapshot: the given one, or the newest other one."""
    if parent is not None:
        return parent if parent != snapshot else None
    newest = sa.select(snapshots.c.id).where(snapshots.c.id != snapshot)
    ordered = newest.order_by(snapshots.c.created_at.desc(), snapshots.c.id)
    found: str | None = tx.scalar(ordered.limit(1))
    return found


def _licences(counts: dict[str, dict[str, int]], decided: DecidedCandidates | None) -> Counter[str]:
    """Return the numbers of samples and decided candidates by licence."""
    return Counter(counts["licence"]) + (decided.licences() if decided else Counter())


def _check_counts(
    tx: Transaction,
    chosen: sa.ColumnElement[bool],
    query: FreezeQuery,
    policy: LicencePolicy,
    decided: DecidedCandidates | None,
) -> dict[str, dict[str, int]]:
    """Return the counts of a condition. Raises Conflict without samples, Refused for licences."""
    counts = count_samples(tx, chosen)
    if not counts["kind"]:
        hint = "import seeds or accept candidates first"
        raise Conflict(
            "there are no samples to freeze",
            hint if query == ALL_SAMPLES else "no sample meets the query: widen it",
        )
    policy.check(_licences(counts, decided))
    return counts
