"""Log files that other processes append to: for their owner's eyes alone, and bounded in size."""

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
"""From this size on a log is cut: what it holds becomes FILE.1, in place of an older one."""
LOOK_SECONDS: Final = 5.0
OWNER_ONLY: Final = 0o600


def open_log(path: Path) -> BinaryIO:
    """Open a log for a process to append to, readable for its owner alone, also where it is older than that rule."""
    handle = os.open(
        path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, OWNER_ONLY
    )
    with contextlib.suppress(PermissionError):
        os.fchmod(handle, OWNER_ONLY)
    return os.fdopen(handle, "ab")


def bound_log(path: Path, most_bytes: int = MAX_BYTES) -> None:
    """Cut a log that has grown too large, keeping its last `most_bytes` beside it.

    The file stays the same one, since processes that run have it open; whoever appends goes on at its new end. What is
    written between copying and cutting is lost.
    """
    try:
        with os.fdopen(os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW), "r+b") as log:
            size = os.fstat(log.fileno()).st_size
            if size <= most_bytes:
                return
            status = os.fstat(log.fileno())
            log.seek(max(0, size - most_bytes))
            earlier = path.with_name(f"{path.name}.1")
            earlier.unlink(missing_ok=True)
            with open_log(earlier) as kept:
                shutil.copyfileobj(log, kept)
                if os.geteuid() == 0:
                    os.fchown(kept.fileno(), status.st_uid, status.st_gid)
            log.truncate(0)
    except OSError:
        return  # a log that has gone, or a full disk: the next look may do it


@contextmanager
def bounded_log(path: Path) -> Iterator[None]:
    """Keep a log bounded for as long as the block lasts, by a look every few seconds."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(LOOK_SECONDS):
            bound_log(path)

    bound_log(path)
    watcher = threading.Thread(target=watch, name="log", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
