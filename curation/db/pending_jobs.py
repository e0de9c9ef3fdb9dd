"""Jobs that wait in the queue: each is asked for once until a worker takes it, however often it is asked for."""

from __future__ import annotations

import logging
from collections.abc import Callable

import sqlalchemy as sa

from curation.db.engine import Database, Transaction
from curation.domain import Job, canonical_json
from curation.errors import LayerloopError

SECONDS = 60
"""A job that was not taken within so many seconds is asked for again: the queue may have lost its message."""

log = logging.getLogger(__name__)


class OncePending:
    """A sender for Database: sends a job unless an equal one waits already.

    The queue may lose a message, so an entry expires. What is in the queue twice after that is taken once.
    """

    def __init__(self, database: Database, send: Callable[[Job], bool]) -> None:
        """`send` returns whether the queue has taken the job."""
        self._database = database
        self._send = send

    def __call__(self, job: Job) -> None:
        """Send a job; never raises, since the transaction that asked for it has been kept already."""
        try:
            with self._database.transaction() as tx:
                if not _enter(tx, job):
                    return
            if not self._send(job):
                with self._database.transaction() as tx:
                    take(tx, job)
        except (LayerloopError, sa.exc.SQLAlchemyError) as error:
            log.warning("%s waits for the sweep: %s", job.name, error)


def take(tx: Transaction, job: Job) -> bool:
    """Take a job that a worker got; False where it was taken before and not asked for since."""
    return bool(tx.execute(_TAKE, _row(job)).rowcount)


def _enter(tx: Transaction, job: Job) -> bool:
    """Note that a job waits; False where it does already."""
    tx.execute(_ASYNCHRONOUS)
    return bool(tx.execute(_ENTER, _row(job) | {"seconds": SECONDS}).rowcount)


def _row(job: Job) -> dict[str, object]:
    return {"name": job.name, "args": canonical_json(list(job.args))}


# An entry that a power cut takes away costs nothing: the job is asked for again.
_ASYNCHRONOUS = sa.text("set local synchronous_commit = off")

_ENTER = sa.text("""
    insert into pending_jobs (name, args) values (:name, :args)
    on conflict (name, args) do update set at = now()
    where pending_jobs.at < now() - make_interval(secs => :seconds)""")

_TAKE = sa.text("delete from pending_jobs where name = :name and args = :args")
