"""A compromised decoder can run any code in its confined process without reaching anything or ending the parent."""

import contextlib
import ctypes
import encodings.idna
import json
import mmap
import os
import pickle
import resource
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from curation.domain import LayerRole
from curation.ingest import confined
from curation.ingest.confinement_check import check_confinement
from curation.ingest.inspection_result import ImportItem, InspectionOutcome, LoadedItem
from curation.ingest.sandbox import Sandbox
from curation.ingest.sandbox_process import FailureCause, ItemFailure, SandboxLimits
from curation.ingest.sandbox_wire import InvalidMessageError, Message

SECRET = "the-secret-of-this-home"
TOOLS = (
    ctypes,
    encodings.idna,
    mmap,
    resource,
    shutil,
    signal,
    socket,
    struct,
    subprocess,
    threading,
    time,
    Path,
)
"""Modules that the attacks use, imported before the process is confined, like a decoder's libraries."""


def taken_over(request: Message) -> Message:
    """Stands for a decoder in which an image has got hold of everything; runs the attacker's program."""
    names = dict(globals())
    exec(request.metadata["program"], names)
    return Message({"found": names.get("found")})


@pytest.fixture(scope="module")
def granted():
    return check_confinement().granted


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox(
        taken_over,
        lambda program: Message({"program": program}),
        lambda _, answer: answer.metadata["found"],
        workers=1,
    ) as opened:
        yield opened


def attack(sandbox, program: str):
    """Run a program as the taken-over decoder; its `found`, or the Failure."""
    return next(sandbox.run([program]))[1]


def refused(result) -> bool:
    """Whether an attempt ended in a refusal by the kernel: "denied", or a worker that was killed for it."""
    return result == "denied" or (
        isinstance(result, ItemFailure) and result.cause is FailureCause.crashed
    )


def attempt(statement: str) -> str:
    return f"try:\n    found = repr({statement})\nexcept OSError as error:\n    found = 'denied'\n"


def raw(name: str, number: int, *arguments: str) -> str:
    """Return the code of a raw system call, as injected code would make it; x86_64 only."""
    listed = ", ".join([f"ctypes.c_long({number})", *arguments])
    return (
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        f"done = libc.syscall({listed})  # {name}\n"
        "found = 'denied' if done == -1 and ctypes.get_errno() in {1, 13} else f'{done}, errno {ctypes.get_errno()}'\n"
    )


@pytest.mark.parametrize(
    "statement",
    [
        "open('/etc/passwd').read()",
        "open('{secret}').read()",
        "open('/proc/self/environ', 'rb').read()",
        "open('/proc/{parent}/environ', 'rb').read()",
        "open('/proc/{parent}/mem', 'rb')",
        "os.listdir('/')",
        "os.listdir('/proc')",
        "os.listdir('.')",
        "os.stat('{secret}')",
        "os.readlink('/proc/{parent}/exe')",
        "os.open('.', os.O_RDONLY | os.O_DIRECTORY)",
        "open('/tmp/written-by-a-decoder', 'w')",
        "os.open('here', os.O_CREAT | os.O_WRONLY)",
        "os.mkdir('here')",
        "os.unlink('{secret}')",
        "os.rename('{secret}', '/tmp/stolen')",
        "os.chmod('{secret}', 0o777)",
        "os.symlink('/etc/passwd', 'here')",
        "os.memfd_create('code')",
        "socket.create_connection(('127.0.0.1', {port}))",
        "socket.socket(socket.AF_UNIX).connect('{local}')",
        "socket.socket(socket.AF_UNIX).connect(chr(0) + 'abstract')",
        "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'', ('127.0.0.1', 53))",
        "socket.socketpair()",
        "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)",
        "os.execv('{python}', ['{python}', '-c', ''])",
        "os.posix_spawn('{python}', ['{python}', '-c', ''], {{}})",
        "subprocess.run(['/bin/true'])",
        "os.fork()",
        "os.kill({parent}, signal.SIGKILL)",
        "os.kill(-1, signal.SIGKILL)",
        "os.kill({parent}, 0)",
        "os.pidfd_open({parent})",
        "os.setuid(0)",
        "os.setresgid(0, 0, 0)",
        "os.chroot('/')",
        "os.chdir('/proc')",
        "os.mkfifo('here')",
        "os.nice(-5)",
        "os.sched_setaffinity(0, [0])",
        "os.setsid()",
        "mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)",
    ],
)
def test_a_confined_process_reaches_nothing_outside(sandbox, granted, tmp_path, statement):
    if not granted["seccomp"]:
        pytest.skip("this kernel grants no filter of system calls")
    (tmp_path / "secret").write_text(SECRET)
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as local:
        folder = Path("/tmp") / f"ll-{os.getpid()}"
        local.bind(str(folder))
        local.listen()
        given = statement.format(
            secret=tmp_path / "secret", parent=os.getpid(), port=server.getsockname()[1], local=folder,
            python=sys.executable,
        )  # fmt: skip
        result = attack(sandbox, attempt(given))
        folder.unlink()
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()
    assert refused(result), result
    assert (tmp_path / "secret").read_text() == SECRET
    assert not Path("/tmp/written-by-a-decoder").exists()


