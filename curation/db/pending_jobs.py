"""Deduplication of queued jobs: an equal job is not sent again until a worker takes it."""

from __future__ import annotations

import logging
from collections.abc import Callable

import sqlalchemy as sa

from curation.db.engine import Database, Transaction
from curation.domain import Job, canonical_json
from curation.errors import LayerloopError

RESEND_AFTER_SECONDS = 60
"""Seconds after which a job that no worker took may be sent again: its message may be lost."""

log = logging.getLogger(__name__)


class DeduplicatingSender:
    """A sender for Database that sends a job unless an equal job is in the queue already.

    The queue may lose a message, so an entry expires. A duplicate message after that is ignored by
    the worker (`take`).

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
            # If the queue did not accept it, remove the entry, so that it can be sent again.
            if not self._send(job):
                with self._database.transaction() as tx:
                    take_pending(tx, job)
        except (LayerloopError, sa.exc.SQLAlchemyError) as error:
            log.warning("%s waits for the reconcile job: %s", job.name, error)


def take_pending(tx: Transaction, job: Job) -> bool:
    """Remove a job that a worker received from the table of pending jobs.

    Returns:
        Whether it was there; False for a duplicate message.
    """
    return bool(tx.execute(_TAKE, _row(job)).rowcount)


def _add(tx: Transaction, job: Job) -> bool:
    """Add a pending job; return False if an equal job is pending."""
    tx.execute(_ASYNCHRONOUS)
    return bool(tx.execute(_ENTER, _row(job) | {"seconds": RESEND_AFTER_SECONDS}).rowcount)


def _row(job: Job) -> dict[str, object]:
    return {"name": job.name, "args": canonical_json(list(job.args))}


# An entry that is lost in a power failure does no harm: the job is sent again.
_ASYNCHRONOUS = sa.text("set local synchronous_commit = off")

_ENTER = sa.text("""
    insert into pending_jobs (name, args) values (:name, :args)
    on conflict (name, args) do update set created_at = now()
    where pending_jobs.created_at < now() - make_interval(secs => :seconds)""")

_TAKE = sa.text("delete from pending_jobs where name = :name and args = :args")
