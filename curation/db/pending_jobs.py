"""Deduplication of queued jobs: an equal job is not sent again until a worker takes it."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY

from curation.db.engine import Database, Transaction
from curation.domain import Job, JobName, canonical_json
from curation.errors import LayerloopError

OVERDUE_SECONDS = 3
"""Seconds after which an idle worker runs a job without its message, which may be lost."""

log = logging.getLogger(__name__)


class DeduplicatingSender:
    """A sender for Database that sends a job unless an equal job is in the queue already.

    A job is never sent twice before a worker takes it, however long all workers are busy. The queue
    may lose a message, so an idle worker also runs jobs whose message is overdue
    (`take_overdue`). A message that comes later is ignored by the worker (`take_pending`).

    Args:
        database: The database, which has the table of pending jobs.
        send: Function that sends a job, and returns whether the queue accepted it.
    """

    def __init__(self, database: Database, send: Callable[[Job], bool]) -> None:
        self._database = database
        self._send = send

    def __call__(self, job: Job) -> None:
        """Send a job; never raises, since the transaction that enqueued it is committed already."""
        try:
            with self._database.transaction() as tx:
                if not _add(tx, job):
                    return
            # If the queue does not accept it, a worker that looks for overdue jobs finds the entry.
            self._send(job)
        except (LayerloopError, sa.exc.SQLAlchemyError) as error:
            log.warning("%s waits for the reconcile job: %s", job.name, error)


def take_pending(tx: Transaction, job: Job) -> bool:
    """Remove a job that a worker received from the table of pending jobs.

    Returns:
        Whether it was there; False for a duplicate message.
    """
    return bool(tx.execute(_TAKE, _row(job)).rowcount)


def take_overdue(tx: Transaction, names: Collection[str]) -> Job | None:
    """Remove and return the job that has waited longest for its message, if one is overdue.

    Args:
        tx: The transaction.
        names: Names of the jobs that this worker runs.
    """
    params = {"names": list(names), "seconds": OVERDUE_SECONDS}
    row = tx.execute(_TAKE_OVERDUE, params).first()
    return None if row is None else Job(JobName(row.name), tuple(json.loads(row.args)))


def _add(tx: Transaction, job: Job) -> bool:
    """Add a pending job; return False if an equal job is pending."""
    tx.execute(_ASYNCHRONOUS)
    return bool(tx.execute(_ENTER, _row(job)).rowcount)


def _row(job: Job) -> dict[str, object]:
    return {"name": job.name, "args": canonical_json(list(job.args))}


# An entry that is lost in a power failure does no harm: the job is sent again.
_ASYNCHRONOUS = sa.text("set local synchronous_commit = off")

_ENTER = sa.text("""
    insert into pending_jobs (name, args) values (:name, :args)
    on conflict (name, args) do nothing""")

_TAKE = sa.text("delete from pending_jobs where name = :name and args = :args")

_TAKE_OVERDUE = sa.text("""
    delete from pending_jobs where (name, args) = (
        select name, args from pending_jobs
        where name = any(:names) and created_at < now() - make_interval(secs => :seconds)
        order by created_at limit 1 for update skip locked)
    returning name, args""").bindparams(sa.bindparam("names", type_=ARRAY(sa.Text)))
