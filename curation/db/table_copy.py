"""Rows of whole tables as text by PostgreSQL's COPY, with checksums that do not depend on order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import sqlalchemy as sa

from curation.db.engine import Transaction
from curation.db.tables import metadata

EXCLUDED_TABLES = frozenset({"instance_secrets", "pending_jobs", "workers"})
"""Tables that are not copied: those about running processes refill themselves, and a backup has no
secret that signs sessions."""

MIGRATION_TABLES = frozenset({"candidate_moves"})
"""Tables that a migration fills, so that they have rows in an empty instance."""

_SESSION = (
    "set local timezone = 'UTC'",
    "set local datestyle = 'ISO'",
    "set local intervalstyle = 'postgres'",
    "set local extra_float_digits = 1",
    "set local bytea_output = 'hex'",
)


class Reader(Protocol):
    """A source of bytes."""

    def read(self, size: int = -1, /) -> bytes:
        """Return at most `size` bytes; none at the end."""


class Writer(Protocol):
    """A sink for bytes."""

    def write(self, data: bytes, /) -> object:
        """Write bytes."""


def copied_tables() -> list[sa.Table]:
    """Return the tables that are copied, each after those that it refers to."""
    return [table for table in metadata.sorted_tables if table.name not in EXCLUDED_TABLES]


def copied_columns(table: sa.Table) -> list[str]:
    """Return the columns of a table that are copied; the server computes the others."""
    return [column.name for column in table.columns if column.computed is None]


def fix_formats(tx: Transaction) -> None:
    """Set formats of values that are the same on every server, for the rest of the transaction."""
    for statement in _SESSION:
        tx.connection.exec_driver_sql(statement)


def copy_out(tx: Transaction, table: str, columns: Sequence[str], target: Writer) -> None:
    """Write all rows of a table as COPY text.

    Args:
        tx: The transaction, after `fix_formats`.
        table: Name of the table.
        columns: Names of the columns.
        target: Receives the text.
    """
    _cursor(tx).copy_expert(_statement(table, columns, "to stdout"), target)


def copy_in(tx: Transaction, table: str, columns: Sequence[str], source: Reader) -> None:
    """Insert rows from COPY text; the inverse of `copy_out`.

    Args:
        tx: The transaction, after `fix_formats`.
        table: Name of the table.
        columns: Names of the columns.
        source: The text.
    """
    _cursor(tx).copy_expert(_statement(table, columns, "from stdin"), source)


def measure_table(tx: Transaction, table: str, columns: Sequence[str]) -> tuple[int, str]:
    """Return the number of rows of a table, and a checksum that does not depend on their order.

    Args:
        tx: The transaction, after `fix_formats`.
        table: Name of the table.
        columns: Names of the columns to include.
    """
    row = f"row({', '.join(_quote(name) for name in columns)})::text"
    query = (
        f"select count(*), coalesce(sum(('x' || substr(md5({row}), 1, 15))::bit(60)::bigint), 0) "
        f"from {_quote(table)}"
    )
    count, total = tx.connection.exec_driver_sql(query).one()
    return int(count), f"{int(total):x}"


def find_filled_table(tx: Transaction) -> str | None:
    """Return the name of a table that has rows, or None for an empty instance."""
    # An older revision lacks some of the tables.
    existing = set(sa.inspect(tx.connection).get_table_names())
    for table in copied_tables():
        if table.name in existing - MIGRATION_TABLES and tx.scalar(
            sa.select(sa.select(table).exists())
        ):
            return table.name
    return None


def prepare_tables(tx: Transaction, tables: Sequence[str]) -> None:
    """Truncate tables, and disable the triggers that would count or refuse copied rows."""
    tx.connection.exec_driver_sql(f"lock table {_quote_all(tables)} in access exclusive mode")
    for table in tables:
        tx.connection.exec_driver_sql(f"alter table {_quote(table)} disable trigger user")
    tx.connection.exec_driver_sql(f"truncate {_quote_all(tables)}")


def finish_tables(tx: Transaction, tables: Sequence[str]) -> None:
    """Enable the triggers again, and check deferred constraints."""
    tx.connection.exec_driver_sql("set constraints all immediate")
    for table in tables:
        tx.connection.exec_driver_sql(f"alter table {_quote(table)} enable trigger user")


def read_sequences(tx: Transaction) -> dict[str, int]:
    """Return the next number of each identity column, by `table.column`."""
    found = {}
    for table in copied_tables():
        for column in table.columns:
            if column.identity is None:
                continue
            sequence = _sequence(tx, table.name, column.name)
            last, called = tx.connection.exec_driver_sql(
                f"select last_value, is_called from {sequence}"
            ).one()
            found[f"{table.name}.{column.name}"] = int(last) + bool(called)
    return found


def set_sequences(tx: Transaction, next_numbers: dict[str, int]) -> None:
    """Set the next number of identity columns; the inverse of `read_sequences`."""
    for name, number in next_numbers.items():
        table, _, column = name.partition(".")
        sequence = _sequence(tx, table, column)
        tx.scalar(sa.select(sa.func.setval(sequence, number, sa.false())))


def is_replica(tx: Transaction) -> bool:
    """Return whether the server is a replica, which refuses writes."""
    return bool(tx.scalar(sa.select(sa.func.pg_is_in_recovery())))


def _sequence(tx: Transaction, table: str, column: str) -> str:
    return str(tx.scalar(sa.select(sa.func.pg_get_serial_sequence(_quote(table), column))))


def _statement(table: str, columns: Sequence[str], direction: str) -> str:
    listed = ", ".join(_quote(name) for name in columns)
    return f"copy {_quote(table)} ({listed}) {direction} with (format text, encoding 'UTF8')"


def _cursor(tx: Transaction) -> Any:
    # SQLAlchemy has no COPY; the cursor belongs to the driver.
    driver: Any = tx.connection.connection
    return driver.cursor()


def _quote_all(tables: Sequence[str]) -> str:
    return ", ".join(_quote(table) for table in tables)


def _quote(name: str) -> str:
    return f'"{name}"'
