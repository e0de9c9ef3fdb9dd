"""What a takedown would do: counts, ids, near copies, and places that it cannot reach."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import sqlalchemy as sa

from curation.datasets.duplicates import find_all_near
from curation.db.engine import Database, Transaction
from curation.db.tables import (
    candidate_layers,
    candidates,
    captions,
    embeddings,
    gold,
    labeling_projects,
    labeling_tasks,
    leases,
    rounds,
    sample_layers,
)
from curation.domain import LayerRole, RoundState
from curation.ports import ObjectStore
from curation.takedown.lineage import Affected, find_affected, find_touched
from curation.takedown.packs import OpenPack, find_in_packs
from curation.takedown.people import count_traces
from curation.takedown.selectors import Selector, TakedownScope, blocks, select

OUTSIDE = (
    "folders that snapshots were pulled into: pull the successor into the same folder",
    "packs that this instance did not write (--pack names one), and their buckets' older versions",
    "copies of snapshots in other stores or on the Hub",
    "backups made before: make a new one, then remove the older ones",
    "exported checkpoints and images, and open browser pages",
    "dead rows, write-ahead log and replicas of PostgreSQL, until it has vacuumed and archived",
)
"""Places that an instance cannot reach; they are only reported."""


def preview(
    database: Database, store: ObjectStore, selector: Selector, open_pack: OpenPack
) -> dict[str, Any]:
    """Return what a takedown would remove and mark.

    Args:
        database: The database.
        store: The store; manifests of snapshots are read.
        selector: What is to be taken down.
        open_pack: Opens the folders of packs.

    Raises:
        NotFound: There is no sample, candidate or reviewer of that name.
    """
    if selector.kind == "reviewer":
        with database.transaction() as tx:
            return {"selector": "reviewer"} | count_traces(tx, selector.values[0])
    with database.transaction() as tx:
        found = select(tx, selector)
        rows = _count_rows(tx, found)
    touched = find_touched(database, store, [one.hex for one in found.samples], found.layers)
    with database.transaction() as tx:
        affected = find_affected(tx, touched)
        generating = _rounds_of(tx, affected)
        places = _labeling_places(tx, found.candidates)
    ids = [*found.samples, *found.candidates]
    packs = find_in_packs(database, open_pack, ids, found.layers)
    unreached = [f"pack {one.pack}: {one.problem}" for one in packs if one.problem]
    return {
        "selector": selector.kind,
        "samples": sorted(one.hex for one in found.samples),
        "candidates": sorted(map(str, found.candidates)),
        "layers": len(found.layers),
        "layers_kept": len(found.shared),
        "duplicate_files": found.duplicates,
        **rows,
        "snapshots": list(affected.snapshots),
        "checkpoints": list(affected.checkpoints),
        "runs": [str(one) for one in affected.runs],
        "open_rounds_of_checkpoints": generating,
        "packs": [
            f"{one.pack}: {one.rows} rows in {one.shards} shards" for one in packs if one.shards
        ],
        "outside": [*places, *unreached, *OUTSIDE],
    }


def find_near(
    tx: Transaction, fingerprints: Sequence[bytes], selected: TakedownScope
) -> list[dict[str, Any]]:
    """Return the samples and candidates that nearly show one of some images, the nearest first.

    Args:
        tx: The transaction.
        fingerprints: Fingerprints of the images.
        selected: What is selected already.

    Returns:
        For each its id, kind, number of differing bits, and layers by role.
    """
    bits: dict[str, int] = {}
    for one in fingerprints:
        for name, count in find_all_near(tx, one).items():
            bits[name] = min(count, bits.get(name, count))
    rows: dict[uuid.UUID, dict[str, Any]] = {}
    for kind, table, owner, ids in (
        ("sample", sample_layers, sample_layers.c.sample_id, selected.samples),
        ("candidate", candidate_layers, candidate_layers.c.candidate_id, selected.candidates),
    ):
        query = sa.select(owner, table.c.sha256).where(table.c.sha256.in_(sorted(bits)))
        for id_, name in tx.execute(query):
            if id_ not in ids:
                row = rows.setdefault(id_, {"id": id_.hex, "kind": kind, "bits": 999})
                row["bits"] = min(row["bits"], bits[name])
                row["layers"] = _layers(tx, table, owner, id_)
    return sorted(rows.values(), key=lambda row: (row["bits"], row["id"]))


def _count_rows(tx: Transaction, found: TakedownScope) -> dict[str, Any]:
    states: dict[str, int] = {}
    counted = {"gold": 0, "captions": 0, "embeddings": 0, "in_review": 0, "labeling_tasks": 0}
    for block in blocks(found.candidates):
        chosen = candidates.c.id.in_(block)
        query = sa.select(candidates.c.state, sa.func.count()).where(chosen)
        for state, count in tx.execute(query.group_by(candidates.c.state)):
            states[state] = states.get(state, 0) + count
        for name, column in (
            ("gold", gold.c.candidate_id),
            ("embeddings", embeddings.c.candidate_id),
            ("in_review", leases.c.subject),
            ("labeling_tasks", labeling_tasks.c.candidate_id),
        ):
            counted[name] += _count(tx, column, block)
    for block in blocks(found.samples):
        counted["captions"] += _count(tx, captions.c.sample_id, block)
    return {"candidate_states": states} | counted


def _count(tx: Transaction, column: sa.ColumnElement[Any], ids: Collection[uuid.UUID]) -> int:
    return int(tx.scalar(sa.select(sa.func.count()).where(column.in_(ids))))


def _rounds_of(tx: Transaction, affected: Affected) -> list[int]:
    """Return the rounds that are not closed and that a tainted checkpoint generates."""
    generated = rounds.c.checkpoint_id.in_(affected.checkpoints)
    query = sa.select(rounds.c.id).where(generated, rounds.c.state != RoundState.closed)
    return list(tx.execute(query.order_by(rounds.c.id)).scalars())


def _labeling_places(tx: Transaction, ids: Iterable[uuid.UUID]) -> list[str]:
    servers: set[str] = set()
    for block in blocks(ids):
        query = (
            sa.select(labeling_projects.c.server_url)
            .join(labeling_tasks, labeling_tasks.c.project_id == labeling_projects.c.id)
            .where(labeling_tasks.c.candidate_id.in_(block))
        )
        servers |= set(tx.execute(query).scalars())
    return [
        f"tasks in Label Studio at {one}: the next synchronization removes them"
        for one in sorted(servers)
    ]


def _layers(tx: Transaction, table: sa.Table, owner: Any, id_: uuid.UUID) -> dict[LayerRole, str]:
    rows = tx.execute(sa.select(table.c.role, table.c.sha256).where(owner == id_))
    return {LayerRole(row.role): row.sha256 for row in rows}
