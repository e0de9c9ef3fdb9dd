"""Files of one user stay private: folders above a home, the home, its logs, and printed credentials."""

import os
import stat
import subprocess
from pathlib import Path

import pytest

from curation.adapters import embedded_postgres
from curation.adapters.postgres_user import SERVER_USER, allow_access, server_user
from curation.errors import LayerloopError
from curation.runtime.doctor import run_checks
from curation.runtime.finding import without_credentials
from curation.settings import Settings

as_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="only root needs another user for PostgreSQL"
)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def can_enter(user: str, folder: Path) -> bool:
    return (
        subprocess.run(
            ["/bin/cat", str(folder / "known")], user=user, capture_output=True, check=False
        ).returncode
        == 0
    )


def can_list(user: str, folder: Path) -> bool:
    return (
        subprocess.run(
            ["/bin/ls", str(folder)], user=user, capture_output=True, check=False
        ).returncode
        == 0
    )


@as_root
@pytest.mark.parametrize("before", [0o700, 0o750, 0o770])
def test_only_the_server_passes_through_a_private_folder(tmp_path, before):
    private = tmp_path / "private"
    private.mkdir()
    (private / "known").write_text("x")
    private.chmod(before)
    user = server_user(private / "data")
    assert user
    for _ in range(2):
        allow_access(private, user)
    assert not private.stat().st_mode & 0o007
    assert can_enter(user, private)
    assert not can_list(user, private)
    assert not can_enter("nobody", private)
    for parent in tmp_path.parents:
        assert not can_list(user, parent) or parent.stat().st_mode & 0o004


@as_root
def test_a_server_runs_below_a_private_folder_and_others_stay_out(postgres_folder):
    private = postgres_folder / "private"
    private.mkdir(mode=0o700)
    embedded_postgres.start_server(private / "home")
    try:
        assert not mode(private) & 0o007
        (private / "known").write_text("x")
        assert not can_enter("nobody", private)
    finally:
        embedded_postgres.stop_server(private / "home")


@as_root
def test_without_access_control_lists_the_folder_stays_as_it_was(tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "setxattr", refuse)
    tmp_path.chmod(0o700)
    with pytest.raises(LayerloopError, match="may not access") as error:
        allow_access(tmp_path, server_user(tmp_path) or SERVER_USER)
    assert "LAYERLOOP_HOME" in error.value.hint
    assert mode(tmp_path) == 0o700


@pytest.mark.parametrize(
    "file",
    [
        "secret",
        "logs/api.log",
        "logs/worker-cpu.log.1",
        "label-studio/token",
        "label-studio/password",
    ],
)
def test_the_doctor_flags_what_others_may_read(tmp_path, file):
    home = tmp_path / "home"
    settings = Settings(home=home, database="postgresql://127.0.0.1:1/none")
    settings.signing_secret()

    def found():
        return next(one for one in run_checks(settings) if one.part == "privacy")

    assert found().ok
    (home / file).parent.mkdir(exist_ok=True)
    (home / file).write_text("x" * 40)
    (home / file).chmod(0o644)
    assert not found().ok
    assert file in found().hint
    (home / file).chmod(0o600)
    assert found().ok
    home.chmod(0o755)
    assert not found().ok


def test_the_doctor_prints_no_credentials(tmp_path):
    settings = Settings(
        home=tmp_path / "home",
        database="postgresql://somebody:pass-word-1@127.0.0.1:1/none?password=pass-word-2",
        queue="amqp://somebody:pass-word-3@127.0.0.1:1//",
    )
    shown = str(run_checks(settings))
    for secret in ("pass-word-1", "pass-word-2", "pass-word-3"):
        assert secret not in shown


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("amqp://user:secret@host:5672//", "amqp://host:5672//"),
        ("redis://:secret@host/0", "redis://host/0"),
        ("postgresql://u@/db?host=/tmp&password=secret", "postgresql:///db"),
        ("https://user:se/cret@host/", "an address that cannot be read"),
        ("https://user/se:cret@host/", "an address that cannot be read"),
        ("http://[::1]:80/x?key=secret#secret", "http://[::1]:80/x"),
        ("user:secret@host", "host"),
        ("embedded", "embedded"),
    ],
)
def test_an_address_is_shown_without_credentials(address, shown):
    assert "secret" not in without_credentials(address)
    assert without_credentials(address) == shown


def test_the_doctor_reports_how_decoders_are_confined(tmp_path):
    settings = Settings(home=tmp_path / "home", database="postgresql://127.0.0.1:1/none")
    found = next(one for one in run_checks(settings) if one.part == "confinement")
    assert "seccomp" in found.message
    assert "Landlock" in found.message
    assert found.ok == ("could" not in found.message)
