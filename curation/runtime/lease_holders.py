"""Which lease holders on this machine are alive: each locks a file in the home for as long as its process lives.

The kernel releases the lock of a process that was killed, so its leases are taken over at once instead of when they
expire. Holders on other machines, or with another home, leave no file here; their leases simply expire.
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

HOLDER = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:6]}"
"""Who this process is in the leases; a restarted worker is somebody else."""

_announced: dict[
    Path, int
] = {}  # our own marker by folder; its lock ends when the handle is closed


def announce(folder: Path) -> None:
    """Mark this process as alive until it ends, before it claims anything; repeated calls change nothing.

    The lock is POSIX's, which children do not inherit. Where the file system has no locks nothing is marked, and the
    leases of this process expire like those of another machine.
    """
    if folder in _announced:
        return
    folder.mkdir(parents=True, exist_ok=True)
    # Locked under another name first, so that nobody sees the marker of a living process unlocked.
    handle, draft = tempfile.mkstemp(prefix=".", dir=folder)
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        Path(draft).unlink()
        return
    Path(draft).rename(folder / HOLDER)
    _announced[folder] = handle
    atexit.register(_withdraw, folder, os.getpid())


def dead_holders(folder: Path) -> set[str]:
    """Return the holders whose process has ended without a word; call `forget` once their leases are handed back."""
    return {name for name, alive in _markers(folder) if not alive}


def live_holders(folder: Path) -> set[str]:
    """Return the holders whose process is alive, this one included if it was announced."""
    return {name for name, alive in _markers(folder) if alive}


def forget(folder: Path, holder: str) -> None:
    """Remove the marker of a dead holder."""
    (folder / holder).unlink(missing_ok=True)


def _markers(folder: Path) -> Iterator[tuple[str, bool]]:
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        if path.name == HOLDER:
            yield (
                HOLDER,
                folder in _announced,
            )  # opening and closing it here would release our own lock
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
    if os.getpid() == process:  # a forked child has no part in it
        (folder / HOLDER).unlink(missing_ok=True)
