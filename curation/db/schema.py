"""Migrations of the database schema, and the checks whether code, tables and revisions agree.

Alembic is imported only to migrate: every command checks the revision when it starts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa

from curation import __version__
from curation.db.advisory_locks import AdvisoryLock, lock
from curation.db.engine import Database, Transaction
from curation.errors import Refused

if TYPE_CHECKING:
    from alembic.config import Config


class SchemaMismatch(Refused):
    """The schema of the database is not the one that this version of the code needs."""


@dataclass(frozen=True)
class SchemaState:
    """The revision of a database, and the revisions that this version knows."""

    # None for a database without tables.
    revision: str | None
    newest: str
    # Revisions that an upgrade would apply, oldest first.
    pending: tuple[str, ...]
    # Whether the revision is unknown, so that a newer version has upgraded the database.
    newer: bool

    @property
    def current(self) -> bool:
        """Whether the database has the newest revision."""
        return self.revision == self.newest


def migrate(database: Database, revision: str | None = None) -> None:
    """Migrate the database to the newest revision, or back to an older one.

    Concurrent calls run one after the other.

    Args:
        database: The database.
        revision: An older revision, for a downgrade.
    """
    from alembic import command

    with database.transaction() as tx:
        lock(tx, AdvisoryLock.migrate)
        config = _config()
        config.attributes["connection"] = tx.connection
        command.downgrade(config, revision) if revision else command.upgrade(config, "head")


def upgrade(database: Database) -> SchemaState:
    """Migrate the database to the newest revision, unless a newer version has upgraded it.

    Returns:
        The state before the upgrade.

    Raises:
        SchemaMismatch: The database has a revision that this version does not know.
    """
    with database.transaction() as tx:
        state = read_state(tx)
    if state.newer:
        raise _too_new(state)
    if not state.current:
        migrate(database)
    return state


def downgrade(database: Database, revision: str) -> None:
    """Migrate the database back to an older revision, or do nothing if it has that revision.

    Raises:
        SchemaMismatch: This version does not know the revision.
    """
    with database.transaction() as tx:
        state = read_state(tx)
    if revision not in _chain():
        raise _too_new(replace(state, revision=revision))
    if revision != state.revision:
        migrate(database, revision)


def read_state(tx: Transaction) -> SchemaState:
    """Return the state of the schema."""
    has_table = tx.scalar(sa.text("select to_regclass('alembic_version') is not null"))
    revision = tx.scalar(sa.text("select version_num from alembic_version")) if has_table else None
    chain = _chain()
    newer = revision is not None and revision not in chain
    applied = chain.index(revision) + 1 if revision is not None and not newer else 0
    return SchemaState(revision, chain[-1], () if newer else chain[applied:], newer)


def check(database: Database) -> None:
    """Check that the schema is the one that this version needs; one short query.

    Raises:
        SchemaMismatch: It is older or newer, or the database has no tables.
    """
    with database.transaction() as tx:
        state = read_state(tx)
    if state.newer:
        raise _too_new(state)
    if state.revision is None:
        raise SchemaMismatch("the database has no tables yet", "create them: layerloop db upgrade")
    if not state.current:
        raise SchemaMismatch(
            f"the database has schema {state.revision}, and version {__version__} of Layerloop "
            f"needs {state.newest}",
            "stop the other processes, make a backup, then run: layerloop db upgrade",
        )


def check_queue(database: Database) -> None:
    """Check that the queue PGMQ is installed in the database. Raises Refused if it is not."""
    with database.transaction() as tx:
        if tx.scalar(sa.text("select to_regclass('pgmq.meta')")) is None:
            raise Refused(
                "the queue is not installed in the database", "install it: layerloop db upgrade"
            )


def _too_new(state: SchemaState) -> SchemaMismatch:
    return SchemaMismatch(
        f"the database has schema {state.revision}, which version {__version__} of Layerloop does "
        f"not know (its newest is {state.newest}): a newer version has upgraded it",
        "install the version of Layerloop that the other machines use",
    )


def get_revisions(database: Database) -> tuple[str | None, str]:
    """Return the database's revision and the newest revision."""
    with database.transaction() as tx:
        state = read_state(tx)
    return state.revision, state.newest


def find_schema_drift(database: Database) -> list[object]:
    """Return the differences between the tables in code and in the database (`alembic check`)."""
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    from curation.db.tables import metadata

    with database.transaction() as tx:
        return list(compare_metadata(MigrationContext.configure(tx.connection), metadata))


@cache
def _chain() -> tuple[str, ...]:
    """Return the revisions from the first to the newest, as the files name their predecessors."""
    following: dict[str | None, str] = {}
    for file in (_migrations() / "versions").glob("*.py"):
        words = dict(re.findall(r"^(\w+) = (.+)$", file.read_text("utf-8"), re.MULTILINE))
        previous = words["down_revision"].strip("\"'")
        following[None if previous == "None" else previous] = words["revision"].strip("\"'")
    chain: list[str] = []
    while (revision := following.get(chain[-1] if chain else None)) is not None:
        chain.append(revision)
    return tuple(chain)


def _config() -> Config:
    from alembic.config import Config

    config = Config()
    # The config format interpolates %, which a folder's name may contain.
    config.set_main_option("script_location", str(_migrations()).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def _migrations() -> Path:
    """Return the folder of the revisions, in an installed wheel or in a checkout."""
    package = Path(str(resources.files("curation")))
    installed = package / "_migrations"
    return installed if installed.is_dir() else package.parent / "migrations"
