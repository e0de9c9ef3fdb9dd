"""What was made from the samples of a takedown: snapshots, trainings and checkpoints."""

from __future__ import annotations

import re
import uuid
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import sqlalchemy as sa

from curation.checkpoints.registry import cancel_run
from curation.datasets.blocked import exclude_writers
from curation.datasets.manifest import read_manifest, read_part, snapshot_objects
from curation.db.engine import Database, Transaction
from curation.db.tables import checkpoints, run_states, snapshots, training_runs
from curation.domain import RunState
from curation.ports import ObjectStore
from curation.takedown.marking import add_items, read_items

_TOKEN = re.compile(rb"[0-9a-f]{64}|[0-9a-f]{32}")


@dataclass(frozen=True)
class Affected:
    """What samples went into.

    Attributes:
        snapshots: Ids of snapshots that hold one of the samples.
        checkpoints: Ids of checkpoints trained on one of these, or continued from such a one.
        runs: Ids of trainings of these snapshots that have no checkpoint.
    """

    snapshots: tuple[str, ...] = ()
    checkpoints: tuple[str, ...] = ()
    runs: tuple[uuid.UUID, ...] = ()


def find_touched(
    database: Database, store: ObjectStore, ids: Collection[str], layers: Collection[str]
) -> tuple[str, ...]:
    """Return the intact snapshots that hold one of some samples, or name one of their layers.

    Args:
        database: The database.
        store: Store of the snapshots.
        ids: Ids of samples, as hex digits.
        layers: Names of layers.
    """
    if not ids and not layers:
        return ()
    intact = sa.select(snapshots.c.id).where(
        snapshots.c.taken_down_by.is_(None), snapshots.c.samples > 0
    )
    with database.transaction() as tx:
        # Freezes that began before are finished then; later ones see what was withdrawn.
        exclude_writers(tx)
        frozen = sorted(tx.execute(intact).scalars())
    wanted, names = frozenset(ids), frozenset(layers)
    seen: dict[str, bool] = {}
    return tuple(one for one in frozen if _holds(store, one, wanted, names, seen))


def find_affected(tx: Transaction, touched: Collection[str]) -> Affected:
    """Return what was made from touched snapshots.

    Args:
        tx: The transaction.
        touched: Ids of the snapshots.
    """
    return Affected(tuple(touched), tuple(sorted(_trained_on(tx, touched))), _runs_of(tx, touched))


def mark_affected(database: Database, store: ObjectStore, takedown: uuid.UUID, actor: str) -> None:
    """Record the snapshots, checkpoints and runs that a takedown concerns.

    Checkpoints are tainted and lose their sample grids, which may show removed images. Runs are
    cancelled, and lose their saved states.

    Args:
        database: The database.
        store: Store of the snapshots.
        takedown: Id of the takedown.
        actor: Name of the person.
    """
    ids = read_items(database, takedown, "sample")
    touched = find_touched(database, store, ids, read_items(database, takedown, "object"))
    if not touched:
        return
    with database.transaction() as tx:
        # Runs first: a run that ends at this moment has a checkpoint by then, or none at all.
        runs = _runs_of(tx, touched)
        for run in runs:
            cancel_run(tx, run, actor)
        affected = Affected(touched, tuple(sorted(_trained_on(tx, touched))), runs)
        add_items(tx, takedown, "snapshot", touched)
        add_items(tx, takedown, "checkpoint", affected.checkpoints)
        add_items(tx, takedown, "run", map(str, runs))
        add_items(tx, takedown, "object", _objects_of(tx, affected))
        chosen = checkpoints.c.id.in_(affected.checkpoints)
        tx.execute(sa.update(checkpoints).where(chosen).values(sample_grid=None))
        tainting = sa.update(checkpoints).where(chosen, checkpoints.c.tainted_by.is_(None))
        values = {"tainted_by": takedown, "promoted_at": None}
        for row in tx.execute(tainting.values(values).returning(checkpoints.c.id)).all():
            tx.log(actor, "checkpoint tainted", row.id, takedown=str(takedown))
        tx.execute(sa.delete(run_states).where(run_states.c.run_id.in_(runs)))


def _holds(
    store: ObjectStore,
    snapshot: str,
    ids: frozenset[str],
    layers: frozenset[str],
    seen: dict[str, bool],
) -> bool:
    """Return whether an object of a snapshot tells of the samples; each object is read once."""
    parts = {part.sha256: part for part in read_manifest(store, snapshot).parts}
    for name in snapshot_objects(store, snapshot):
        if name not in seen:
            part = parts.get(name)
            if part is not None:
                near = any(one.startswith(part.prefix) for one in ids)
                seen[name] = near and any(one.id in ids for one in read_part(store, part))
            else:
                # Other lists are of lines too, and name samples or layers by their hashes.
                tokens = {one.decode() for one in _TOKEN.findall(store.get(name))}
                seen[name] = not tokens.isdisjoint(ids | layers)
        if seen[name]:
            return True
    return False


def _trained_on(tx: Transaction, touched: Collection[str]) -> set[str]:
    query = sa.select(checkpoints.c.id, checkpoints.c.snapshot_id, checkpoints.c.parent_id)
    rows = list(tx.execute(query))
    tainted = {row.id for row in rows if row.snapshot_id in touched}
    children: Mapping[str, list[str]] = _children(rows)
    queue = list(tainted)
    while queue:
        new = [one for one in children.get(queue.pop(), ()) if one not in tainted]
        tainted.update(new)
        queue += new
    return tainted


def _children(rows: Iterable[sa.Row[tuple[str, str | None, str | None]]]) -> dict[str, list[str]]:
    children: dict[str, list[str]] = {}
    for row in rows:
        if row.parent_id is not None:
            children.setdefault(row.parent_id, []).append(row.id)
    return children


def _runs_of(tx: Transaction, touched: Collection[str]) -> tuple[uuid.UUID, ...]:
    on_it = training_runs.c.snapshot_id.in_(touched) | training_runs.c.previous_id.in_(touched)
    query = sa.select(training_runs.c.id).where(on_it, training_runs.c.state != RunState.finished)
    return tuple(tx.execute(query.order_by(training_runs.c.id)).scalars())


def _objects_of(tx: Transaction, affected: Affected) -> set[str]:
    """Return the sample grids and saved states that are removed."""
    grids = sa.select(checkpoints.c.sample_grid).where(
        checkpoints.c.id.in_(affected.checkpoints), checkpoints.c.sample_grid.is_not(None)
    )
    states = sa.select(run_states.c.files).where(run_states.c.run_id.in_(affected.runs))
    names = set(tx.execute(grids).scalars())
    return names.union(*(files.values() for files in tx.execute(states).scalars()))
