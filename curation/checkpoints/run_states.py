"""Saved states of training runs: which files of the object store hold them, and which are kept."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from curation.db.engine import Transaction
from curation.db.tables import leases, run_states, training_runs
from curation.errors import Conflict


@dataclass(frozen=True)
class SavedState:
    """The saved state of a stage of a run: the sha256 of each of its files by name."""

    stage: str
    images: int
    files: Mapping[str, str]
    size: int  # in bytes


def record_state(tx: Transaction, run: uuid.UUID, holder: str, state: SavedState) -> None:
    """Record a saved state whose files are in the object store; the call is idempotent.

    A paused or cancelled run may still be given the last state of its worker.

    Args:
        tx: The transaction.
        run: Id of the run.
        holder: Name of the worker.
        state: The state.

    Raises:
        Conflict: Another worker has the lease of the run.
    """
    check_not_taken(tx, run, holder)
    row = {
        "run_id": run,
        "stage": state.stage,
        "images": state.images,
        "files": dict(state.files),
        "bytes": state.size,
    }
    # The files of a damaged state are replaced by those of the same state, saved again.
    upsert = insert(run_states).values(row)
    upsert = upsert.on_conflict_do_update(
        index_elements=["run_id", "stage", "images"],
        set_={"files": upsert.excluded.files, "bytes": upsert.excluded.bytes},
    )
    tx.execute(upsert)
    # A run that advances begins to count its outages anew.
    tx.execute(sa.update(training_runs).where(training_runs.c.id == run).values(outages=0))


def list_states(tx: Transaction, run: uuid.UUID) -> list[SavedState]:
    """Return the saved states of a run, by stage, the newest of each first."""
    query = sa.select(run_states).where(run_states.c.run_id == run)
    rows = tx.execute(query.order_by(run_states.c.stage, run_states.c.images.desc())).mappings()
    return [_read(row) for row in rows]


def prune_states(
    tx: Transaction, run: uuid.UUID, keep_newest: int, keep_every_images: int
) -> set[str]:
    """Delete the rows of states that need not be kept.

    Of each stage the newest are kept, and the first state in each interval of images.

    Args:
        tx: The transaction.
        run: Id of the run.
        keep_newest: Number of newest states of a stage to keep; 0 for a run that has finished.
        keep_every_images: Length of the intervals in images; 0 keeps only the newest states.

    Returns:
        The sha256 of the files that no saved state of any run has any more.
    """
    states = list_states(tx, run)
    removed = []
    for stage in {state.stage for state in states}:
        own = [state for state in states if state.stage == stage]
        removed += _superseded(own, keep_newest, keep_every_images)
    for state in removed:
        tx.execute(
            sa.delete(run_states).where(
                run_states.c.run_id == run,
                run_states.c.stage == state.stage,
                run_states.c.images == state.images,
            )
        )
    released = {sha256 for state in removed for sha256 in state.files.values()}
    return released - _named(tx, released)


def check_not_taken(tx: Transaction, run: uuid.UUID, holder: str) -> None:
    """Raise Conflict if another worker has the lease of a run."""
    other = sa.select(leases.c.holder).where(leases.c.subject == run, leases.c.holder != holder)
    if tx.scalar(other):
        raise Conflict(f"run {run} was taken over by another worker")


def _superseded(
    newest_first: Sequence[SavedState], keep_newest: int, keep_every_images: int
) -> list[SavedState]:
    """Return the states of a stage that are neither among the newest nor first in an interval."""
    removed, last_interval = [], 0
    for state in reversed(newest_first[keep_newest:]):  # from the oldest
        interval = state.images // keep_every_images if keep_every_images else 0
        if interval == last_interval:
            removed.append(state)
        last_interval = interval
    return removed


def _named(tx: Transaction, hashes: set[str]) -> set[str]:
    """Return those of the hashes that the saved states of any run name."""
    if not hashes:
        return set()
    values = sa.func.jsonb_each_text(run_states.c.files).table_valued("key", "value")
    query = sa.select(values.c.value).select_from(run_states.join(values, sa.true()))
    return set(tx.execute(query.where(values.c.value.in_(hashes))).scalars())


def _read(row: Mapping[str, Any]) -> SavedState:
    return SavedState(row["stage"], row["images"], row["files"], row["bytes"])
