"""Commands of the schema: a server is upgraded only on request, and differing versions are reported."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.script import ScriptDirectory

from curation.cli.main import run
from curation.db import schema
from curation.db.engine import Database
from curation.runtime.context import open_context, open_database
from curation.settings import Settings
from tests.support.factories import fresh_database, with_database


@pytest.fixture
def here(
    postgres_address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Settings]:
    """Yield an instance on a server, whose database is empty."""
    with fresh_database(postgres_address) as name:
        settings = Settings(home=tmp_path / "home", database=with_database(postgres_address, name))
        for variable, value in settings.environment().items():
            if variable.startswith("LAYERLOOP_") and "_TEST_" not in variable:
                monkeypatch.setenv(variable, value)
        yield settings


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Run a command as the console entry point does; return its exit code, stdout and stderr."""

    def call_(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["layerloop", *words])
        code: object = 0
        try:
            run()
        except SystemExit as ended:
            code = ended.code or 0
        return int(str(code)), *capsys.readouterr()

    return call_


def test_the_chain_of_the_files_is_that_of_alembic() -> None:
    scripts = ScriptDirectory.from_config(schema._config())
    names = [script.revision for script in scripts.walk_revisions()]
    assert list(schema._chain()) == names[::-1]


def test_an_empty_server_is_refused_until_it_is_upgraded(here: Settings, call) -> None:
    for words in (["round", "list"], ["api", "--port", "0"], ["worker"], ["db", "check"]):
        code, out, err = call(*words)
        assert (code, out) == (2, ""), err
        assert "has no tables yet" in err
        assert "layerloop db upgrade" in err
    code, out, _ = call("db", "upgrade", "--dry-run", "--json")
    assert json.loads(out)["pending"] == list(schema._chain())
    assert call("round", "list")[0] == 2, "a dry run changes nothing"
    code, out, err = call("db", "upgrade")
    assert (code, out) == (0, "")
    assert "upgraded the schema from an empty database" in err
    assert call("round", "list", "--json")[:2] == (0, "[]\n")
    assert call("db", "check")[0] == 0
    assert "nothing to do" in call("db", "upgrade")[2]


def test_an_older_schema_is_named_and_left_alone(here: Settings, call) -> None:
    call("db", "upgrade")
    with open_database(here) as database:
        schema.migrate(database, revision="0009")
    code, _, err = call("round", "list")
    assert code == 2
    assert "has schema 0009" in err
    with open_database(here) as database:
        assert schema.get_revisions(database)[0] == "0009"
    code, out, _ = call("db", "check", "--json")
    assert code == 2
    assert json.loads(out)["revision"] == "0009"
    assert json.loads(call("db", "upgrade", "--json")[1])["pending"][0] == "0016"
    assert call("round", "list")[0] == 0


def test_a_schema_of_a_newer_version_is_named_by_every_command(here: Settings, call) -> None:
    call("db", "upgrade")
    with open_database(here) as database, database.transaction() as tx:
        tx.execute(sa.text("update alembic_version set version_num = '9999'"))
    for words in (
        ["round", "list"], ["api", "--port", "0"], ["worker"], ["db", "check"], ["db", "upgrade"],
    ):  # fmt: skip
        code, _, err = call(*words)
        assert code == 2, words
        assert "9999" in err
        assert "a newer version has upgraded it" in err
        assert "Traceback" not in err


def test_changed_tables_are_found_at_the_same_revision(here: Settings, call) -> None:
    call("db", "upgrade")
    with open_database(here) as database, database.transaction() as tx:
        tx.execute(sa.text("alter table prompts add column mine text"))
    code, _, err = call("db", "check")
    assert code == 2
    assert "its tables differ" in err


def test_two_upgrades_at_once_are_safe(here: Settings) -> None:
    command = [sys.executable, "-m", "curation.cli.main", "db", "upgrade"]
    both = [
        subprocess.Popen(command, env=here.environment(), stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for process in both:
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
    database = Database(here.database)
    assert schema.find_schema_drift(database) == []
    database.close()


def test_an_embedded_instance_upgrades_itself(postgres_folder: Path) -> None:
    settings = Settings(home=postgres_folder / "home")
    with open_context(settings) as context:
        schema.migrate(context.database, revision="0009")
    with open_context(settings) as context:
        assert schema.find_schema_drift(context.database) == []
