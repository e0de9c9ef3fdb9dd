"""Inspection of an embedded PostgreSQL's processes: the server of a folder, and orphans."""

from __future__ import annotations

import time
from pathlib import Path

import psutil

from curation.errors import LayerloopError

TIMEOUT_SECONDS = 120
"""Longest time that a server may start, recover or stop before an error is raised."""


def find_postmaster(data: Path) -> psutil.Process | None:
    """Return the running server that the pid file names; None if there is none."""
    lines = read_pid_file(data)
    # Process ids are reused, so the command line must name the folder too.
    try:
        process = psutil.Process(int(lines[0]))
        return process if is_alive(process.pid) and str(data) in process.cmdline() else None
    except (IndexError, ValueError, psutil.Error):
        return None


def is_alive(pid: int) -> bool:
    """Return whether a process is running; a zombie is not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def read_status(data: Path) -> str:
    """Return the state in the pid file: "starting", "ready", "standby" or "stopping"."""
    lines = read_pid_file(data)
    return lines[7].strip() if len(lines) > 7 else "starting"


def wait_until_settled(data: Path) -> None:
    """Wait until a running server has started, recovered or stopped.

    A server that is stopped during recovery would start its recovery again.
    """
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while find_postmaster(data) is not None and read_status(data) != "ready":
        if time.monotonic() > deadline:
            raise LayerloopError(
                f"PostgreSQL in {data} has been {read_status(data)} for two minutes",
                f"see {data / 'server.log'}, and wait",
            )
        time.sleep(0.1)


def read_pid_file(data: Path) -> list[str]:
    """Return the lines of postmaster.pid; empty without one.

    They are pid, folder, start time, port, socket folder, address, memory and status.
    """
    try:
        return (data / "postmaster.pid").read_text().splitlines()
    except FileNotFoundError:
        return []
    except PermissionError:
        raise LayerloopError(
            f"{data} belongs to another user",
            "run as that user, or name another home with LAYERLOOP_HOME",
        ) from None


def find_orphans(owner: int) -> list[psutil.Process]:
    """Return a user's backends whose server is dead: named postgres, without a postgres parent."""
    named = {}
    for process in psutil.process_iter(["name", "uids", "ppid", "status", "cmdline"]):
        if process.info["name"] == "postgres" and process.info["status"] != psutil.STATUS_ZOMBIE:
            named[process.pid] = process
    return [
        process
        for process in named.values()
        if process.info["uids"].real == owner
        and process.info["ppid"] not in named
        # The command line of a server, unlike a backend's, begins with its path.
        and (process.info["cmdline"] or [""])[0].startswith("postgres: ")
    ]
