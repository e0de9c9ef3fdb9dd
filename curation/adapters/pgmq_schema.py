"""Installation of PGMQ, the message queue inside PostgreSQL, by plain SQL without an extension."""

from __future__ import annotations

import psycopg
from pgmq.install import PGMQInstallError, get_embedded_install_sql, install_pgmq_sql

from curation.db.advisory_locks import AdvisoryLock
from curation.errors import LayerloopError, Unreachable


def install_pgmq(address: str) -> None:
    """Install PGMQ's schema if it is missing; concurrent and repeated calls are safe.

    Args:
        address: URL of the database.

    Raises:
        Unreachable: The server does not answer.
        LayerloopError: The database's user may not create a schema.
    """
    try:
        with psycopg.connect(address, autocommit=True, connect_timeout=10) as connection:
            # The lock is released when the connection closes.
            connection.execute("select pg_advisory_lock(%s)", (int(AdvisoryLock.install_queue),))
            if connection.execute("select to_regclass('pgmq.meta')").fetchone() == (None,):
                install_pgmq_sql(get_embedded_install_sql(), conn=connection)
    except psycopg.OperationalError as error:
        raise Unreachable(
            f"the database does not answer: {error}", "start it, then try again"
        ) from error
    except PGMQInstallError as error:
        raise LayerloopError(
            f"the queue cannot be installed in the database: {error}",
            "allow the database's user to create schemas, or set LAYERLOOP_QUEUE to "
            "amqp://... or redis://...",
        ) from error
