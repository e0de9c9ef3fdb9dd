"""Names of all objects that the database needs: the only source for garbage collection and checks.

A new column with names of objects is added to OBJECT_COLUMNS or OBJECT_MAPS, and a new kind of
object that names other objects to MANIFESTS; a test fails for a column that is in no list here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

import sqlalchemy as sa

from curation.datasets.manifest import snapshot_objects
from curation.db.engine import Database, Transaction
from curation.db.tables import (
    checkpoints,
    import_files,
    layers,
    run_states,
    snapshots,
    takedowns,
)
from curation.ports import ObjectStore

OBJECT_COLUMNS: tuple[sa.Column[str], ...] = (
    layers.c.sha256,
    import_files.c.layer,
    snapshots.c.id,
    checkpoints.c.sample_grid,
    takedowns.c.record,
)
"""Columns whose values are names of objects. Foreign keys to them need no entry."""

OBJECT_MAPS: tuple[sa.Column[Mapping[str, str]], ...] = (checkpoints.c.files, run_states.c.files)
"""JSON columns that map keys to names of objects."""

HASHES = frozenset(
    {
        "layers.visible",  # hash of the pixels
        "layer_bands.sha256",  # a layer, or one that was removed
        "samples.visible",
        "sign_in_tokens.hash",  # hashes of tokens
        "sessions.hash",
        "api_tokens.hash",
        "checkpoints.id",  # hash of the metadata
        "checkpoints.parent_id",
        # The snapshot of another instance, or a row of snapshots.
        "checkpoints.snapshot_id",
        "acceptance_models.id",  # hash of the parameters
        "event_seals.hash",  # hash of the event and of the seal before
        "blocked_layers.sha256",  # objects that were removed for ever
        "blocked_layers.visible",
        "takedowns.selector_hash",
        "takedowns.signature",
    }
)
"""Columns with a hash that names no object."""

PLAIN_JSON = frozenset(
    {
        "acceptance_models.metrics",
        "acceptance_models.parameters",
        "aggregations.skills",
        "candidates.origin",
        "caption_runs.progress",
        "checkpoints.changes",
        "checkpoints.evaluation",
        "events.data",
        "gates.metrics",
        "generation_settings.settings",
        "import_files.description",
        "kept_reports.report",
        "labeling_annotations.content",
        "loop_turns.gate",
        "loop_turns.guard",
        "loops.plan",
        "rounds.consensus",
        "rounds.gold",
        "rounds.policy",
        "rounds.steering",
        "run_metrics.points",
        "screenings.signals",
        "snapshots.counts",
        "snapshots.decisions",
        "snapshots.query",
        "snapshots.review",
        "takedowns.counts",
        "top_n_runs.metrics",
        "training_runs.changes",
        "training_runs.progress",
    }
)
"""JSON columns without names of objects."""


def named_objects(tx: Transaction, prefix: str = "") -> Iterator[str]:
    """Yield the name of every object that a row names; a name may occur more than once.

    Objects that are named only by other objects are yielded by `manifest_objects`.

    Args:
        tx: The transaction.
        prefix: Yield only names that begin with these hex digits.
    """
    for column in OBJECT_COLUMNS:
        query = sa.select(column).where(column.is_not(None))
        if column is snapshots.c.id:
            query = query.where(_INTACT)
        if prefix:
            # A range, which an index serves in any collation.
            query = query.where(column >= prefix, column < _successor(prefix))
        yield from tx.execute(query.execution_options(yield_per=10_000)).scalars()
    for mapped in OBJECT_MAPS:
        for names in tx.execute(sa.select(mapped)).scalars():
            yield from (name for name in names.values() if name.startswith(prefix))


def list_manifests(tx: Transaction) -> list[tuple[str, str]]:
    """Return the objects that name other objects, as pairs of a kind in MANIFESTS and a name."""
    return [
        (kind, name)
        for kind, (column, _) in MANIFESTS.items()
        for name in tx.execute(sa.select(column).where(_INTACT).order_by(column)).scalars()
    ]


def manifest_objects(store: ObjectStore, kind: str, name: str) -> Iterator[str]:
    """Yield the names of all objects that a manifest names.

    Args:
        store: The object store; it is read, so no transaction should be open.
        kind: The kind of the manifest, a key of MANIFESTS.
        name: The name of the manifest.

    Raises:
        NotFound: The manifest is not in the store.
        Corrupt: The manifest cannot be read.
    """
    yield from MANIFESTS[kind][1](store, name)


def all_named_objects(database: Database, store: ObjectStore) -> set[str]:
    """Return the names of all objects that rows and manifests name.

    Raises:
        NotFound: A manifest is not in the store.
        Corrupt: A manifest cannot be read.
    """
    with database.transaction(repeatable_read=True) as tx:
        named = set(named_objects(tx))
        manifests = list_manifests(tx)
    for kind, name in manifests:
        named.update(manifest_objects(store, kind, name))
    return named


_INTACT = snapshots.c.taken_down_by.is_(None)
"""The condition that the objects of a snapshot are kept: no takedown concerns it."""

MANIFESTS: Mapping[str, tuple[sa.Column[str], Callable[[ObjectStore, str], Iterable[str]]]] = {
    "snapshot": (snapshots.c.id, snapshot_objects)
}
"""By kind of manifest: the column that names manifests, and the function that reads one."""


def _successor(prefix: str) -> str:
    """Return the smallest string that is greater than all hex names with a prefix."""
    following = f"{int(prefix, 16) + 1:0{len(prefix)}x}"
    return following if len(following) == len(prefix) else "g"
