"""Registry of checkpoints and training runs: requests, progress, results and promotion."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from curation.checkpoints.taint import find_taint, refuse_tainted, refuse_taken_down
from curation.db import leases, runs
from curation.db.engine import Transaction
from curation.db.paging import find_place, read_page
from curation.db.tables import checkpoints, training_runs
from curation.domain import Checkpoint, JobName, Progress, RunState, TrainingRequest
from curation.errors import Conflict, NotFound


def request_training(tx: Transaction, request: TrainingRequest, actor: str) -> uuid.UUID:
    """Record a training run and enqueue its job.

    An equal request is the same run; it is resumed if it had failed or was cancelled.

    Args:
        tx: The transaction.
        request: The training request.
        actor: Name of the person, for the event log.

    Returns:
        The id of the run.

    Raises:
        TakenDown: Samples of its snapshot were taken down, or it begins with a tainted checkpoint.
    """
    refuse_taken_down(tx, request.snapshot, request.previous)
    if request.parent is not None:
        refuse_tainted(tx, request.parent.id)
    row = {
        "id": request.id,
        "recipe": request.recipe,
        "preset": request.preset,
        "snapshot_id": request.snapshot,
        "previous_id": request.previous,
        "parent_id": request.parent.id if request.parent else None,
        "seed": request.seed,
        "images": request.images,
        "changes": dict(request.changes),
        "state": RunState.requested,
    }
    # The id is derived from the request, so that an equal request conflicts with its row.
    if tx.execute(insert(training_runs).on_conflict_do_nothing(), row).rowcount:
        tx.log(
            actor,
            "training ordered",
            f"run {request.id}",
            recipe=request.recipe,
            snapshot=request.snapshot,
        )
    # Request a run again if it failed, or was cancelled or paused.
    resumable = (training_runs.c.id == request.id) & training_runs.c.state.in_(
        [RunState.failed, RunState.cancelled, RunState.paused]
    )
    again = {"state": RunState.requested, "error": None, "outages": 0, "retry_at": None}
    tx.execute(sa.update(training_runs).where(resumable).values(again | {"finished_at": None}))
    tx.enqueue(JobName.train, str(request.id))
    return request.id


def claim_run(
    tx: Transaction, run: uuid.UUID, holder: str, seconds: int, machines: int = 1
) -> TrainingRequest | None:
    """Claim a requested run under a lease, unless it waits after an outage.

    Args:
        tx: The transaction.
        run: Id of the run.
        holder: Name of the worker.
        seconds: Time until the lease expires.
        machines: Number of machines that train the run together.

    Returns:
        The training request; None if the run is done, waits or runs elsewhere.
    """
    due = training_runs.c.retry_at.is_(None) | (training_runs.c.retry_at <= sa.func.now())
    claiming = (
        sa.update(training_runs)
        .where(training_runs.c.id == run, training_runs.c.state == RunState.requested, due)
        .values(
            state=RunState.running,
            started_at=sa.func.coalesce(training_runs.c.started_at, sa.func.now()),
            attempts=training_runs.c.attempts + 1,
            machines=machines,
            error=None,
            retry_at=None,
        )
    )
    # Only one worker changes the state; the others find no row.
    if not tx.execute(claiming).rowcount:
        return None
    leases.claim(tx, [run], "train", holder, seconds)
    return get_training_request(tx, run)


def get_training_request(tx: Transaction, run: uuid.UUID) -> TrainingRequest:
    """Return the training request of a run. Raises NotFound."""
    row = find_run(tx, run)
    parent = find_checkpoint(tx, row["parent_id"]) if row["parent_id"] else None
    return TrainingRequest(
        recipe=row["recipe"],
        preset=row["preset"],
        snapshot=row["snapshot_id"],
        previous=row["previous_id"],
        parent=parent,
        seed=row["seed"],
        images=row["images"],
        changes=row["changes"],
    )


def record_progress(
    tx: Transaction, run: uuid.UUID, holder: str, progress: Progress, seconds: int
) -> None:
    """Record the progress of a run and renew its lease.

    Args:
        tx: The transaction.
        run: Id of the run.
        holder: Name of the worker.
        progress: The progress.
        seconds: Time from now until the lease expires.

    Raises:
        Conflict: The worker lost the lease.
    """
    if run not in leases.renew(tx, holder, "train", seconds):
        raise Conflict(f"run {run} was paused, cancelled or taken over by another worker")
    tx.execute(
        sa.update(training_runs).where(training_runs.c.id == run).values(progress=asdict(progress))
    )


def finish_run(tx: Transaction, run: uuid.UUID, holder: str, checkpoint: Checkpoint) -> None:
    """Register the checkpoint of a finished run, and release the run.

    Args:
        tx: The transaction.
        run: Id of the run.
        holder: Name of the worker.
        checkpoint: The trained checkpoint.

    Raises:
        Conflict: The worker lost the lease.
    """
    release_run(tx, run, holder)
    register_checkpoint(tx, checkpoint, actor=f"run {run}")
    finished = {
        "state": RunState.finished,
        "checkpoint_id": checkpoint.id,
        "finished_at": sa.func.now(),
        "error": None,
    }
    tx.execute(sa.update(training_runs).where(training_runs.c.id == run).values(finished))


def fail_run(tx: Transaction, run: uuid.UUID, holder: str, error: str) -> None:
    """Record that a run failed, and release it; an equal request resumes it.

    Args:
        tx: The transaction.
        run: Id of the run.
        holder: Name of the worker.
        error: The error message.

    Raises:
        Conflict: The worker lost the lease.
    """
    release_run(tx, run, holder)
    failed = {"state": RunState.failed, "error": error[:2_000], "finished_at": sa.func.now()}
    tx.execute(sa.update(training_runs).where(training_runs.c.id == run).values(failed))


def cancel_run(tx: Transaction, run: uuid.UUID, actor: str) -> bool:
    """Cancel a run that is requested or running.

    Its worker stops at the next report of progress, since the lease is deleted. The saved state is
    kept, and an equal request resumes from it.

    Args:
        tx: The transaction.
        run: Id of the run.
        actor: Name of the person, for the event log.

    Returns:
        Whether the run was requested or running.
    """
    if not runs.cancel_run(tx, training_runs, run, actor):
        return False
    tx.log(actor, "training cancelled", f"run {run}")
    return True


def find_run(tx: Transaction, run: uuid.UUID) -> dict[str, Any]:
    """Return the row of a run. Raises NotFound."""
    return runs.find_run(tx, training_runs, run, "training")


def list_runs(
    tx: Transaction, limit: int = 0, before: Mapping[str, Any] | None = None
) -> list[dict[str, Any]]:
    """Return the rows of training runs, newest first; see `curation.db.runs.list_runs`."""
    return runs.list_runs(tx, training_runs, limit, before)


def find_runs(tx: Transaction, prefix: str, limit: int) -> list[dict[str, Any]]:
    """Return training runs by the first digits of their id; see `curation.db.runs.find_runs`."""
    return runs.find_runs(tx, training_runs, prefix, limit)


def register_checkpoint(tx: Transaction, checkpoint: Checkpoint, actor: str) -> str:
    """Register a checkpoint whose files are in the store already; the call is idempotent.

    Args:
        tx: The transaction.
        checkpoint: The checkpoint.
        actor: Name of the person or run, for the event log.

    Returns:
        The id of the checkpoint.
    """
    row = {
        "id": checkpoint.id,
        "recipe": checkpoint.recipe,
        "preset": checkpoint.preset,
        "snapshot_id": checkpoint.snapshot,
        "parent_id": checkpoint.parent,
        "seed": checkpoint.seed,
        "code_version": checkpoint.code_version,
        "files": dict(checkpoint.files),
        "evaluation": dict(checkpoint.evaluation),
        "sample_grid": checkpoint.sample_grid,
        "changes": dict(checkpoint.changes),
        "tainted_by": find_taint(tx, checkpoint),
    }
    if tx.execute(insert(checkpoints).on_conflict_do_nothing(), row).rowcount:
        tx.log(actor, "checkpoint registered", checkpoint.id, snapshot=checkpoint.snapshot)
    return checkpoint.id


def promote_checkpoint(tx: Transaction, name: str, actor: str, *, tainted: bool = False) -> str:
    """Promote a checkpoint, so that it generates new rounds.

    Args:
        tx: The transaction.
        name: Id of the checkpoint, or its first eight or more digits.
        actor: Name of the person, for the event log.
        tainted: Whether samples that it was trained on may have been taken down.

    Returns:
        The id of the checkpoint.

    Raises:
        NotFound: There is no such checkpoint.
        TakenDown: Samples that it was trained on were taken down.
    """
    checkpoint = find_checkpoint(tx, name).id
    if not tainted:
        refuse_tainted(tx, checkpoint)
    # now() would be equal for all promotions of one transaction.
    newest = sa.func.clock_timestamp()
    tx.execute(
        sa.update(checkpoints).where(checkpoints.c.id == checkpoint).values(promoted_at=newest)
    )
    tx.log(actor, "checkpoint promoted", checkpoint)
    return checkpoint


def find_promoted_checkpoint(tx: Transaction) -> Checkpoint | None:
    """Return the checkpoint that was promoted last; None if none was."""
    latest = sa.select(checkpoints).where(checkpoints.c.promoted_at.is_not(None))
    row = tx.execute(latest.order_by(checkpoints.c.promoted_at.desc()).limit(1)).mappings().first()
    return _read(dict(row)) if row else None


def find_checkpoint(tx: Transaction, name: str) -> Checkpoint:
    """Return a checkpoint by its id or the first eight or more digits of it. Raises NotFound."""
    # The beginning of an id must be unambiguous.
    if len(name) >= 8:
        found = (
            sa.select(checkpoints)
            .where(checkpoints.c.id.startswith(name, autoescape=True))
            .limit(2)
        )
        rows = tx.execute(found).mappings().all()
        if len(rows) == 1:
            return _read(dict(rows[0]))
    raise NotFound(f"there is no checkpoint {name!r}", "'layerloop checkpoint list' shows them")


def list_checkpoints(
    tx: Transaction, limit: int = 0, after: str | None = None
) -> list[dict[str, Any]]:
    """Return the rows of checkpoints, newest first.

    Args:
        tx: The transaction.
        limit: The largest number; 0 for no limit.
        after: Id of the last checkpoint of the page before; None for the first page.

    Raises:
        NotFound: There is no checkpoint `after`.
    """
    order = [checkpoints.c.created_at, checkpoints.c.id]
    place = find_place(tx, order, after)
    return read_page(tx, sa.select(checkpoints), order, limit=limit, after=place)


def get_checkpoint_row(tx: Transaction, checkpoint: str) -> dict[str, Any]:
    """Return the row of a checkpoint that exists."""
    query = sa.select(checkpoints).where(checkpoints.c.id == checkpoint)
    return dict(tx.execute(query).mappings().one())


def record_metrics(tx: Transaction, checkpoint: str, metrics: dict[str, float], actor: str) -> None:
    """Add metrics of a later evaluation to a checkpoint; its id does not depend on them.

    Args:
        tx: The transaction.
        checkpoint: Id of the checkpoint.
        metrics: The metrics by name; they replace metrics of the same name.
        actor: Name of the person, for the event log.
    """
    row = tx.execute(
        sa.select(checkpoints.c.evaluation).where(checkpoints.c.id == checkpoint)
    ).one()
    merged = dict(row.evaluation) | metrics
    tx.execute(
        sa.update(checkpoints).where(checkpoints.c.id == checkpoint).values(evaluation=merged)
    )
    tx.log(actor, "checkpoint evaluated", checkpoint, **metrics)


def _read(row: dict[str, Any]) -> Checkpoint:
    return Checkpoint(
        files=row["files"],
        recipe=row["recipe"],
        preset=row["preset"],
        snapshot=row["snapshot_id"],
        parent=row["parent_id"],
        seed=row["seed"],
        code_version=row["code_version"],
        evaluation=row["evaluation"],
        sample_grid=row["sample_grid"],
        changes=row["changes"],
    )


def release_run(tx: Transaction, run: uuid.UUID, holder: str) -> None:
    """Delete the lease of a worker on a run; the caller sets the run's state. Raises Conflict."""
    # A lease of another holder means that the run was taken over.
    if not leases.release_held(tx, [run], "train", holder):
        raise Conflict(f"run {run} was paused, cancelled or taken over by another worker")
