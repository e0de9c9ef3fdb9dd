"""Supervisor of the local stack: start processes together, restart those that die, stop them together."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from curation.errors import LayerloopError
from curation.runtime.log_files import bound_log, open_log

log = logging.getLogger("layerloop.processes")

STOP_SECONDS = 20
BACK_OFF_SECONDS = (0.5, 1, 2, 4, 8)
PR_SET_PDEATHSIG = 1


@dataclass
class Process:
    """One process that should be running: its name, how it is started, and where it writes its log."""

    name: str
    command: list[str]
    log: Path
    running: subprocess.Popen[bytes] | None = None
    deaths: int = 0
    born: float = 0.0


class Supervisor:
    """Watches a handful of processes from a thread; every one ends with this process, even when it is killed."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = dict(environment)
        self.all: list[Process] = []
        self.tended: list[Callable[[], None]] = []
        self.stopping = threading.Event()
        self.ended = threading.Event()
        self.watcher = threading.Thread(target=self._watch, name="processes", daemon=True)

    def start(self, name: str, arguments: list[str], log: Path) -> None:
        """Start `layerloop <arguments>` under a name."""
        process = Process(name, [sys.executable, "-m", "curation.cli.main", *arguments], log)
        self._launch(process)
        self.all.append(process)
        if not self.watcher.is_alive():
            self.watcher.start()

    def stop(self) -> None:
        """Ask all to stop, wait, and kill what does not."""
        self.stopping.set()
        for process in self.all:
            if process.running is not None:
                process.running.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        for process in self.all:
            if process.running is not None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.running.wait(max(0.1, deadline - time.monotonic()))
                process.running.kill()
                process.running.wait()
        self.ended.set()

    def tend(self, care: Callable[[], None]) -> None:
        """Call this every second or so, for what is no child of ours but must stand (the embedded PostgreSQL)."""
        self.tended.append(care)

    def _watch(self) -> None:
        while not self.stopping.wait(1.0):
            for process in self.all:
                if process.running is not None and process.running.poll() is not None:
                    if time.monotonic() - process.born > 60:
                        process.deaths = 0
                    wait = BACK_OFF_SECONDS[min(process.deaths, len(BACK_OFF_SECONDS) - 1)]
                    process.deaths += 1
                    if not self.stopping.wait(wait):
                        self._launch(process)
                bound_log(process.log)
            for care in self.tended:
                try:
                    care()
                except LayerloopError as error:
                    log.warning("%s", error)
        self.ended.wait()  # a child dies with the thread that started it, and some were started here

    def _launch(self, process: Process) -> None:
        with open_log(process.log) as log:
            process.running = subprocess.Popen(
                process.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.environment,
                start_new_session=True,  # Ctrl-C reaches only us; we stop the others in order
                preexec_fn=die_with_parent,  # noqa: PLW1509  # no threads touch what it calls
            )  # fmt: skip
        process.born = time.monotonic()


@contextmanager
def alone_in(home: Path) -> Iterator[None]:
    """Hold the home for one `up` or `demo` at a time. Raises LayerloopError where another one runs."""
    handle = os.open(home / "up.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise LayerloopError(
            f"{home} is up already", "use its pages, or stop it with Ctrl-C first"
        ) from None
    try:
        yield
    finally:
        os.close(handle)


class Terminated(KeyboardInterrupt):
    """SIGTERM: ends a command as Ctrl-C does, with another exit code."""


def _terminate(_number: int, _frame: FrameType | None) -> None:
    raise Terminated


@contextmanager
def ended_in_order() -> Iterator[None]:
    """Let SIGTERM, by which containers and supervisors end a program, do what Ctrl-C does; in the main thread alone."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    earlier = signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, earlier)


def die_with_parent() -> None:
    """For a child to call: on Linux the kernel kills it with its parent; elsewhere leases end what an orphan began."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
