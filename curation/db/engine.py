"""Database connections and transactions; the only module that commits, and it sends jobs after the commit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa

from curation.db.tables import events
from curation.domain import Job, canonical_json
from curation.errors import Unreachable


class Transaction:
    """One unit of work: what is executed in it is kept whole or not at all, and jobs asked for leave after that."""

    def __init__(self, connection: sa.Connection) -> None:
        self.connection = connection
        self.jobs: list[Job] = []

    def execute(
        self,
        statement: sa.Executable,
        rows: Sequence[dict[str, Any]] | dict[str, Any] | None = None,
    ) -> Any:
        """SQLAlchemy's own `execute`."""
        return self.connection.execute(statement, rows)

    def scalar(self, statement: sa.Executable) -> Any:
        """The first column of the first row, or None."""
        return self.connection.execute(statement).scalar()

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        """Undo what is executed within the block, and nothing else, where the block raises."""
        jobs = list(self.jobs)
        try:
            with self.connection.begin_nested():
                yield
        except BaseException:
            self.jobs[:] = jobs
            raise

    def ask(self, name: str, *args: str | int) -> None:
        """Ask for a job once this transaction is durable; equal jobs of one transaction are one."""
        job = Job(name, args)
        if job not in self.jobs:
            self.jobs.append(job)

    def log(self, actor: str, kind: str, subject: object, **data: Any) -> None:
        """Append to the event log, in the same transaction as what it tells of."""
        row = {"actor": actor, "kind": kind, "subject": str(subject), "data": data}
        self.execute(sa.insert(events), row)


class Database:
    """A pool of connections to one PostgreSQL; `send` gets the jobs of every transaction that has been kept."""

    def __init__(self, address: str, send: Callable[[Job], object] | None = None) -> None:
        self.engine = sa.create_engine(
            sa.make_url(address).set(drivername="postgresql+psycopg2"),
            pool_pre_ping=True,  # a server that was restarted costs one ping, not one failed request
            pool_size=8,
            max_overflow=24,
            json_serializer=canonical_json,
            executemany_mode="values_plus_batch",
        )
        self.send = send

    @contextmanager
    def transaction(self, *, one_view: bool = False) -> Iterator[Transaction]:
        """Commit on leaving, roll back on any error. Raises Unreachable where no server answers.

        With `one_view` every statement sees the same moment of the database (REPEATABLE READ).
        """
        with self._connection() as connection:
            if one_view:
                connection = connection.execution_options(isolation_level="REPEATABLE READ")  # noqa: PLW2901  # same one
            tx = Transaction(connection)
            with connection.begin():
                yield tx
        if self.send is not None:
            for job in tx.jobs:
                self.send(job)

    def _connection(self) -> sa.Connection:
        try:
            return self.engine.connect()
        except sa.exc.OperationalError as error:
            where = self.engine.url.set(query={}).render_as_string(hide_password=True)
            raise Unreachable(
                f"the database at {where} does not answer",
                "start it, or run 'layerloop up' for the embedded one",
            ) from error

    def close(self) -> None:
        """Close every pooled connection."""
        self.engine.dispose()
