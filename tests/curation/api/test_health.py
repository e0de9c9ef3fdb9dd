"""Liveness and readiness: a process is live without its servers, and names those that are unreachable."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa
from fastapi.testclient import TestClient

from curation.api.app import create_app
from curation.db.engine import Database
from curation.object_store import FolderStore
from curation.runtime import health
from curation.runtime.context import open_context, upgrade_database
from curation.settings import Settings
from tests.curation.api.conftest import LOOPBACK
from tests.support.factories import fresh_database, with_database
from tests.support.servers import free_port


@pytest.fixture(autouse=True)
def always_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "CACHE_SECONDS", 0.0)


def test_an_instance_is_live_and_ready(client: TestClient, settings: Settings) -> None:
    with open_context(settings) as context:
        client = TestClient(create_app(context), base_url=LOOPBACK)
        assert client.get("/api/live").json()["status"] == "ok"
        answer = client.get("/api/ready")
    assert answer.status_code == 200
    parts = {"database": "ok", "store": "ok", "queue": "ok"}
    assert answer.json() == {"status": "ok", "parts": parts}


def test_it_lives_without_its_database_and_is_ready_when_it_returns(
    postgres_address: str, tmp_path: Path
) -> None:
    with fresh_database(postgres_address) as name:
        settings = Settings(
            home=tmp_path / "home",
            database=with_database(postgres_address, name),
            queue=f"redis://127.0.0.1:{free_port()}/0",
        )
        upgrade_database(settings)
        with open_context(settings) as context:
            client = TestClient(create_app(context), base_url=LOOPBACK)
            admin = Database(postgres_address)
            _allow_connections(admin, name, allowed=False)
            answer = client.get("/api/ready")
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
            parts = answer.json()["parts"]
            assert parts == {
                "database": "does not answer",
                "store": "ok",
                "queue": "does not answer",
            }
            assert client.get("/api/live").status_code == 200
            assert client.get("/api/health").status_code == 200
            refused = client.post("/api/session", json={"token": "x"}, headers={"x-layerloop": "1"})
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
            _allow_connections(admin, name, allowed=True)
            assert client.get("/api/ready").json()["parts"]["database"] == "ok"
            admin.close()


def _allow_connections(admin: Database, name: str, *, allowed: bool) -> None:
    """Let a database accept connections, or refuse them and end those that it has."""
    with admin.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql(f"alter database {name} allow_connections {allowed}")
        if not allowed:
            connection.exec_driver_sql(
                f"select pg_terminate_backend(pid) from pg_stat_activity where datname = '{name}'"
            )


def test_a_missing_folder_is_not_ready(settings: Settings) -> None:
    with open_context(settings) as context:
        readiness = health.Readiness(context)
        assert readiness.check()["store"] == "ok"
        assert isinstance(context.store, FolderStore)
        context.store.folder.rename(context.store.folder.with_name("away"))
        assert readiness.check()["store"] == "is misconfigured"


def test_tables_of_a_newer_version_are_reported_instead_of_an_internal_error(
    settings: Settings,
) -> None:
    with open_context(settings) as context:
        client = TestClient(create_app(context), base_url=LOOPBACK, raise_server_exceptions=False)
        with context.database.transaction() as tx:
            tx.execute(sa.text("alter table reviewers rename to people"))
        body = {"json": {"token": "x"}, "headers": {"x-layerloop": "1"}}
        assert client.post("/api/session", **body).status_code == 500, "a bug stays a bug"
        with context.database.transaction() as tx:
            tx.execute(sa.text("update alembic_version set version_num = '9999'"))
        answer = client.post("/api/session", **body)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "30")
        assert "upgraded" in answer.json()["error"]["message"]
        parts = client.get("/api/ready").json()["parts"]
        assert parts["database"] == "has the tables of another version"
