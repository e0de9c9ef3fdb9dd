"""Metrics and log lines of training runs, in batches of rows."""

from __future__ import annotations

import math
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from curation.checkpoints.run_states import check_not_taken
from curation.db.engine import Transaction
from curation.db.tables import run_logs, run_metrics

Point = tuple[int, dict[str, float]]
"""The metrics of a step, by name, after the images seen."""

LOG_BATCHES = 200
"""Batches of log lines that are read at a time."""


@dataclass(frozen=True)
class LogBatch:
    """Some log lines of one worker, with the position after which to read on."""

    id: int
    worker: str
    text: str


def append_metrics(
    tx: Transaction, run: uuid.UUID, holder: str, stage: str, points: Sequence[Point]
) -> None:
    """Append metrics of a stage; they replace earlier points from their first image on.

    Args:
        tx: The transaction.
        run: Id of the run.
        holder: Name of the worker.
        stage: Name of the stage.
        points: The points, by rising images.

    Raises:
        Conflict: Another worker has the lease of the run.
    """
    check_not_taken(tx, run, holder)
    row = {"run_id": run, "stage": stage, "points": [list(point) for point in points]}
    tx.execute(sa.insert(run_metrics), row)


def append_log(tx: Transaction, run: uuid.UUID, worker: str, lines: Sequence[str]) -> None:
    """Append log lines of a worker."""
    row = {"run_id": run, "worker": worker, "text": "\n".join(lines)}
    tx.execute(sa.insert(run_logs), row)


def read_log(tx: Transaction, run: uuid.UUID, after: int = 0) -> list[LogBatch]:
    """Return log lines of a run in order.

    Args:
        tx: The transaction.
        run: Id of the run.
        after: Position after which to read: the id of a batch, or 0.

    Returns:
        At most LOG_BATCHES batches.
    """
    query = (
        sa.select(run_logs.c.id, run_logs.c.worker, run_logs.c.text)
        .where(run_logs.c.run_id == run, run_logs.c.id > after)
        .order_by(run_logs.c.id)
        .limit(LOG_BATCHES)
    )
    return [LogBatch(row.id, row.worker, row.text) for row in tx.execute(query)]


def last_log_id(tx: Transaction, run: uuid.UUID, batches: int) -> int:
    """Return the position after which the last batches of log lines begin."""
    query = (
        sa.select(run_logs.c.id)
        .where(run_logs.c.run_id == run)
        .order_by(run_logs.c.id.desc())
        .offset(batches)
        .limit(1)
    )
    return int(tx.scalar(query) or 0)


def read_curves(
    tx: Transaction, run: uuid.UUID, max_points: int
) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """Return the curve of each metric by stage, each as (images, mean of an interval).

    Args:
        tx: The transaction.
        run: Id of the run.
        max_points: Largest number of points of a curve; neighboring steps are averaged.
    """
    curves: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for stage, points in _read_points(tx, run).items():
        names = sorted({name for _, metrics in points for name in metrics})
        curves[stage] = {
            name: _downsample([(at, m[name]) for at, m in points if name in m], max_points)
            for name in names
        }
    return curves


def _read_points(tx: Transaction, run: uuid.UUID) -> dict[str, list[Point]]:
    """Return the points of each stage, without those that a resumed run has replaced."""
    query = sa.select(run_metrics.c.stage, run_metrics.c.points).where(run_metrics.c.run_id == run)
    points: dict[str, list[Point]] = {}
    for stage, batch in tx.execute(query.order_by(run_metrics.c.id)):
        own = points.setdefault(stage, [])
        while own and batch and own[-1][0] >= batch[0][0]:
            own.pop()
        own += [(int(images), metrics) for images, metrics in batch]
    return points


def _downsample(curve: list[tuple[int, float]], max_points: int) -> list[tuple[int, float]]:
    """Average neighboring points until at most `max_points` remain."""
    size = max(1, math.ceil(len(curve) / max_points))
    return [
        (part[-1][0], sum(value for _, value in part) / len(part)) for part in _parts(curve, size)
    ]


def _parts(curve: list[tuple[int, float]], size: int) -> Iterator[list[tuple[int, float]]]:
    for start in range(0, len(curve), size):
        yield curve[start : start + size]
