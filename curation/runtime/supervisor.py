"""The supervisor of the local stack: starts processes, restarts those that exit, and stops them."""

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
from curation.runtime.log_files import open_log, rotate_log

LOGGER = "layerloop.processes"
log = logging.getLogger(LOGGER)

STOP_SECONDS = 30
BACK_OFF_SECONDS = (0.5, 1, 2, 4, 8)
PR_SET_PDEATHSIG = 1


@dataclass
class Process:
    """A supervised process: its name, command and log."""

    name: str
    command: list[str]
    log: Path
    running: subprocess.Popen[bytes] | None = None
    exits: int = 0
    started_at: float = 0.0


class Supervisor:
    """A thread that supervises child processes; they end with this process, even when killed."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = dict(environment)
        self.all: list[Process] = []
        self.health_checks: list[Callable[[], None]] = []
        self.stopping = threading.Event()
        self.ended = threading.Event()
        self.watcher = threading.Thread(target=self._watch, name="processes", daemon=True)

    def start(self, name: str, arguments: list[str], log: Path) -> None:
        """Start `layerloop <arguments>` as a supervised process.

        Args:
            name: The name of the process.
            arguments: The arguments of the command.
            log: The file for its output.
        """
        process = Process(name, [sys.executable, "-m", "curation.cli.main", *arguments], log)
        self._launch(process)
        self.all.append(process)
        if not self.watcher.is_alive():
            self.watcher.start()

    def stop(self) -> None:
        """Terminate all processes, wait, and kill those that do not exit."""
        # Signal all of them first, so that they stop at the same time.
        self.stopping.set()
        log.info("stopping %d processes", len(self.all))
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

    def add_health_check(self, check: Callable[[], None]) -> None:
        """Call a function about every second, to maintain parts that are not child processes."""
        self.health_checks.append(check)

    def _watch(self) -> None:
        while not self.stopping.wait(1.0):
            for process in self.all:
                # Restart a process that has ended, with back-off unless it ran for a minute.
                if process.running is not None and process.running.poll() is not None:
                    if time.monotonic() - process.started_at > 60:
                        process.exits = 0
                    wait = BACK_OFF_SECONDS[min(process.exits, len(BACK_OFF_SECONDS) - 1)]
                    process.exits += 1
                    log.warning(
                        "%s ended with exit code %d and is started again in %g s: see %s",
                        process.name,
                        process.running.returncode,
                        wait,
                        process.log,
                    )
                    if not self.stopping.wait(wait):
                        self._launch(process)
                rotate_log(process.log)
            for check in self.health_checks:
                try:
                    check()
                except LayerloopError as error:
                    log.warning("%s", error)
        # Linux ends a child with the thread that started it, and this thread restarted some.
        self.ended.wait()

    def _launch(self, process: Process) -> None:
        with open_log(process.log) as output:
            process.running = subprocess.Popen(
                process.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=self.environment,
                start_new_session=True,  # Ctrl-C reaches only the supervisor, which stops the rest
                preexec_fn=set_pdeathsig,  # noqa: PLW1509  # it only calls prctl
            )
        process.started_at = time.monotonic()
        log.info("started %s as process %d", process.name, process.running.pid)


@contextmanager
def exclusive_home(home: Path) -> Iterator[None]:
    """Lock the home for one local stack at a time. Raises LayerloopError if another one runs."""
    handle = os.open(home / "up.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise LayerloopError(
            f"a local stack is already running in {home}",
            "use its front end, or stop it with Ctrl-C first",
        ) from None
    try:
        yield
    finally:
        os.close(handle)


class Terminated(KeyboardInterrupt):
    """The interruption by SIGTERM, which ends a command as Ctrl-C does, with another exit code."""


def _terminate(_number: int, _frame: FrameType | None) -> None:
    raise Terminated


@contextmanager
def graceful_sigterm() -> Iterator[None]:
    """Handle SIGTERM like Ctrl-C during the block, in the main thread only."""
    # Containers and supervisors end a program by SIGTERM, which would skip its clean-up.
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    earlier = signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, earlier)


def set_pdeathsig() -> None:
    """Let the kernel kill this child process when its parent ends; Linux only."""
    # On other systems an orphan runs on until its leases are taken over.
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
