"""What every test may ask for: a real PostgreSQL, a fresh migrated database, an object store."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from curation.adapters import embedded_postgres
from curation.adapters.pgmq_schema import install_pgmq
from curation.database import Database
from curation.objects import FolderStore
from curation.schema import migrate
from curation.settings import Settings

SHARED = Path(__file__).resolve().parents[1].parent / "shared"


def missing(what: str, how: str) -> None:
    """Skip a test for a part that this machine lacks and say how to get it; in CI a missing part is a failure."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{what} is missing here: {how}")
    pytest.skip(f"{what} is missing here: {how}")


@pytest.fixture(scope="session", autouse=True)
def no_settings_from_outside() -> Iterator[None]:
    """A developer's own LAYERLOOP_* variables never reach a test; LAYERLOOP_TEST_* are the tests' own."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [n for n in os.environ if n.startswith("LAYERLOOP_") and not n.startswith("LAYERLOOP_TEST_")]:
            patch.delenv(name)
        yield


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real images beside the checkout."""
    if not SHARED.is_dir():
        pytest.skip("the folder 'shared' with real images is not beside this checkout")
    return SHARED


@pytest.fixture(scope="session")
def postgres_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server for the whole run: LAYERLOOP_TEST_DATABASE, or an embedded one that ends with the run."""
    given = os.environ.get("LAYERLOOP_TEST_DATABASE")
    if given:
        yield given
        return
    folder = tmp_path_factory.mktemp("postgres")
    try:
        address = embedded_postgres.start(folder)
        _forget_durability(address)
        yield address
    finally:
        embedded_postgres.stop(folder)


@pytest.fixture(scope="session")
def template_database(postgres_address: str) -> Iterator[str]:
    """The name of a migrated database with a queue in it, which others are copied from."""
    with _fresh_database(postgres_address) as name:
        address = _named(postgres_address, name)
        database = Database(address)
        migrate(database)
        database.close()
        install_pgmq(address)
        yield name


@pytest.fixture
def database_address(postgres_address: str, template_database: str) -> Iterator[str]:
    """The address of a database of this test's own, migrated and empty."""
    with _fresh_database(postgres_address, template_database) as name:
        yield _named(postgres_address, name)


@pytest.fixture
def database(database_address: str) -> Iterator[Database]:
    """A migrated, empty database; jobs asked for stay unsent unless the test sets `database.send`."""
    database = Database(database_address)
    yield database
    database.close()


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    """An empty object store."""
    return FolderStore(tmp_path / "objects")


@pytest.fixture
def settings(tmp_path: Path, database_address: str) -> Settings:
    """The settings of a house in a temporary folder on this test's own database."""
    return Settings(home=tmp_path / "home", database=database_address)


class _fresh_database:  # noqa: N801  # reads as the context manager that it is
    """A database with a name of its own for as long as the block lasts."""

    def __init__(self, server: str, template: str = "template0") -> None:
        url = sa.make_url(server).set(drivername="postgresql+psycopg2")
        self.engine = sa.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
        self.template = template
        self.name = f"test_{uuid.uuid4().hex[:16]}"

    def __enter__(self) -> str:
        with self.engine.connect() as connection:
            # A file copy is a few times quicker here than a copy through the log, and nobody needs the log.
            connection.exec_driver_sql(f"create database {self.name} template {self.template}")
        return self.name

    def __exit__(self, *_: object) -> None:
        with self.engine.connect() as connection:
            connection.exec_driver_sql(f"drop database if exists {self.name} with (force)")


def _forget_durability(server: str) -> None:
    """Nothing of a test run is worth waiting for the disk: hundreds of databases are made and dropped."""
    engine = sa.create_engine(server.replace("postgresql:", "postgresql+psycopg2:"), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for setting in ("fsync", "full_page_writes", "synchronous_commit"):
            connection.exec_driver_sql(f"alter system set {setting} = off")
        connection.exec_driver_sql("select pg_reload_conf()")
    engine.dispose()


def _named(server: str, name: str) -> str:
    return sa.make_url(server).set(database=name).render_as_string(hide_password=False)
