"""The queue of training runs: claims by priority, pauses, retries and outages of the instance."""

from __future__ import annotations

import uuid
from collections.abc import Collection
from typing import Any

import sqlalchemy as sa

from curation.checkpoints import registry
from curation.checkpoints.taint import refuse_taken_down
from curation.db import leases, time_spans
from curation.db.engine import Transaction
from curation.db.tables import leases as held
from curation.db.tables import training_runs as runs
from curation.domain import JobName, RunState, TrainingRequest
from curation.errors import Conflict

MAX_OUTAGES = 12
"""Outages since the last saved state after which a run fails: about 40 minutes."""
FIRST_WAIT_SECONDS = 5
LONGEST_WAIT_SECONDS = 300
MAX_PRIORITY = 1_000
"""The largest priority of a run; the smallest is its negative."""

DUE = runs.c.retry_at.is_(None) | (runs.c.retry_at <= sa.func.now())
"""The condition that a run does not wait after an outage."""


def list_claimable(tx: Transaction, limit: int | None = None) -> list[uuid.UUID]:
    """Return the ids of requested runs that do not wait, in the order in which they are claimed.

    Args:
        tx: The transaction.
        limit: Largest number of runs; None returns all.
    """
    query = sa.select(runs.c.id).where(runs.c.state == RunState.requested, DUE)
    return [row.id for row in tx.execute(query.order_by(*_order()).limit(limit))]


def claim_next(
    tx: Transaction, holder: str, seconds: int, machines: int = 1
) -> TrainingRequest | None:
    """Claim the requested run with the largest priority, the oldest among equals.

    Args:
        tx: The transaction.
        holder: Name of the worker.
        seconds: Time until the lease expires.
        machines: Number of machines that train it together.

    Returns:
        The training request; None if no run is claimable.
    """
    # Rows that another worker is claiming are skipped, so that two workers claim two runs.
    query = (
        sa.select(runs.c.id)
        .where(runs.c.state == RunState.requested, DUE)
        .order_by(*_order())
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    run = tx.scalar(query)
    return None if run is None else registry.claim_run(tx, run, holder, seconds, machines)


def find_shared_run(tx: Transaction, machines: int) -> tuple[TrainingRequest, int] | None:
    """Return a run that this number of machines is training together, and its attempt's number.

    Args:
        tx: The transaction.
        machines: Number of machines.
    """
    query = (
        sa.select(runs.c.id, runs.c.attempts)
        .join(held, held.c.subject == runs.c.id)
        .where(runs.c.state == RunState.running, runs.c.machines == machines)
        .where(held.c.expires_at > sa.func.now())
        .order_by(runs.c.started_at.desc())
    )
    row = tx.execute(query.limit(1)).first()
    return (registry.get_training_request(tx, row.id), row.attempts) if row else None


def postpone_run(tx: Transaction, run: uuid.UUID, holder: str, reason: str) -> bool:
    """Release a run after an outage of the instance, so that any worker tries it again later.

    The waits double from FIRST_WAIT_SECONDS to LONGEST_WAIT_SECONDS. After MAX_OUTAGES without a
    saved state in between, the run fails.

    Args:
        tx: The transaction.
        run: Id of the run.
        holder: Name of the worker.
        reason: The reason, in words.

    Returns:
        Whether the run will be tried again.

    Raises:
        Conflict: The worker lost the lease.
    """
    registry.release_run(tx, run, holder)
    outages = int(tx.scalar(sa.select(runs.c.outages).where(runs.c.id == run))) + 1
    will_retry = outages < MAX_OUTAGES
    wait = min(FIRST_WAIT_SECONDS * 2 ** (outages - 1), LONGEST_WAIT_SECONDS)
    values: dict[str, Any] = {
        "outages": outages,
        "state": RunState.requested,
        "error": f"{reason[:1_800]}; trying again after {wait} s (outage {outages} of at most "
        f"{MAX_OUTAGES})",
        "retry_at": sa.func.now() + time_spans.seconds(wait),
    }
    if not will_retry:
        values |= {
            "state": RunState.failed,
            "error": f"{reason[:1_800]}; given up after {outages} outages: remove the cause, then "
            "'layerloop run retry'",
            "retry_at": None,
            "finished_at": sa.func.now(),
        }
    tx.execute(sa.update(runs).where(runs.c.id == run).values(values))
    return will_retry


def pause_run(tx: Transaction, run: uuid.UUID, actor: str) -> None:
    """Pause a requested or running run.

    Its worker stops at the next report of progress; the work since the last saved state is
    repeated when the run is resumed.

    Args:
        tx: The transaction.
        run: Id of the run.
        actor: Name of the person, for the event log.

    Raises:
        Conflict: The run is neither requested nor running.
    """
    values = {"state": RunState.paused, "error": f"paused by {actor}", "retry_at": None}
    _change(tx, run, {RunState.requested, RunState.running}, values, "paused")
    leases.delete_leases(tx, [run])
    tx.log(actor, "training paused", f"run {run}")


def resume_run(tx: Transaction, run: uuid.UUID, actor: str) -> None:
    """Request a paused run again. Raises Conflict if it is not paused."""
    _request(tx, run, {RunState.paused}, "resumed")
    tx.log(actor, "training resumed", f"run {run}")


def retry_run(tx: Transaction, run: uuid.UUID, actor: str) -> None:
    """Request a failed or cancelled run again, or one that waits after an outage.

    It continues from its last saved state.

    Args:
        tx: The transaction.
        run: Id of the run.
        actor: Name of the person, for the event log.

    Raises:
        Conflict: The run is in another state.
    """
    states = {RunState.failed, RunState.cancelled, RunState.requested}
    _request(tx, run, states, "tried again")
    tx.log(actor, "training retried", f"run {run}")


def set_priority(tx: Transaction, run: uuid.UUID, priority: int, actor: str) -> None:
    """Set the priority of a run that has not ended; it applies when the run is claimed next.

    Args:
        tx: The transaction.
        run: Id of the run.
        priority: The priority, from -MAX_PRIORITY to MAX_PRIORITY.
        actor: Name of the person, for the event log.

    Raises:
        Conflict: The run has ended.
    """
    states = {RunState.requested, RunState.running, RunState.paused}
    _change(tx, run, states, {"priority": priority}, "given another priority")
    tx.log(actor, "training priority set", f"run {run}", priority=priority)


def _request(tx: Transaction, run: uuid.UUID, states: Collection[RunState], done: str) -> None:
    row = registry.find_run(tx, run)
    refuse_taken_down(tx, row["snapshot_id"], row["previous_id"])
    values = {
        "state": RunState.requested,
        "error": None,
        "outages": 0,
        "retry_at": None,
        "finished_at": None,
    }
    _change(tx, run, states, values, done)
    tx.enqueue(JobName.train, str(run))


def _change(
    tx: Transaction,
    run: uuid.UUID,
    states: Collection[RunState],
    values: dict[str, Any],
    done: str,
) -> None:
    """Change a run that is in one of some states. Raises NotFound, Conflict."""
    changed = sa.update(runs).where(runs.c.id == run, runs.c.state.in_(list(states)))
    if not tx.execute(changed.values(values)).rowcount:
        state = registry.find_run(tx, run)["state"]
        raise Conflict(
            f"run {run} is {state} and cannot be {done}",
            f"only runs that are {', '.join(sorted(states))} can",
        )


def _order() -> tuple[sa.ColumnElement[Any], ...]:
    return runs.c.priority.desc(), runs.c.created_at, runs.c.id
