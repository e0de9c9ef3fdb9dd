"""Liveness of lease holders on this machine: each locks a file in the home while its process lives.

The kernel releases the lock of a killed process, so that its leases are taken over at once instead
of when they expire. Holders on other machines, or with another home, have no file here; their
leases expire.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import os
import socket
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

WORKER_ID = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:6]}"
"""The id of this process in leases; a restarted worker gets a new one."""

# The handle of our own marker by folder; closing it releases the lock.
_announced: dict[Path, int] = {}


def mark_alive(folder: Path) -> None:
    """Mark this process as alive until it ends, before it claims leases; idempotent.

    The lock is a POSIX lock, which children do not inherit. On a file system without locks nothing
    is marked, and the leases of this process expire like those of another machine.

    Args:
        folder: The folder of the markers.
    """
    if folder in _announced:
        return
    folder.mkdir(parents=True, exist_ok=True)
    # Locked under another name first, so that the marker of a living process is never unlocked.
    handle, draft = tempfile.mkstemp(prefix=".", dir=folder)
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        Path(draft).unlink()
        return
    Path(draft).rename(folder / WORKER_ID)
    _announced[folder] = handle
    atexit.register(_withdraw, folder, os.getpid())


def dead_holders(folder: Path) -> set[str]:
    """Return the holders whose process was killed.

    Call `remove_marker` once their leases are released.
    """
    return {name for name, alive in _markers(folder) if not alive}


def live_holders(folder: Path) -> set[str]:
    """Return the holders whose process is alive, including this one if it was announced."""
    return {name for name, alive in _markers(folder) if alive}


def remove_marker(folder: Path, holder: str) -> None:
    """Remove the marker of a dead holder."""
    (folder / holder).unlink(missing_ok=True)


def _markers(folder: Path) -> Iterator[tuple[str, bool]]:
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        # Opening and closing our own marker would release our own lock.
        if path.name == WORKER_ID:
            yield WORKER_ID, folder in _announced
        elif not path.name.startswith("."):
            with contextlib.suppress(FileNotFoundError):
                yield path.name, _locked(path)


def _locked(path: Path) -> bool:
    handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    else:
        return False
    finally:
        os.close(handle)


def _withdraw(folder: Path, process: int) -> None:
    if os.getpid() == process:  # a forked child must not remove its parent's marker
        (folder / WORKER_ID).unlink(missing_ok=True)
