"""Settings: read from the environment once, embedded by default, with secrets that are not shown."""

from __future__ import annotations

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import kombu
import psycopg
import pytest
import sqlalchemy as sa
from pydantic import ValidationError

from curation.errors import LayerloopError
from curation.settings import Settings, read_settings
from curation.storage_settings import EMBEDDED


def test_everything_is_embedded_by_default():
    settings = Settings()
    assert (settings.database, settings.storage, settings.queue) == (EMBEDDED, EMBEDDED, EMBEDDED)
    assert settings.embedded
    assert settings.host == "127.0.0.1"


def test_the_environment_is_read(monkeypatch):
    monkeypatch.setenv("LAYERLOOP_DATABASE", "postgresql://somewhere/else")
    monkeypatch.setenv("LAYERLOOP_PORT", "9000")
    settings = Settings()
    assert not settings.embedded
    assert settings.port == 9000


@pytest.mark.parametrize(
    ("name", "value"), [("PORT", "70000"), ("PORT", "many"), ("LEASE_SECONDS", "0")]
)
def test_an_invalid_value_is_refused_with_the_setting_s_name(monkeypatch, name, value):
    monkeypatch.setenv(f"LAYERLOOP_{name}", value)
    with pytest.raises(ValidationError, match=name.lower()):
        Settings()


def test_every_setting_has_a_description():
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


def test_settings_are_immutable():
    with pytest.raises(ValidationError, match="frozen"):
        Settings().port = 1


def test_a_folder_of_the_home_is_made_and_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = Settings(home=Path("home")).path("runs/one")
    assert folder == tmp_path / "home" / "runs" / "one"
    assert folder.is_dir()


def test_a_given_secret_is_used_and_not_shown():
    settings = Settings(secret="hush" * 8)
    assert settings.signing_secret() == "hush" * 8
    assert "hush" not in repr(settings)


@pytest.mark.parametrize("secret", ["", "hush", "x" * 31])
def test_a_secret_that_can_be_guessed_is_refused(secret, tmp_path, monkeypatch):
    monkeypatch.setenv("LAYERLOOP_SECRET", secret)
    with pytest.raises(LayerloopError, match="could be guessed") as refused:
        Settings(home=tmp_path).signing_secret()
    assert not secret or secret not in str(refused.value)
    monkeypatch.delenv("LAYERLOOP_SECRET")
    (tmp_path / "secret").write_text(secret)
    (tmp_path / "secret").chmod(0o600)
    with pytest.raises(LayerloopError, match="could be guessed"):
        Settings(home=tmp_path).signing_secret()


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660])
def test_a_secret_that_others_may_have_read_is_refused(mode, tmp_path):
    Settings(home=tmp_path).signing_secret()
    (tmp_path / "secret").chmod(mode)
    with pytest.raises(LayerloopError, match="other users can read"):
        Settings(home=tmp_path).signing_secret()


def test_a_new_home_is_accessible_to_its_owner_only(tmp_path):
    home = Settings(home=tmp_path / "not" / "there" / "yet").path("logs").parent
    assert stat.S_IMODE(home.stat().st_mode) == 0o700


def test_a_secret_is_created_once_and_readable_by_its_owner_only(tmp_path):
    settings = Settings(home=tmp_path)
    secret = settings.signing_secret()
    assert len(secret) >= 32
    assert Settings(home=tmp_path).signing_secret() == secret
    assert stat.S_IMODE((tmp_path / "secret").stat().st_mode) == 0o600
    assert Settings(home=tmp_path / "other").signing_secret() != secret


def test_processes_that_create_the_secret_at_once_agree(tmp_path):
    with ThreadPoolExecutor(16) as pool:
        secrets = set(pool.map(lambda _: Settings(home=tmp_path).signing_secret(), range(64)))
    assert len(secrets) == 1
    assert all(secrets)


def test_a_child_process_has_the_same_settings(tmp_path, monkeypatch):
    settings = Settings(home=tmp_path / "home", port=9001, secret="hush", llm_key="sesame")
    assert "sesame" not in repr(settings)
    environment = settings.environment()
    assert environment["PATH"] == os.environ["PATH"]
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert Settings() == settings


@pytest.mark.parametrize("password", ["p@ss:w/rd%20", "a#b?c&d=e", "ünïcode ' \" $x", "%", "[::1]"])
def test_separate_password_settings_reach_servers_unchanged(password, monkeypatch):
    monkeypatch.setenv(
        "LAYERLOOP_DATABASE", "postgresql://layerloop@db:5433/layerloop?sslmode=prefer"
    )
    monkeypatch.setenv("LAYERLOOP_QUEUE", "amqp://layerloop@mq//")
    monkeypatch.setenv("LAYERLOOP_DATABASE_PASSWORD", password)
    monkeypatch.setenv("LAYERLOOP_QUEUE_PASSWORD", password)
    read = read_settings()
    url = sa.make_url(read.database)
    assert (url.username, url.password, url.host, url.port) == ("layerloop", password, "db", 5433)
    assert psycopg.conninfo.conninfo_to_dict(read.database)["password"] == password
    broker = kombu.Connection(read.queue)
    assert (broker.userid, broker.password, broker.hostname) == ("layerloop", password, "mq")
    # A child process that gets the environment reads the same.
    for name, value in read.environment().items():
        monkeypatch.setenv(name, value)
    assert read_settings().database == read.database


def test_a_password_in_the_url_and_a_url_without_user_stay(monkeypatch):
    monkeypatch.setenv("LAYERLOOP_DATABASE_PASSWORD", "other")
    for address in ("postgresql://u:own@db/x", "postgresql:///x?host=/run", "embedded"):
        assert read_settings(database=address).database == address
