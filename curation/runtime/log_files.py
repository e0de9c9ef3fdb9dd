"""Log files that child processes append to: readable only by their owner, and bounded in size."""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

MAX_BYTES: Final = 10 << 20
"""The size above which a log is rotated: its content replaces FILE.1."""
CHECK_SECONDS: Final = 5.0
OWNER_ONLY: Final = 0o600


def open_log(path: Path) -> BinaryIO:
    """Open a log for appending, readable only by its owner."""
    handle = os.open(
        path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, OWNER_ONLY
    )
    # A log of an older version may have been created with a wider mode.
    with contextlib.suppress(PermissionError):
        os.fchmod(handle, OWNER_ONLY)
    return os.fdopen(handle, "ab")


def rotate_log(path: Path, max_bytes: int = MAX_BYTES) -> None:
    """Rotate a log that is too large, keeping its last bytes in FILE.1.

    The file is truncated in place, since running processes have it open for appending. Lines
    written between copying and truncating are lost.

    Args:
        path: The log.
        max_bytes: The maximum size in bytes.
    """
    try:
        with os.fdopen(os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW), "r+b") as log:
            size = os.fstat(log.fileno()).st_size
            if size <= max_bytes:
                return
            status = os.fstat(log.fileno())
            log.seek(max(0, size - max_bytes))
            earlier = path.with_name(f"{path.name}.1")
            earlier.unlink(missing_ok=True)
            with open_log(earlier) as copy:
                shutil.copyfileobj(log, copy)
                # Under root the embedded PostgreSQL runs as another user, who owns its log.
                if os.geteuid() == 0:
                    os.fchown(copy.fileno(), status.st_uid, status.st_gid)
            log.truncate(0)
    except OSError:
        return  # the log is missing or the disk is full: the next call tries again


@contextmanager
def rotating_log(path: Path) -> Iterator[None]:
    """Keep a log bounded during the block, by a check every few seconds."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(CHECK_SECONDS):
            rotate_log(path)

    rotate_log(path)
    watcher = threading.Thread(target=watch, name="log", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
