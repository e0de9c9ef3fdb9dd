"""Looking for work in the database: a worker's next job, whether a message announced it or not."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Final

import sqlalchemy as sa

from curation.adapters.celery_queue import QUEUE_JOBS
from curation.checkpoints import run_queue
from curation.comparisons.drawing import next_to_draw
from curation.db import pending_jobs
from curation.db.engine import Transaction
from curation.db.tables import caption_runs
from curation.domain import Job, JobName, RunState
from curation.loops import rows
from curation.rounds import work

SESSION_SECONDS: Final = 30.0
"""Time after which a worker of rounds looks whether another round or kind of work is next."""


def find_job(tx: Transaction, queue: str) -> Job | None:
    """Return a job of a queue that has work, or None.

    It is only read, not claimed: the job claims its work, and ends at once if others were faster.
    Except for jobs whose message is overdue, which are taken.

    Args:
        tx: The transaction.
        queue: Name of the queue.
    """
    look = _LOOK.get(queue)
    found = look(tx) if look is not None else None
    return found or pending_jobs.take_overdue(tx, QUEUE_JOBS[queue])


def find_next_job(tx: Transaction, queues: Collection[str]) -> tuple[str, Job] | None:
    """Return the first job of some queues, with its queue.

    Args:
        tx: The transaction.
        queues: Names of the queues, in the order in which they are looked at.
    """
    for queue in queues:
        job = find_job(tx, queue)
        if job is not None:
            return queue, job
    return None


def _to_generate(tx: Transaction) -> Job | None:
    # A comparison is small, and people wait for it.
    comparison = next_to_draw(tx)
    if comparison is not None:
        return Job(JobName.draw_comparisons, (comparison,))
    found = work.next_to_generate(tx)
    return None if found is None else Job(JobName.generate, (found.round_id,))


def _to_screen(tx: Transaction) -> Job | None:
    found = work.next_to_screen(tx)
    return None if found is None else Job(JobName.screen, (found.round_id,))


def _to_screen_or_advance(tx: Transaction) -> Job | None:
    # A look at a loop is short, and what it begins occupies other workers.
    loop = rows.due_loop(tx)
    return _to_screen(tx) if loop is None else Job(JobName.advance_loop, (loop,))


def _to_train(tx: Transaction) -> Job | None:
    if claimable := run_queue.list_claimable(tx, 1):
        return Job(JobName.train, (str(claimable[0]),))
    requested = sa.select(caption_runs.c.id).where(caption_runs.c.state == RunState.requested)
    run = tx.scalar(requested.order_by(caption_runs.c.created_at).limit(1))
    return None if run is None else Job(JobName.caption, (str(run),))


_LOOK: Mapping[str, Callable[[Transaction], Job | None]] = {
    "generate": _to_generate,
    "train": _to_train,
    "screen": _to_screen_or_advance,
}

LOOKED_FOR = frozenset(_LOOK)
"""Queues whose work is found in the tables themselves."""
