"""Rows of training and captioning runs: find, list and cancel."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from curation.db import leases
from curation.db.engine import Transaction
from curation.db.id_prefixes import has_prefix
from curation.db.paging import read_page
from curation.domain import RunState
from curation.errors import NotFound


def find_run(tx: Transaction, table: sa.Table, run: uuid.UUID, kind: str) -> dict[str, Any]:
    """Return the row of a run.

    Args:
        tx: The transaction.
        table: The table of its kind of runs.
        run: Id of the run.
        kind: The kind in words, for the error.

    Raises:
        NotFound: The run does not exist.
    """
    row = tx.execute(sa.select(table).where(table.c.id == run)).mappings().first()
    if row is None:
        raise NotFound(f"there is no {kind} run {run}")
    return dict(row)


def list_runs(
    tx: Transaction, table: sa.Table, limit: int = 0, before: Mapping[str, Any] | None = None
) -> list[dict[str, Any]]:
    """Return the rows of runs of a table, newest first.

    Args:
        tx: The transaction.
        table: The table of its kind of runs.
        limit: Largest number of rows; 0 returns all.
        before: Only runs older than this row of a run.
    """
    # A row of another table of runs has a place in this one too.
    place = None if before is None else (before["created_at"], before["id"])
    order = [table.c.created_at, table.c.id]
    return read_page(tx, sa.select(table), order, limit=limit, after=place)


def find_runs(tx: Transaction, table: sa.Table, prefix: str, limit: int) -> list[dict[str, Any]]:
    """Return the rows of runs whose id begins with a prefix (`has_prefix`).

    Args:
        tx: The transaction.
        table: The table of its kind of runs.
        prefix: The first digits of the id.
        limit: The largest number of rows.
    """
    query = sa.select(table).where(has_prefix(table.c.id, prefix)).limit(limit)
    return [dict(row) for row in tx.execute(query).mappings()]


def cancel_run(tx: Transaction, table: sa.Table, run: uuid.UUID, actor: str) -> bool:
    """Cancel a run that is requested, running or paused, and delete its lease.

    Without its lease the worker gets a Conflict at its next report of progress.

    Args:
        tx: The transaction.
        table: The table of its kind of runs.
        run: Id of the run.
        actor: Name of the person, for the row.

    Returns:
        Whether the run was requested, running or paused.
    """
    active = (table.c.id == run) & table.c.state.in_(
        [RunState.requested, RunState.running, RunState.paused]
    )
    cancelled = {
        "state": RunState.cancelled,
        "error": f"cancelled by {actor}",
        "finished_at": sa.func.now(),
    }
    if not tx.execute(sa.update(table).where(active).values(cancelled)).rowcount:
        return False
    leases.delete_leases(tx, [run])
    return True
