"""Test of the confinement: a confined process attempts every operation that must fail."""

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

from curation.ingest.sandbox_process import DEFAULT_LIMITS, ItemFailure, Worker
from curation.ingest.sandbox_wire import Message

ROOT: Final = 0
PTRACE_TRACEME: Final = 0


@dataclass(frozen=True)
class ConfinementReport:
    """Result of the confinement test.

    Attributes:
        granted: The parts of the confinement, each with whether the kernel granted it.
        escapes: Operations that succeeded although they must not.
    """

    granted: dict[str, object]
    escapes: tuple[str, ...]

    @property
    def parts(self) -> str:
        """The parts as text, followed by the missing ones."""
        landlock = self.granted.get("landlock")
        named = {
            "seccomp": self.granted.get("seccomp"),
            f"Landlock (version {landlock})" if landlock else "Landlock": landlock,
            "another user": self.granted.get("user"),
            "an empty root folder": self.granted.get("empty root"),
            "no new privileges": self.granted.get("no new privileges"),
            "limits of memory, files and processes": self.granted.get("limits"),
            "termination with its parent": self.granted.get("death signal"),
        }
        has = ", ".join(name for name, granted in named.items() if granted)
        lacks = ", ".join(name for name, granted in named.items() if not granted)
        return has + (f"; without {lacks}" if lacks else "")


def check_confinement() -> ConfinementReport:
    """Start a confined worker as for decoding, and attempt the forbidden operations in it.

    Raises:
        LayerloopError: No confined process can be started.
    """
    worker = Worker(
        {
            "function": f"{__name__}:attempt_forbidden_operations",
            "warm_up": None,
            "memory": DEFAULT_LIMITS.memory,
        },
        DEFAULT_LIMITS,
    )
    try:
        answer = worker.ask(Message({"parent": os.getpid()}))
    finally:
        worker.close()
    if isinstance(answer, ItemFailure):
        return ConfinementReport(worker.granted, (f"the test itself failed ({answer.cause})",))
    return ConfinementReport(
        worker.granted, tuple(str(name) for name in answer.metadata["escapes"])
    )


def attempt_forbidden_operations(request: Message) -> Message:
    """Attempt, inside the worker, all forbidden operations and return those that succeeded."""
    parent = request.metadata["parent"]
    attempts: dict[str, Callable[[], object]] = {
        "read files": lambda: os.close(os.open("/etc/passwd", os.O_RDONLY)),
        "list folders": lambda: os.listdir("/"),  # noqa: PTH208  # the bare system call is tested
        "write files": _write,
        "open internet sockets": lambda: socket.socket(socket.AF_INET).close(),
        "open local sockets": lambda: socket.socket(socket.AF_UNIX).close(),
        # Succeeds by replacing this process: its parent then reports a failed test.
        "start programs": lambda: os.execv(  # noqa: S606
            sys.executable, [sys.executable, "-c", ""]
        ),
        "start processes": _fork,
        "send signals": lambda: os.kill(parent, 0),
        "trace processes": _trace,
        "run code of its own": lambda: mmap.mmap(
            -1, 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC
        ).close(),
        "be root": _be_root,
    }
    return Message({"escapes": [name for name, action in attempts.items() if _succeeds(action)]})


def _succeeds(action: Callable[[], object]) -> bool:
    try:
        action()
    except OSError:
        return False
    return True


def _write() -> None:
    # Every user may write to /tmp.
    path = Path("/tmp/layerloop-confinement-check")  # noqa: S108
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
