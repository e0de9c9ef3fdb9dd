"""Live worker processes: each records itself at every heartbeat, and is removed when it is lost."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY

from curation.db.engine import Transaction
from curation.db.tables import workers
from curation.db.time_spans import seconds

HEARTBEAT_SECONDS = 5
"""Seconds between two heartbeats of a worker."""

LOST_AFTER_SECONDS = 30
"""Seconds without a heartbeat after which a worker counts as lost."""


class WorkerState(StrEnum):
    """The state of a worker process."""

    idle = "idle"
    busy = "busy"
    paused = "paused"  # it does not claim some kind of work for a while; `reason` has the cause
    draining = "draining"  # it claims nothing more, and ends


@dataclass(frozen=True)
class WorkerProcess:
    """A worker process, as of its last heartbeat.

    `id` is the holder of its leases, `queues` the queues whose work it claims, `reason` why it is
    paused, `job` what it does now, and `last_error` the last error of any of its jobs.
    """

    id: str
    host: str
    pid: int
    queues: Sequence[str]
    version: str
    state: WorkerState
    reason: str | None = None
    job: str | None = None
    last_error: str | None = None
    started_at: datetime | None = field(default=None, compare=False)
    seen_at: datetime | None = field(default=None, compare=False)


def record_worker(tx: Transaction, worker: WorkerProcess) -> None:
    """Add a worker, or update what it does now; the database's clock sets both times.

    Args:
        tx: The transaction.
        worker: The worker.
    """
    tx.execute(_ASYNCHRONOUS)
    row = worker.__dict__ | {"queues": list(worker.queues)}
    tx.execute(_RECORD, row)


def list_live_workers(tx: Transaction, queue: str | None = None) -> list[WorkerProcess]:
    """Return the workers that had a heartbeat within LOST_AFTER_SECONDS, oldest first.

    Args:
        tx: The transaction.
        queue: Only workers of this queue; None for all.
    """
    wanted = sa.select(workers).where(_IS_LIVE)
    if queue is not None:
        wanted = wanted.where(workers.c.queues.contains([queue]))
    rows = tx.execute(wanted.order_by(workers.c.started_at, workers.c.id)).mappings()
    return [WorkerProcess(**dict(row) | {"state": WorkerState(row["state"])}) for row in rows]


def count_live_workers(tx: Transaction, queue: str) -> int:
    """Return the number of live workers of a queue that are neither paused nor draining."""
    working = (
        _IS_LIVE
        & workers.c.queues.contains([queue])
        & workers.c.state.in_((WorkerState.idle, WorkerState.busy))
    )
    return int(tx.scalar(sa.select(sa.func.count()).select_from(workers).where(working)))


def list_pauses(tx: Transaction) -> list[str]:
    """Return what live workers pause and why, each once, without the details of the errors."""
    reasons = sa.select(workers.c.reason).where(_IS_LIVE, workers.c.reason.is_not(None))
    pauses = (
        ": ".join(_PAUSE_SECONDS.sub("", pause).split(": ")[:2])
        for reason in tx.execute(reasons.order_by(workers.c.id)).scalars()
        for pause in str(reason).split("; ")
    )
    return list(dict.fromkeys(pauses))


def remove_worker(tx: Transaction, id_: str) -> None:
    """Remove a worker that ends."""
    tx.execute(sa.delete(workers).where(workers.c.id == id_))


def remove_lost_workers(tx: Transaction) -> int:
    """Remove workers without a heartbeat, and return their number; their leases expire alone."""
    return int(tx.execute(sa.delete(workers).where(~_IS_LIVE)).rowcount)


# The seconds differ between workers that pause for one reason.
_PAUSE_SECONDS = re.compile(r" for \d+ s(?=:)")

_IS_LIVE = workers.c.seen_at > sa.func.now() - seconds(LOST_AFTER_SECONDS)

# A heartbeat that is lost in a power failure does no harm: the next one follows soon.
_ASYNCHRONOUS = sa.text("set local synchronous_commit = off")

_RECORD = sa.text("""
    insert into workers (id, host, pid, queues, version, state, reason, job, last_error)
    values (:id, :host, :pid, :queues, :version, :state, :reason, :job, :last_error)
    on conflict (id) do update set state = excluded.state, reason = excluded.reason,
        job = excluded.job, last_error = excluded.last_error, queues = excluded.queues,
        seen_at = now()""").bindparams(sa.bindparam("queues", type_=ARRAY(sa.Text)))
