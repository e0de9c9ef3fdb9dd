"""Shared fixtures: a real PostgreSQL, a fresh migrated database, object stores, brokers and Chromium.

Fixtures import their modules late: a test file that uses none of them starts without PostgreSQL's client, Celery and
Playwright, which take longer than many tests.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Playwright

    from curation.db.engine import Database
    from curation.object_store import FolderStore
    from curation.settings import Settings
    from tests.support import servers

CHROMIUM_ARGUMENTS = [
    "--no-sandbox",
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--disable-background-networking",
]
SHARED = Path(
    os.environ.get("LAYERLOOP_TEST_SHARED") or Path(__file__).resolve().parents[1].parent / "shared"
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run files with slow tests first, so that no process waits for them at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session", autouse=True)
def hide_environment_settings() -> Iterator[None]:
    """Hide a developer's own LAYERLOOP_* variables from every test; LAYERLOOP_TEST_* stay."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [
            n
            for n in os.environ
            if n.startswith("LAYERLOOP_") and not n.startswith("LAYERLOOP_TEST_")
        ]:
            patch.delenv(name)
        yield


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder of real images beside the checkout."""
    if not SHARED.is_dir():
        pytest.skip("the folder 'shared' with real images is not beside this checkout")
    return SHARED


@pytest.fixture(scope="session")
def postgres_address() -> Iterator[str]:
    """Yield the address of a server: LAYERLOOP_TEST_DATABASE, or an embedded one for this run."""
    from curation.adapters import embedded_postgres

    address = os.environ.get("LAYERLOOP_TEST_DATABASE")
    if address:
        yield address
        return
    with _open_folder() as folder:
        address = embedded_postgres.start_server(folder)
        _disable_fsync(address)
        yield address


@pytest.fixture
def postgres_folder() -> Iterator[Path]:
    """Yield an empty folder for an embedded server of one test, which is stopped at the end."""
    with _open_folder() as folder:
        yield folder


@pytest.fixture(scope="session")
def template_database(postgres_address: str) -> Iterator[str]:
    """Yield the name of a migrated database with a queue, the template of the other databases."""
    from curation.adapters.pgmq_schema import install_pgmq
    from curation.db.engine import Database
    from curation.db.schema import migrate
    from tests.support.factories import fresh_database, with_database
    from tests.support.transaction_guard import no_object_is_read_in_a_transaction

    with fresh_database(postgres_address) as name, no_object_is_read_in_a_transaction():
        address = with_database(postgres_address, name)
        database = Database(address)
        migrate(database)
        database.close()
        install_pgmq(address)
        yield name


@pytest.fixture
def database_address(postgres_address: str, template_database: str) -> Iterator[str]:
    """Yield the address of a migrated, empty database for one test."""
    from tests.support.factories import fresh_database, with_database

    with fresh_database(postgres_address, template_database) as name:
        yield with_database(postgres_address, name)


@pytest.fixture
def database(database_address: str) -> Iterator[Database]:
    """Yield a migrated, empty database; requested jobs are not sent unless the test sets `database.send`."""
    from curation.db.engine import Database

    database = Database(database_address)
    yield database
    database.close()


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    """Return an empty object store."""
    from curation.object_store import FolderStore

    return FolderStore(tmp_path / "objects")


@pytest.fixture
def settings(tmp_path: Path, database_address: str) -> Settings:
    """Return the settings of an instance in a temporary folder on this test's own database."""
    from curation.settings import Settings

    return Settings(home=tmp_path / "home", database=database_address)


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.S3Server]:
    """Yield a real S3 server on loopback (radosgw) for the whole run."""
    from tests.support import servers

    with servers.radosgw(tmp_path_factory.mktemp("ceph")) as server:
        yield server


@pytest.fixture
def s3_credentials(
    s3_server: servers.S3Server, monkeypatch: pytest.MonkeyPatch
) -> servers.S3Server:
    """Return the server, with its credentials where boto3's own chain finds them."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3_server.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3_server.secret_key)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    return s3_server


@pytest.fixture(scope="session")
def rabbitmq_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Yield the address of RabbitMQ on loopback: the machine's, or a server of this run."""
    from tests.support import servers

    with servers.rabbitmq(tmp_path_factory.mktemp("rabbitmq")) as address:
        yield address


@pytest.fixture(scope="session")
def redis_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Yield the address of Redis on loopback: the machine's, or a server of this run."""
    from tests.support import servers

    with servers.redis(tmp_path_factory.mktemp("redis")) as address:
        yield address


@pytest.fixture(scope="session")
def chromium() -> str:
    """Return the path of a Chromium."""
    from tests.support import servers

    commands = [
        os.environ.get("LAYERLOOP_TEST_CHROMIUM", ""),
        "chromium",
        "chromium-browser",
        "google-chrome",
    ]
    found = next((path for name in commands if name and (path := shutil.which(name))), None)
    if found is None:
        servers.missing(
            "Chromium", "apt-get install chromium, or name one in LAYERLOOP_TEST_CHROMIUM"
        )
    return str(found)


@pytest.fixture(scope="session")
def playwright() -> Iterator[Playwright]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        yield driver


@pytest.fixture(scope="session")
def browser(playwright: Playwright, chromium: str) -> Iterator[Browser]:
    browser = playwright.chromium.launch(executable_path=chromium, args=CHROMIUM_ARGUMENTS)
    yield browser
    browser.close()


@contextmanager
def _open_folder() -> Iterator[Path]:
    from curation.adapters import embedded_postgres

    # Not below pytest's folder: each run restricts that to its own user, which is not the server's.
    folder = Path(tempfile.mkdtemp(prefix="layerloop-test-"))
    try:
        yield folder
    finally:
        embedded_postgres.stop_server(folder)
        shutil.rmtree(folder, ignore_errors=True)


def _disable_fsync(server: str) -> None:
    """Do not wait for the disk: a test run creates and drops hundreds of databases."""
    import sqlalchemy as sa

    engine = sa.create_engine(
        server.replace("postgresql:", "postgresql+psycopg2:"), isolation_level="AUTOCOMMIT"
    )
    with engine.connect() as connection:
        for setting in ("fsync", "full_page_writes", "synchronous_commit"):
            connection.exec_driver_sql(f"alter system set {setting} = off")
        connection.exec_driver_sql("select pg_reload_conf()")
    engine.dispose()
