"""Try what a confined process must not be able to do, so that nobody has to believe which parts the kernel granted."""

from __future__ import annotations

import ctypes
import mmap
import os
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from curation.ingest.sandbox import LIMITS, Failure, Worker
from curation.ingest.sandbox_wire import Message

ROOT: Final = 0
PTRACE_TRACEME: Final = 0


@dataclass(frozen=True)
class Confinement:
    """Which parts of the confinement the kernel granted, and what a confined process could do all the same."""

    granted: dict[str, object]
    escapes: tuple[str, ...]

    @property
    def parts(self) -> str:
        """Return the parts in words, those that are missing named as such."""
        landlock = self.granted.get("landlock")
        named = {
            "seccomp": self.granted.get("seccomp"),
            f"Landlock (version {landlock})" if landlock else "Landlock": landlock,
            "another user": self.granted.get("user"),
            "an empty root folder": self.granted.get("empty root"),
            "no new privileges": self.granted.get("no new privileges"),
            "limits of memory, files and processes": self.granted.get("limits"),
            "an end with its parent": self.granted.get("death signal"),
        }
        has = ", ".join(name for name, granted in named.items() if granted)
        lacks = ", ".join(name for name, granted in named.items() if not granted)
        return has + (f"; without {lacks}" if lacks else "")


def check_confinement() -> Confinement:
    """Start a confined process as the decoders have, and let it try.

    Raises:
        LayerloopError: No confined process can be started.
    """
    worker = Worker(
        {"function": f"{__name__}:attempt", "warm_up": None, "memory": LIMITS.memory}, LIMITS
    )
    try:
        answer = worker.ask(Message({"parent": os.getpid()}))
    finally:
        worker.close()
    if isinstance(answer, Failure):
        return Confinement(worker.granted, (f"the trial itself failed ({answer.cause})",))
    return Confinement(worker.granted, tuple(str(name) for name in answer.facts["escapes"]))


def attempt(request: Message) -> Message:
    """Try everything that is refused to a confined process; runs in one, and returns what succeeded."""
    parent = request.facts["parent"]
    attempts: dict[str, Callable[[], object]] = {
        "read files": lambda: os.close(os.open("/etc/passwd", os.O_RDONLY)),
        "list folders": lambda: os.listdir("/"),  # noqa: PTH208  # the call itself, and nothing around it
        "write files": _write,
        "open internet sockets": lambda: socket.socket(socket.AF_INET).close(),
        "open local sockets": lambda: socket.socket(socket.AF_UNIX).close(),
        "start programs": lambda: os.execv(sys.executable, [sys.executable, "-c", ""]),  # noqa: S606
        "start processes": _fork,
        "send signals": lambda: os.kill(parent, 0),
        "trace processes": _trace,
        "run code of its own": lambda: mmap.mmap(
            -1, 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC
        ).close(),
        "be root": _be_root,
    }
    return Message({"escapes": [name for name, one in attempts.items() if _succeeds(one)]})


def _succeeds(one: Callable[[], object]) -> bool:
    try:
        one()
    except OSError:
        return False
    return True


def _write() -> None:
    path = Path("/tmp/layerloop-confinement-check")  # noqa: S108  # a place where anybody may write
    path.write_bytes(b"")
    path.unlink()


def _fork() -> None:
    if os.fork() == 0:
        os._exit(0)


def _trace() -> None:
    if ctypes.CDLL(None, use_errno=True).ptrace(PTRACE_TRACEME, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "ptrace")


def _be_root() -> None:
    if os.geteuid() != ROOT:
        os.seteuid(ROOT)