@pytest.mark.skipif(
    sys.platform != "linux" or os.uname().machine != "x86_64", reason="numbers of x86_64 Linux"
)
@pytest.mark.parametrize(
    ("name", "number", "arguments"),
    [
        ("openat2", 437, ("-100", "b'/etc/passwd'", "0", "0")),
        ("open", 2, ("b'/etc/passwd'", "0")),
        ("ptrace attach", 101, ("16", "{parent}", "0", "0")),
        ("process_vm_readv", 310, ("{parent}", "0", "0", "0", "0", "0")),
        ("process_vm_writev", 311, ("{parent}", "0", "0", "0", "0", "0")),
        ("pidfd_getfd", 438, ("0", "0", "0")),
        ("clone3", 435, ("0", "0")),
        ("vfork", 58, ()),
        ("unshare", 272, ("0x10000000",)),
        ("setns", 308, ("0", "0")),
        ("mount", 165, ("0", "0", "0", "0", "0")),
        ("bpf", 321, ("0", "0", "0")),
        ("io_uring_setup", 425, ("8", "0")),
        ("userfaultfd", 323, ("0",)),
        ("perf_event_open", 298, ("0", "0", "-1", "-1", "0")),
        ("keyctl", 250, ("0", "0", "0", "0", "0")),
        ("prlimit64 of the parent", 302, ("{parent}", "7", "0", "0")),
        ("tgkill", 234, ("{parent}", "{parent}", "9")),
        ("rt_sigqueueinfo", 129, ("{parent}", "9", "0")),
        ("execveat", 322, ("-100", "b'/bin/true'", "0", "0", "0")),
        ("memfd_secret", 447, ("0",)),
        ("fcntl", 72, ("1", "8", "{parent}")),
        ("ioctl", 16, ("1", "0x5412", "0")),
        ("x32 read of the parent's number", 0x40000000 + 62, ("{parent}", "9")),
    ],
)
def test_no_system_call_by_its_number(sandbox, granted, name, number, arguments):
    if not granted["seccomp"]:
        pytest.skip("this kernel grants no filter of system calls")
    given = [one.format(parent=os.getpid()) for one in arguments]
    given = [one if one.startswith("b'") else f"ctypes.c_long({one})" for one in given]
    assert refused(attack(sandbox, raw(name, number, *given)))


def test_the_environment_is_empty(sandbox, monkeypatch):
    monkeypatch.setenv("LAYERLOOP_SECRET", SECRET)
    program = (
        "getenv = ctypes.CDLL(None).getenv\ngetenv.restype = ctypes.c_char_p\n"
        "found = [sorted(os.environ), str(getenv(b'LAYERLOOP_SECRET')), str(getenv(b'PATH')), str(getenv(b'HOME'))]"
    )
    names, *values = attack(sandbox, program)
    assert set(names) <= {"LC_CTYPE", "LD_LIBRARY_PATH"}  # which Python itself and OpenCV set
    assert values == ["None"] * 3


def test_limits_cannot_be_raised_and_threads_not_made(sandbox, granted):
    assert (
        attack(sandbox, "found = resource.getrlimit(resource.RLIMIT_FSIZE)") in ([0, 0], None)
        or granted["seccomp"]
    )
    if granted["seccomp"]:
        limit = "resource.setrlimit(resource.RLIMIT_CPU, (10**9, 10**9))"
        result = attack(
            sandbox, f"try:\n    {limit}\nexcept (OSError, ValueError):\n    found = 'denied'\n"
        )
        assert refused(result)
        thread = "threading.Thread(target=print).start()"
        assert (
            attack(sandbox, f"try:\n    {thread}\nexcept RuntimeError:\n    found = 'denied'\n")
            == "denied"
        )


def test_a_worker_of_root_runs_as_another_user(sandbox, granted):
    if not granted["user"]:
        pytest.skip("only root can change its user")
    assert (
        attack(sandbox, "found = [os.getuid(), os.geteuid(), os.getgid(), os.getegid()]")
        == [65534] * 4
    )


def test_only_the_socket_and_the_files_of_the_item_are_open(sandbox):
    with contextlib.ExitStack() as stack:
        for name in ("/etc/passwd", "/etc/group"):
            handle = os.open(name, os.O_RDONLY)
            os.set_inheritable(handle, True)
            stack.callback(os.close, handle)
        with Sandbox(
            taken_over,
            lambda program: Message({"program": program}),
            lambda _, answer: answer.metadata["found"],
            workers=1,
        ) as fresh:
            program = "found = []\nfor n in range(4096):\n    try:\n        os.read(n, 0)\n        found.append(n)\n    except OSError:\n        pass\n"
            # 0 to 2 are the empty device.
            assert len(attack(fresh, program)) <= 4


CHANNEL = (
    "import_ = None\n"
    "def say(data):\n"
    "    for n in range(3, 4096):\n"
    "        try:\n"
    "            os.write(n, data)\n"
    "            return\n"
    "        except OSError:\n"
    "            pass\n"
)


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("/tmp/unpickled-in-the-parent",)


