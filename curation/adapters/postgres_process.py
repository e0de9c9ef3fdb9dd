"""The processes of an embedded PostgreSQL from outside: which one serves a folder, and which lost their server."""

from __future__ import annotations

import time
from pathlib import Path

import psutil

from curation.errors import LayerloopError

PATIENCE_SECONDS = 120
"""How long a server may start, recover or stop before a person is told."""


def postmaster(data: Path) -> psutil.Process | None:
    """The living server that the pid file names; the number alone proves nothing, for numbers are used again."""
    lines = pid_file(data)
    try:
        process = psutil.Process(int(lines[0]))
        return process if alive(process.pid) and str(data) in process.cmdline() else None
    except (IndexError, ValueError, psutil.Error):
        return None


def alive(pid: int) -> bool:
    """Whether a process lives; one that is dead and only not yet buried does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def status(data: Path) -> str:
    """What the server says of itself: "starting", "ready", "standby" or "stopping"."""
    lines = pid_file(data)
    return lines[7].strip() if len(lines) > 7 else "starting"


def settle(data: Path) -> None:
    """Wait while a living server starts, recovers or stops: to disturb one that recovers would make it begin again."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while postmaster(data) is not None and status(data) != "ready":
        if time.monotonic() > deadline:
            raise LayerloopError(
                f"PostgreSQL in {data} is {status(data)} for two minutes now",
                f"see {data / 'server.log'}, and wait",
            )
        time.sleep(0.1)


def pid_file(data: Path) -> list[str]:
    """The lines of postmaster.pid: pid, folder, start, port, socket folder, address, memory, status."""
    try:
        return (data / "postmaster.pid").read_text().splitlines()
    except FileNotFoundError:
        return []
    except PermissionError:
        raise LayerloopError(
            f"{data} belongs to another user",
            "run as that user, or name another home with LAYERLOOP_HOME",
        ) from None


def orphans(owner: int) -> list[psutil.Process]:
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
        and (process.info["cmdline"] or [""])[0].startswith(
            "postgres: "
        )  # a server's own begins with its path
    ]
