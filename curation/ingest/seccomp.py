"""Seccomp filter of a confined worker: the allowed system calls as a BPF program."""

from __future__ import annotations

import ctypes
import errno
import platform
import struct
from typing import Final

ARCHITECTURES: Final = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
"""AUDIT_ARCH of linux/audit.h, by platform.machine()."""

ALLOWED_CALLS: Final[dict[str, tuple[int, int | None]]] = {
    # Input and output on open descriptors.
    "read": (0, 63), "write": (1, 64), "close": (3, 57), "fstat": (5, 80), "lseek": (8, 62),
    "pread64": (17, 67), "readv": (19, 65), "writev": (20, 66), "recvmsg": (47, 212),
    "poll": (7, None), "ppoll": (271, 73),
    # Memory; mmap and mprotect are in NOT_EXECUTABLE.
    "munmap": (11, 215), "brk": (12, 214), "mremap": (25, 216), "madvise": (28, 233),
    # The process itself.
    "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139),
    "sigaltstack": (131, 132), "sched_yield": (24, 124), "futex": (202, 98), "exit": (60, 93),
    "exit_group": (231, 94), "restart_syscall": (219, 128), "rseq": (334, 293),
    "getrandom": (318, 278), "getpid": (39, 172), "getppid": (110, 173), "gettid": (186, 178),
    "getuid": (102, 174), "geteuid": (107, 175), "getgid": (104, 176), "getegid": (108, 177),
    "getcpu": (309, 168), "sched_getaffinity": (204, 123), "uname": (63, 160),
    # Time.
    "clock_gettime": (228, 113), "clock_getres": (229, 114), "gettimeofday": (96, 169),
    "nanosleep": (35, 101), "clock_nanosleep": (230, 115), "getrusage": (98, 165),
    "times": (100, 153),
}  # fmt: skip
"""Allowed system calls: number on x86_64 and aarch64. All others fail with EPERM."""

NOT_EXECUTABLE: Final[dict[str, tuple[int, int]]] = {"mmap": (9, 222), "mprotect": (10, 226)}
"""System calls that are allowed if their third argument does not request executable memory."""

PROT_EXEC: Final = 4
SECCOMP_SET_MODE_FILTER: Final = 1
SECCOMP_FILTER_FLAG_TSYNC: Final = 1
PR_SET_SECCOMP: Final = 22
SECCOMP_MODE_FILTER: Final = 2
_SECCOMP: Final = {"x86_64": 317, "aarch64": 277}

_ALLOW: Final = 0x7FFF0000
_KILL: Final = 0x80000000
_REFUSE: Final = 0x00050000 | errno.EPERM
_LOAD, _EQUAL, _ANY_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06  # BPF: ld abs, jeq k, jset k, ret k


def make_filter(machine: str) -> bytes:
    """Return the filter as BPF instructions (struct sock_filter).

    Args:
        machine: Architecture, a key of ARCHITECTURES.
    """
    column = list(ARCHITECTURES).index(machine)
    # Kill the process on another architecture, then load the system call number.
    code = [
        (_LOAD, 0, 0, 4), (_EQUAL, 1, 0, ARCHITECTURES[machine]), (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, 0),
    ]  # fmt: skip
    for numbers in NOT_EXECUTABLE.values():
        # Test the low word of the third argument; both architectures are little-endian.
        code += [
            (_EQUAL, 0, 4, numbers[column]),
            (_LOAD, 0, 0, 16 + 2 * 8), (_ANY_BIT, 0, 1, PROT_EXEC),
            (_RETURN, 0, 0, _REFUSE), (_RETURN, 0, 0, _ALLOW),
        ]  # fmt: skip
    for both in ALLOWED_CALLS.values():
        if (number := both[column]) is not None:
            code += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ALLOW)]
    code.append((_RETURN, 0, 0, _REFUSE))
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def install() -> bool:
    """Install the filter for all threads of this process, permanently.

    The process must have set no_new_privs before.

    Returns:
        Whether the kernel accepted the filter.
    """
    machine = platform.machine()
    if machine not in ARCHITECTURES:
        return False
    code = make_filter(machine)
    buffer = ctypes.create_string_buffer(code, len(code))
    bpf = _Program(len(code) // 8, ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    # TSYNC applies it to all threads; the fallback for older kernels only to this one.
    if libc.syscall(
        _SECCOMP[machine], SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, ctypes.byref(bpf)
    ) == 0:  # fmt: skip
        return True
    return bool(libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(bpf), 0, 0) == 0)
