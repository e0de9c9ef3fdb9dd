"""PGMQ, the message queue inside PostgreSQL, installed by plain SQL where no extension can be."""

from __future__ import annotations

import psycopg
from pgmq.install import PGMQInstallError, get_embedded_install_sql, install_pgmq_sql

from curation.errors import LayerloopError, Unreachable

LOCK = 7_201_114  # any number, always the same: two instances that start at once install one after the other


def install_pgmq(address: str) -> None:
    """Install PGMQ's schema into the database at `address` unless it is there; safe to repeat, alone or together.

    Raises Unreachable where no server answers, LayerloopError where the user may not create a schema.
    """
    try:
        with psycopg.connect(address, autocommit=True, connect_timeout=10) as connection:
            connection.execute(
                "select pg_advisory_lock(%s)", (LOCK,)
            )  # let go when the connection closes
            if connection.execute("select to_regclass('pgmq.meta')").fetchone() == (None,):
                install_pgmq_sql(get_embedded_install_sql(), conn=connection)
    except psycopg.OperationalError as error:
        raise Unreachable(
            f"the database does not answer: {error}", "start it, then try again"
        ) from error
    except PGMQInstallError as error:
        raise LayerloopError(
            f"the queue cannot be installed in the database: {error}",
            "let the database's user create schemas, or set LAYERLOOP_QUEUE to amqp://... or redis://...",
        ) from error
