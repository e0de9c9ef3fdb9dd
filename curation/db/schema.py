"""The schema's versions: bringing a database to the newest one, and telling whether tables and migrations agree."""

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

LOCK = 7_201_113  # any number, always the same: two instances that start at once migrate one after the other


def migrate(database: Database, to: str | None = None) -> None:
    """Bring the tables to the newest version, or back `to` an older one; one that is there already is left as it is."""
    with database.transaction() as tx:
        tx.connection.exec_driver_sql(f"select pg_advisory_xact_lock({LOCK})")
        config = _config()
        config.attributes["connection"] = tx.connection
        command.downgrade(config, to) if to else command.upgrade(config, "head")


def current(database: Database) -> tuple[str | None, str | None]:
    """The database's version and the newest one."""
    with database.transaction() as tx:
        return MigrationContext.configure(tx.connection).get_current_revision(), _newest()


def drift(database: Database) -> list[object]:
    """What the tables in code and in the database disagree about; empty when all is well (as `alembic check`)."""
    with database.transaction() as tx:
        return list(compare_metadata(MigrationContext.configure(tx.connection), metadata))


def _newest() -> str | None:
    return ScriptDirectory.from_config(_config()).get_current_head()


def _config() -> Config:
    config = Config()
    # In a file of ini format % begins an interpolation; a folder may have it in its name.
    config.set_main_option("script_location", str(_migrations()).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def _migrations() -> Path:
    """Return the folder of the revisions: `curation/_migrations` of a wheel, `migrations` of a checkout."""
    package = Path(str(resources.files("curation")))
    installed = package / "_migrations"
    return installed if installed.is_dir() else package.parent / "migrations"
