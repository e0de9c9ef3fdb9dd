"""Permanent confinement of a decoder process: no files, network, programs or privileges."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import sys
import tempfile
from pathlib import Path
from typing import Final

from curation.ingest import seccomp

NOBODY: Final = 65534
"""User and group ID of a worker whose parent is root (nobody)."""
OPEN_FILES: Final = 64
"""Limit of open file descriptors."""

TASKS: Final = Path("/proc/self/task")
PR_SET_PDEATHSIG: Final = 1
PR_SET_NO_NEW_PRIVS: Final = 38

# Landlock's system call numbers are the same on every architecture.
_CREATE_RULESET, _RESTRICT_SELF = 444, 446
_FS_RIGHTS_BY_ABI: Final = (0, 13, 14, 15, 15, 16)
"""Number of file access rights per Landlock ABI version; versions after 5 have as many as 5."""


def confine(parent: int, memory: int) -> dict[str, object]:
    """Confine this process; call it once all needed modules are loaded.

    Afterwards the process can open no file and import no further module. The order matters: steps
    that need privileges come before the change of user, and the seccomp filter comes last.

    Args:
        parent: ID of the process whose end ends this one.
        memory: Bytes of address space beyond those in use now.

    Returns:
        The parts of the confinement by name, each with whether the kernel granted it.
    """
    # Landlock restricts only the calling thread; the seccomp filter restricts all threads.
    granted: dict[str, object] = {"one thread": TASKS.is_dir() and len([*TASKS.iterdir()]) == 1}
    _limit_memory(memory)
    granted["empty root"] = _leave_files_behind()
    granted["user"] = _become_nobody()
    # A change of user clears the death signal, so it is set afterwards.
    granted["death signal"] = _die_with(parent)
    for limit, most in (
        (resource.RLIMIT_CORE, 0), (resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_NOFILE, OPEN_FILES),
        (resource.RLIMIT_NPROC, 0),
    ):  # fmt: skip
        resource.setrlimit(limit, (most, most))
    granted["limits"] = True
    granted["no new privileges"] = _prctl(PR_SET_NO_NEW_PRIVS, 1)
    granted["landlock"] = _landlock()
    granted["seccomp"] = sys.platform == "linux" and seccomp.install()
    return granted


def _limit_memory(memory: int) -> None:
    statm = Path("/proc/self/statm")
    if statm.exists():
        now = int(statm.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + memory, now + memory))


def _leave_files_behind() -> bool:
    """Change into an empty, deleted folder and, as root, make it the root folder."""
    try:
        with tempfile.TemporaryDirectory(prefix="layerloop-empty-") as empty:
            os.chdir(empty)
        os.chroot(".")
    except (OSError, AttributeError):
        return False
    return True


def _become_nobody() -> bool:
    """Drop root privileges; return False for a process that is not root."""
    try:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    except (OSError, AttributeError):
        return False
    return True


def _die_with(parent: int) -> bool:
    """Have the kernel kill this process when the thread that started it ends."""
    granted = _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    # The parent may have ended before the signal was set.
    if os.getppid() != parent:
        os._exit(1)
    return granted


def _prctl(option: int, value: int) -> bool:
    if sys.platform != "linux":
        return False
    return bool(ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) == 0)


class _Ruleset(ctypes.Structure):
    _fields_ = (
        ("files", ctypes.c_uint64),
        ("network", ctypes.c_uint64),
        ("scoped", ctypes.c_uint64),
    )


def _landlock() -> int:
    """Deny files, TCP, and signals and abstract sockets to others; return the ABI version or 0."""
    if sys.platform != "linux":
        return 0
    libc = ctypes.CDLL(None, use_errno=True)
    abi = int(libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(1)))
    if abi < 1:
        return 0
    # The rule set grew with the ABI: TCP came with version 4, the scopes with version 6.
    rights = _FS_RIGHTS_BY_ABI[min(abi, len(_FS_RIGHTS_BY_ABI) - 1)]
    rules = _Ruleset((1 << rights) - 1, 0b11 if abi >= 4 else 0, 0b11 if abi >= 6 else 0)
    size = 8 if abi < 4 else 16 if abi < 6 else 24
    ruleset = int(
        libc.syscall(
            _CREATE_RULESET, ctypes.byref(rules), ctypes.c_size_t(size), ctypes.c_uint32(0)
        )
    )
    if ruleset < 0:
        return 0
    try:
        return abi if libc.syscall(_RESTRICT_SELF, ruleset, ctypes.c_uint32(0)) == 0 else 0
    finally:
        with contextlib.suppress(OSError):
            os.close(ruleset)
