"""Several APIs of one instance, each with a home of its own, accept each other's sessions."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

from curation.db import secrets
from curation.db.engine import Database
from curation.domain import Role
from curation.errors import Refused
from curation.review import reviewers
from curation.runtime.context import open_context
from curation.settings import Settings
from tests.support.servers import free_port, wait_for

COMMAND = [sys.executable, "-m", "curation.cli.main"]


@contextmanager
def serving(settings: Settings) -> Iterator[str]:
    """Yield the address of an API process."""
    settings = settings.model_copy(update={"port": free_port()})
    process = subprocess.Popen(
        [*COMMAND, "api"], env=settings.environment(), stderr=subprocess.PIPE, text=True
    )
    url = f"http://127.0.0.1:{settings.port}"

    def answers() -> bool:
        assert process.poll() is None, process.stderr and process.stderr.read()
        try:
            return httpx.get(f"{url}/api/live").is_success
        except httpx.TransportError:
            return False

    try:
        wait_for("the API", answers)
        yield url
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)


def on(database_address: str, home: Path, **given: object) -> Settings:
    return Settings(home=home, database=database_address, **given)


@pytest.mark.slow
def test_two_apis_with_homes_of_their_own_share_sessions(
    database_address: str, database: Database, tmp_path: Path
) -> None:
    with database.transaction() as tx:
        ada = reviewers.add_reviewer(tx, "ada", Role.admin)
        token = reviewers.issue_token(tx, ada, 5)
    with ExitStack() as stack:
        one, two = (
            stack.enter_context(serving(on(database_address, tmp_path / name)))
            for name in ("one", "two")
        )
        with httpx.Client(headers={"X-Layerloop": "1"}) as browser:
            assert browser.post(f"{one}/api/session", json={"token": token}).status_code == 200
            cookies = {cookie.name: str(cookie.value) for cookie in browser.cookies.jar}
        for url in (one, two):
            assert httpx.get(f"{url}/api/me", cookies=cookies).json()["name"] == "ada"


@pytest.mark.slow
def test_an_api_with_another_secret_does_not_start(database_address: str, tmp_path: Path) -> None:
    with serving(on(database_address, tmp_path / "one", secret="a" * 32)):
        for command in (["api", "--port", "0"], ["worker"]):
            other = on(database_address, tmp_path / "two", secret="b" * 32).environment()
            done = subprocess.run(
                [*COMMAND, *command],
                env=other,
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            assert done.returncode == 2
            assert "is not the secret with which the other processes" in done.stderr
            assert re.search("hint:.*reset-secret", done.stderr, re.DOTALL)


def test_the_secret_of_a_home_is_kept_when_the_instance_stands_on_a_server(
    settings: Settings, tmp_path: Path
) -> None:
    former = settings.signing_secret()
    with open_context(settings) as context:
        assert context.signing_secret() == former
    with open_context(settings.model_copy(update={"home": tmp_path / "other"})) as context:
        assert context.signing_secret() == former
        assert not (tmp_path / "other" / "secret").exists()


def test_processes_with_and_without_the_setting_notice_each_other(database: Database) -> None:
    with database.transaction() as tx:
        secrets.check_secret(tx, "a" * 32)
        with pytest.raises(Refused, match="which is not set"):
            secrets.shared_secret(tx, "b" * 32)
        assert secrets.reset_secret(tx)
        assert secrets.shared_secret(tx, "b" * 32) == "b" * 32
        secrets.check_secret(tx, "b" * 32)
        with pytest.raises(Refused, match="is not the secret"):
            secrets.check_secret(tx, "a" * 32)
