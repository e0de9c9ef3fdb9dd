"""The metadata of all tables, and the columns and checks that many of them share."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa

metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

SHA = sa.String(64)


def created_at() -> sa.Column[datetime]:
    """Return the column of the time at which a row was added, by the database's clock."""
    return sa.Column(
        "created_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()
    )


def one_of(column: str, words: type) -> sa.CheckConstraint:
    """Return the check that a column holds a value of a StrEnum."""
    # Every StrEnum is iterable.
    listed = ", ".join(f"'{word}'" for word in words)  # type: ignore[attr-defined]
    return sa.CheckConstraint(f"{column} in ({listed})", name=column)