def head(metadata: object, sizes: object) -> bytes:
    data = json.dumps({"facts": metadata, "parts": sizes}).encode()
    return struct.pack("!I", len(data)) + data


@pytest.mark.parametrize(
    "answer",
    [
        os.urandom(5000),
        b"\xff" * 100,
        struct.pack("!I", 0),
        struct.pack("!I", 2**31),
        pickle.dumps(Bomb()),
        struct.pack("!I", len(pickle.dumps(Bomb()))) + pickle.dumps(Bomb()),
        struct.pack("!I", 200_000) + b"[" * 200_000,
        struct.pack("!I", 9000) + b"1" * 9000,
        head({"answer": {}}, [10 << 30]),
        head({"answer": {}}, [-1]),
        head({"answer": {}}, [None]),
        head({"answer": {}}, [True]),
        head({"answer": {}}, [1] * 1000),
        head({"answer": {}}, [1.5]),
        head({"answer": []}, []),
        head({"granted": {}}, []),
        head([], []),
        head({"answer": {"found": float("nan")}}, []),
    ],
    ids=range(18),
)
def test_an_invalid_answer_fails_its_item_only(answer):
    with Sandbox(
        taken_over, lambda program: Message({"program": program}), lambda _, answer: answer.metadata["found"], workers=1,
        limits=SandboxLimits(wall_seconds=60),
    ) as own:  # fmt: skip
        results = own.run(
            [f"{CHANNEL}say({answer!r})\ntime.sleep(0.2)\nos._exit(0)\n", "found = 'next'"]
        )
        first, second = (result for _, result in results)
    assert isinstance(first, ItemFailure)
    assert first.cause in {FailureCause.bad_answer, FailureCause.crashed}
    assert second == "next"
    assert not Path("/tmp/unpickled-in-the-parent").exists()


def test_ten_gigabytes_as_an_answer_are_not_read(sandbox):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    program = f"{CHANNEL}say({head({'answer': {}}, [500 << 20])!r})\nwhile True:\n    say(bytes(1 << 20))\n"
    with Sandbox(
        taken_over, lambda program: Message({"program": program}), lambda _, answer: answer.metadata["found"], workers=1,
        limits=SandboxLimits(answer_bytes=50 << 20),
    ) as own:  # fmt: skip
        found = attack(own, program)
        assert isinstance(found, ItemFailure)
        assert found.cause is FailureCause.bad_answer
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 << 10  # KiB


def test_a_worker_that_ignores_the_cpu_limit_is_killed():
    program = "signal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True:\n    pass\n"
    with Sandbox(
        taken_over, lambda program: Message({"program": program}), lambda _, answer: answer.metadata["found"], workers=1,
        limits=SandboxLimits(cpu_seconds=1, wall_seconds=4),
    ) as own:  # fmt: skip
        results = dict(own.run([program, "found = 'next'"]))
    assert [result.cause if isinstance(result, ItemFailure) else result for result in results.values()] == [
        FailureCause.timed_out, "next",
    ]  # fmt: skip


LOADED = LoadedItem(ImportItem("a.png", ("a.png",), "", 1), (b"",))
FACTS = {"outcome": "accept", "codes": [], "sentence": "", "sizes": {"foreground": [4, 4]}}


def test_a_valid_answer_is_accepted_without_its_hidden_colors():
    found = confined.parse_response(
        LOADED, Message(FACTS, [bytes([9, 9, 9, 0]) * 8 + bytes([1, 2, 3, 255]) * 8])
    )
    assert found.outcome is InspectionOutcome.accept
    again = confined.parse_response(
        LOADED, Message(FACTS, [bytes(4) * 8 + bytes([1, 2, 3, 255]) * 8])
    )
    assert found.layer == again.layer


@pytest.mark.parametrize(
    "change",
    [
        {"outcome": "duplicate"}, {"outcome": "partial"}, {"outcome": "reject"}, {"outcome": 3}, {"outcome": None},
        {"codes": "abc"}, {"codes": [1]}, {"codes": ["A\n"]}, {"codes": ["a" * 65]}, {"codes": ["a"] * 41},
        {"sentence": None}, {"sentence": "x" * 2001}, {"sizes": {}}, {"sizes": {"foreground": [4, 5]}},
        {"sizes": {"foreground": [-4, -4]}}, {"sizes": {"foreground": [True, 16]}}, {"sizes": {"foreground": [16.0, 1]}},
        {"sizes": {"foreground": [16]}}, {"sizes": {"background": [4, 4]}}, {"sizes": {"../x": [4, 4]}},
        {"sizes": {"foreground": [1 << 40, 1 << 40]}}, {"sizes": [4, 4]},
        {"sizes": {str(role): [4, 4] for role in LayerRole}},
    ],
    ids=str,
)  # fmt: skip
def test_an_answer_of_another_form_is_refused(change):
    with pytest.raises((InvalidMessageError, ValueError, KeyError, TypeError, AttributeError)):
        confined.parse_response(LOADED, Message(FACTS | change, [bytes(64)]))
