"""Database connections and transactions; only this module commits, and sends jobs afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

from curation.db.server_errors import connection_error, statement_error
from curation.domain import Job, JobName, canonical_json


def event_name(kind: str) -> str:
    """Return the name of a kind of event in webhooks: `round.closed` for "round closed"."""
    return kind.replace(" ", ".")


_LOG = sa.text("""
with event as (
    insert into events (actor, kind, subject, data) values (:actor, :kind, :subject, :data)
    returning id)
insert into webhook_deliveries (id, webhook_id, event_id, state)
select gen_random_uuid(), webhooks.id, event.id, 'pending' from event, webhooks
where webhooks.active and :name = any (webhooks.events)""").bindparams(
    sa.bindparam("data", type_=JSONB)
)


class Transaction:
    """A database transaction; the jobs enqueued in it are sent after the commit."""

    def __init__(self, connection: sa.Connection) -> None:
        self.connection = connection
        self.jobs: list[Job] = []

    def execute(
        self,
        statement: sa.Executable,
        rows: Sequence[dict[str, Any]] | dict[str, Any] | None = None,
    ) -> Any:
        """Execute a statement, as SQLAlchemy's `Connection.execute`."""
        return self.connection.execute(statement, rows)

    def scalar(self, statement: sa.Executable) -> Any:
        """Execute a statement, and return the first column of the first row, or None."""
        return self.connection.execute(statement).scalar()

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        """Roll back only the block if it raises, including the jobs enqueued in it."""
        jobs = list(self.jobs)
        try:
            with self.connection.begin_nested():
                yield
        except BaseException:
            self.jobs[:] = jobs
            raise

    def enqueue(self, name: JobName, *args: str | int) -> None:
        """Enqueue a job, which is sent after the commit; equal jobs are sent once.

        Args:
            name: Name of the job.
            *args: Its arguments.
        """
        job = Job(name, args)
        if job not in self.jobs:
            self.jobs.append(job)

    def log(self, actor: str, kind: str, subject: object, **data: Any) -> None:
        """Append an event to the event log, in this transaction.

        Args:
            actor: Name of the person or the program that acts.
            kind: Kind of the event, such as "checkpoint promoted".
            subject: The object that the event is about.
            **data: More data, as JSON.
        """
        row = {"actor": actor, "kind": kind, "subject": str(subject), "data": data}
        # In the same statement, a delivery is added for each webhook that subscribes to the event.
        deliveries = self.execute(_LOG, row | {"name": event_name(kind)})
        if deliveries.rowcount:
            self.enqueue(JobName.deliver_webhooks)


class Database:
    """A pool of connections to a PostgreSQL database.

    Args:
        address: URL of the database.
        send: Function that sends a job; it gets the jobs of every committed transaction.
    """

    def __init__(self, address: str, send: Callable[[Job], object] | None = None) -> None:
        self.engine = sa.create_engine(
            sa.make_url(address).set(drivername="postgresql+psycopg2"),
            # Detect connections that a restart of the server closed.
            pool_pre_ping=True,
            pool_size=8,
            max_overflow=24,
            json_serializer=canonical_json,
            executemany_mode="values_plus_batch",
        )
        self.send = send

    @contextmanager
    def transaction(self, *, repeatable_read: bool = False) -> Iterator[Transaction]:
        """Commit when the block ends, and roll back if it raises; then send the jobs.

        Args:
            repeatable_read: All statements see the same state of the database (REPEATABLE READ).

        Raises:
            Unreachable: The server does not answer, ended the connection, or has a full disk.
            Refused: The database's user lacks a permission.
        """
        with self._connection() as connection:
            if repeatable_read:
                connection.execution_options(isolation_level="REPEATABLE READ")
            tx = Transaction(connection)
            try:
                with connection.begin():
                    yield tx
            except sa.exc.DBAPIError as error:
                translated = statement_error(error)
                if translated is None:
                    raise
                raise translated from error
        # Jobs are sent only now, so that a worker never looks for rows that are not committed.
        if self.send is not None:
            for job in tx.jobs:
                self.send(job)

    def _connection(self) -> sa.Connection:
        try:
            return self.engine.connect()
        except sa.exc.OperationalError as error:
            raise connection_error(error, self.engine.url) from error

    def close(self) -> None:
        """Close every pooled connection."""
        self.engine.dispose()
