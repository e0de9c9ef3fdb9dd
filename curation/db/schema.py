"""Migrations of the database schema, and the check whether tables and migrations agree."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from curation.db.engine import Database
from curation.db.tables import metadata

LOCK = 7_201_113
"""Number of the advisory lock that keeps two processes from migrating at the same time."""


def migrate(database: Database, revision: str | None = None) -> None:
    """Migrate the database to the newest revision, or back to an older one.

    Args:
        database: The database.
        revision: An older revision, for a downgrade.
    """
    with database.transaction() as tx:
        tx.connection.exec_driver_sql(f"select pg_advisory_xact_lock({LOCK})")
        config = _config()
        config.attributes["connection"] = tx.connection
        command.downgrade(config, revision) if revision else command.upgrade(config, "head")


def get_revisions(database: Database) -> tuple[str | None, str | None]:
    """Return the database's revision and the newest revision."""
    with database.transaction() as tx:
        return MigrationContext.configure(tx.connection).get_current_revision(), _newest()


def find_schema_drift(database: Database) -> list[object]:
    """Return the differences between the tables in code and in the database (`alembic check`)."""
    with database.transaction() as tx:
        return list(compare_metadata(MigrationContext.configure(tx.connection), metadata))


def _newest() -> str | None:
    return ScriptDirectory.from_config(_config()).get_current_head()


def _config() -> Config:
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
