"""Sandbox: confined worker processes that run a function on untrusted bytes.

A worker that crashes, hangs or returns invalid data fails only its item. The worker
(curation.ingest.sandbox_worker) receives bytes and open files and responds with JSON and bytes;
neither side unpickles anything. Its permissions are in curation.ingest.confinement. A response may
come from compromised code, so `parse` must validate it.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from types import TracebackType
from typing import Final, Generic, Self, TypeVar

from curation.errors import LayerloopError
from curation.ingest.sandbox_wire import (
    ConnectionClosedError,
    InvalidMessageError,
    Message,
    receive_response,
    send_request,
)

Item = TypeVar("Item")
Result = TypeVar("Result")
Function = Callable[[Message], Message]

CPU_SECONDS: Final = 30
"""CPU time per item; a file of the largest allowed size takes about a third of it (measured)."""
WALL_SECONDS: Final = 120.0
"""Wall-clock time per item; on a busy machine a worker gets only a share of a core."""
START_SECONDS: Final = 120.0
"""Wall-clock time for the start of a worker."""
MEMORY: Final = 1536 << 20
"""Bytes of address space per worker beyond its start: six times the largest allowed image."""
MAX_RESPONSE_BYTES: Final = 512 << 20
"""Bytes of one response: the three layers of a pair of the largest size, as pixels."""
IN_FLIGHT: Final = 2
"""Items that may be queued for each worker, besides the current one."""

# -I excludes modules from the working directory and the environment; the parent passes its path.
_START: Final = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[3]); "
    "from curation.ingest.sandbox_worker import main; main(int(sys.argv[1]), int(sys.argv[2]))"
)


class FailureCause(StrEnum):
    """Why an item has no result."""

    crashed = "crashed"  # the worker ended during the item
    timed_out = "timed_out"  # it exceeded the limit of CPU or wall-clock time
    memory = "memory"  # it exceeded the memory limit
    raised = "raised"  # the function raised another exception
    bad_answer = "bad_answer"  # the response is invalid, too large, or `parse` refused it
    not_loaded = "not_loaded"  # `load` raised, so no worker received the item


@dataclass(frozen=True)
class ItemFailure:
    """Failure of an item.

    Attributes:
        cause: Why there is no result.
        detail: Untrusted text for the log.
        error: The exception that `load` raised.
    """

    cause: FailureCause
    detail: str = ""
    error: Exception | None = None


@dataclass(frozen=True)
class SandboxLimits:
    """Resource limits of a worker: per item, except for the memory."""

    cpu_seconds: int = CPU_SECONDS
    wall_seconds: float = WALL_SECONDS
    memory: int = MEMORY
    answer_bytes: int = MAX_RESPONSE_BYTES


DEFAULT_LIMITS: Final = SandboxLimits()


class Sandbox(Generic[Item, Result]):
    """Pool of confined processes that map a function over items, with results in order."""

    def __init__(
        self,
        function: Function,
        load: Callable[[Item], Message],
        parse: Callable[[Item, Message], Result],
        *,
        workers: int = 2,
        limits: SandboxLimits = DEFAULT_LIMITS,
        warm_up: Callable[[], object] | None = None,
    ) -> None:
        """Create the pool; workers start with the first items.

        Args:
            function: Runs in the worker on one request. It must be importable by name, and its
                module must import all that it needs, since a confined process cannot import.
            load: Creates the request for an item, in a thread of this process. Open files in its
                parts are closed afterwards.
            parse: Validates a response and creates the result, in a thread of this process; an
                exception makes the item a Failure.
            workers: Number of processes.
            limits: Resource limits of each.
            warm_up: Runs in the worker before it is confined, for example to import lazily
                imported modules.
        """
        self._start: dict[str, object] = {
            "function": _name(function),
            "warm_up": warm_up and _name(warm_up),
            "memory": limits.memory,
        }
        self._load = load
        self._parse = parse
        self._limits = limits
        self._depth = workers * (1 + IN_FLIGHT)
        self._threads = ThreadPoolExecutor(workers, "sandbox")
        self._closing = threading.Event()
        self._local = threading.local()
        self._started: list[Worker] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closing.set()
        self._threads.shutdown(wait=False, cancel_futures=True)
        # A thread that waits for a response finds the socket closed, and ends.
        for worker in tuple(self._started):
            worker.kill()
        self._threads.shutdown(wait=True)
        for worker in self._started:
            worker.close()

    def run(self, items: Iterable[Item]) -> Iterator[tuple[Item, Result | ItemFailure]]:
        """Yield each item with its result, in order.

        Args:
            items: The items, consumed only a few ahead of the results.

        Raises:
            LayerloopError: No worker can be started.
        """
        pending: deque[tuple[Item, Future[Result | ItemFailure]]] = deque()
        for item in items:
            pending.append((item, self._threads.submit(self._work, item)))
            if len(pending) >= self._depth:
                first, future = pending.popleft()
                yield first, future.result()
        while pending:
            first, future = pending.popleft()
            yield first, future.result()

    def _work(self, item: Item) -> Result | ItemFailure:
        """Process one item, in a thread with its own worker."""
        worker = self._worker()
        try:
            request = self._load(item)
        except Exception as error:
            return ItemFailure(FailureCause.not_loaded, f"{type(error).__name__}: {error}", error)
        try:
            response = worker.ask(request)
        finally:
            for part in request.parts:
                if not isinstance(part, bytes):
                    part.close()
        if isinstance(response, ItemFailure):
            return response
        try:
            return self._parse(item, response)
        except Exception as error:
            # The worker may be compromised, so the next item gets a new one.
            worker.close()
            return ItemFailure(FailureCause.bad_answer, f"{type(error).__name__}: {error}")

    def _worker(self) -> Worker:
        """Return the worker of this thread, started or replaced if need be."""
        worker: Worker | None = getattr(self._local, "worker", None)
        if worker is None or worker.gone:
            if worker is not None:
                self._started.remove(worker)
            worker = self._local.worker = Worker(self._start, self._limits)
            self._started.append(worker)
            # __exit__ may have listed the workers just before this one was added.
            if self._closing.is_set():
                worker.kill()
        return worker


def run_confined(
    function: Function,
    request: Message,
    *,
    limits: SandboxLimits = DEFAULT_LIMITS,
    warm_up: Callable[[], object] | None = None,
) -> Message | ItemFailure:
    """Run a function once in a confined process.

    Args:
        function: Runs in the worker; see Sandbox.
        request: Its argument.
        limits: Resource limits.
        warm_up: Runs in the worker before it is confined.

    Returns:
        The response, which the caller must validate, or the failure.

    Raises:
        LayerloopError: The worker cannot be started.
    """
    with Sandbox(
        function,
        lambda item: item,
        lambda _, response: response,
        workers=1,
        limits=limits,
        warm_up=warm_up,
    ) as sandbox:
        return next(sandbox.run([request]))[1]


class Worker:
    """One confined process and the socket to it; only `kill` may be called from another thread."""

    def __init__(self, start: dict[str, object], limits: SandboxLimits) -> None:
        """Start the process and wait until it is confined.

        Args:
            start: First message: names of function and warm-up, and the memory limit.
            limits: Resource limits per item.

        Raises:
            LayerloopError: The process cannot be started.
        """
        self._limits = limits
        self.gone = False
        self._channel, theirs = socket.socketpair()
        handle = theirs.fileno()
        options = ("-I", "-X", "utf8", "-c")
        try:
            # A session of its own: Ctrl-C reaches only the parent, and there is no terminal.
            self._process = subprocess.Popen(
                [sys.executable, *options, _START, str(handle), str(os.getpid()), _path()],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                pass_fds=[handle], env={}, cwd="/", start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            self._channel.close()
            raise _not_started(str(error)) from error
        finally:
            theirs.close()
        self.granted = self._begin(start)

    def _begin(self, start: dict[str, object]) -> dict[str, object]:
        """Send the first message and return the granted parts of the confinement."""
        deadline = time.monotonic() + START_SECONDS
        try:
            send_request(self._channel, Message(start), deadline)
            ready = receive_response(self._channel, 0, deadline).metadata
            granted = ready.get("granted")
            reason = str(ready.get("broken"))
        except (ConnectionClosedError, InvalidMessageError, OSError) as error:
            granted, reason = None, type(error).__name__
        if not isinstance(granted, dict):
            self.close()
            raise _not_started(reason)
        return granted

    def ask(self, request: Message) -> Message | ItemFailure:
        """Send one request and return the response, or the failure after killing the worker."""
        deadline = time.monotonic() + self._limits.wall_seconds
        self._allow_cpu()
        try:
            # A worker that ended while sending may have left a response.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                send_request(self._channel, request, deadline)
            response = receive_response(self._channel, self._limits.answer_bytes, deadline)
            return self._unwrap(response)
        except TimeoutError:
            failure = ItemFailure(FailureCause.timed_out)
        except InvalidMessageError as error:
            failure = ItemFailure(FailureCause.bad_answer, str(error))
        except (ConnectionClosedError, OSError):
            # It ends by itself; its exit status shows whether it exceeded the CPU time.
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(1)
            failure = ItemFailure(
                FailureCause.timed_out if self.close() == -signal.SIGXCPU else FailureCause.crashed
            )
        self.close()
        return failure

    def _unwrap(self, response: Message) -> Message | ItemFailure:
        """Return the function's response, or the failure that the worker reports."""
        if isinstance(content := response.metadata.get("answer"), dict):
            return Message(content, response.parts)
        failed = response.metadata.get("failed")
        if failed == "memory":
            return ItemFailure(FailureCause.memory)
        if failed == "raised":
            return ItemFailure(FailureCause.raised, str(response.metadata.get("detail"))[:1000])
        raise InvalidMessageError("the response has an unknown form")

    def _allow_cpu(self) -> None:
        """Set the CPU time limit of the process to its usage so far plus that of one item."""
        if sys.platform == "linux":
            # An OSError means that the process has ended, which the next message reports.
            with contextlib.suppress(OSError):
                # The clock ID of another process's CPU time, as clock_getcpuclockid computes it.
                used = time.clock_gettime((~self._process.pid << 3) | 2)
                until = int(used) + 1 + self._limits.cpu_seconds
                resource.prlimit(
                    self._process.pid, resource.RLIMIT_CPU, (until, resource.RLIM_INFINITY)
                )

    def kill(self) -> None:
        """Kill the process, from any thread."""
        self.gone = True
        self._process.kill()

    def close(self) -> int:
        """Kill the process and return its exit status."""
        self.gone = True
        self._process.kill()
        self._channel.close()
        return self._process.wait()


def _not_started(reason: str) -> LayerloopError:
    return LayerloopError(f"no confined process can be started: {reason}", "run 'layerloop doctor'")


def _name(function: Callable[..., object]) -> str:
    return f"{function.__module__}:{function.__qualname__}"


def _path() -> str:
    # An empty entry means the working directory.
    return json.dumps([os.path.abspath(entry) for entry in sys.path])  # noqa: PTH100
