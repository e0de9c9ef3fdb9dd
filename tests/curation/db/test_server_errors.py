"""Errors of real servers become one line with the server's own reason and a fitting hint."""

from __future__ import annotations

import os
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa

from curation.adapters import embedded_postgres
from curation.adapters.postgres_user import resolve_user_id, server_user
from curation.db.engine import Database
from curation.errors import LayerloopError, Refused, Unreachable
from curation.runtime.context import upgrade_database
from curation.settings import Settings
from tests.support.factories import fresh_database, with_database
from tests.support.servers import free_port


@contextmanager
def opened(address: str) -> Iterator[Database]:
    database = Database(address)
    try:
        yield database
    finally:
        database.close()


def error_of(address: str, statement: str = "select 1") -> LayerloopError:
    with opened(address) as database, pytest.raises(LayerloopError) as raised:
        with database.transaction() as tx:
            tx.connection.exec_driver_sql(statement)
    assert "\n" not in raised.value.message
    return raised.value


@pytest.fixture
def role(postgres_address: str) -> Iterator[str]:
    """Yield a user of the server without any permission."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(postgres_address, autocommit=True) as connection:
        connection.execute(f"create role {name} login password 'right-password'")
        yield name
        connection.execute(f"drop owned by {name}")
        connection.execute(f"drop role {name}")


def as_role(address: str, role: str, password: str = "right-password") -> str:
    url = sa.make_url(address).set(username=role, password=password)
    return url.render_as_string(hide_password=False)


def test_an_unreachable_server_is_unreachable() -> None:
    error = error_of(f"postgresql://bob:hush@127.0.0.1:{free_port()}/x")
    assert isinstance(error, Unreachable)
    assert "Connection refused" in error.message
    assert "hush" not in error.message + error.hint
    assert "start it" in error.hint


def test_an_unknown_host_is_unreachable() -> None:
    error = error_of("postgresql://nowhere.invalid/x")
    assert "host" in error.message
    assert "LAYERLOOP_DATABASE" in error.hint


def test_a_missing_database_is_named(postgres_address: str) -> None:
    error = error_of(with_database(postgres_address, "not_there"))
    assert 'database "not_there" does not exist' in error.message
    assert "createdb" in error.hint


def test_a_wrong_password_is_named(postgres_folder: Path) -> None:
    address = embedded_postgres.start_server(postgres_folder)
    rules = postgres_folder / "data" / "pg_hba.conf"
    with psycopg.connect(address, autocommit=True) as connection:
        connection.execute("create role bob login password 'right-password'")
        rules.write_text(f"local all bob scram-sha-256\n{rules.read_text()}")
        connection.execute("select pg_reload_conf()")
    with opened(as_role(address, "bob")) as database, database.transaction():
        pass
    error = error_of(as_role(address, "bob", "wrong-password"))
    assert 'password authentication failed for user "bob"' in error.message
    assert "wrong-password" not in error.message
    assert "%40" in error.hint


def test_a_missing_privilege_is_named(postgres_address: str, role: str, tmp_path: Path) -> None:
    with fresh_database(postgres_address) as name:
        address = as_role(with_database(postgres_address, name), role)
        for queue in ("embedded", "redis://127.0.0.1:1/0"):
            settings = Settings(home=tmp_path, database=address, queue=queue)
            with pytest.raises(Refused) as raised:
                upgrade_database(settings)
            assert "permission denied for schema public" in raised.value.message
            assert "grant" in raised.value.hint


def test_a_connection_that_is_cut_within_a_transaction_is_unreachable(
    database_address: str,
) -> None:
    with opened(database_address) as database, opened(database_address) as other:
        with pytest.raises(Unreachable) as raised:  # noqa: PT012
            with database.transaction() as tx:
                process = tx.connection.exec_driver_sql("select pg_backend_pid()").scalar()
                with other.transaction() as second:
                    second.connection.exec_driver_sql(f"select pg_terminate_backend({process})")
                tx.connection.exec_driver_sql("select 1")
        assert "ended the connection: " in raised.value.message
        assert "rolled back" in raised.value.hint
        with database.transaction() as tx:
            assert tx.connection.exec_driver_sql("select 1").scalar() == 1


def test_a_read_only_server_is_named(database_address: str) -> None:
    error = error_of(
        f"{database_address}{'&' if '?' in database_address else '?'}"
        "options=-c%20default_transaction_read_only%3Don",
        "create table t (a int)",
    )
    assert "read-only" in error.message
    assert "primary" in error.hint


def test_other_errors_stay_as_they_are(database: Database) -> None:
    with pytest.raises(sa.exc.ProgrammingError), database.transaction() as tx:
        tx.connection.exec_driver_sql("select * from no_such_table")


@pytest.fixture
def full_disk(postgres_address: str) -> Iterator[str]:
    """Yield the name of a tablespace on a file system of 4 MiB."""
    user = resolve_user_id(server_user(Path("/nonexistent")))
    folder = Path(f"/tmp/layerloop-test-{uuid.uuid4().hex[:8]}")
    mount = ["mount", "-t", "tmpfs", "-o", f"size=4m,mode=0700,uid={user}", "tmpfs"]
    folder.mkdir()
    if os.geteuid() != 0 or subprocess.run([*mount, str(folder)], check=False).returncode:
        folder.rmdir()
        pytest.skip("mounting a small file system needs root")
    name = f"test_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(postgres_address, autocommit=True) as connection:
        connection.execute(f"create tablespace {name} location '{folder}'")
        yield name
        connection.execute(f"drop tablespace {name}")
    subprocess.run(["umount", str(folder)], check=True)
    folder.rmdir()


def test_a_full_disk_is_named(postgres_address: str, full_disk: str) -> None:
    with fresh_database(postgres_address) as name:
        error = error_of(
            with_database(postgres_address, name),
            f"create table filling tablespace {full_disk} as select repeat('x', 900) || n as t "
            "from generate_series(1, 20000) n",
        )
        assert isinstance(error, Unreachable)
        assert "no space left" in error.message
        assert "free space" in error.hint
