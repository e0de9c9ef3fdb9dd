"""Run a function on hostile bytes in confined worker processes: one that dies, hangs or lies costs only its item.

The worker (curation.ingest.sandbox_worker) gets bytes and open files, and answers with JSON and bytes; nothing is
unpickled on either side. What it may do is in curation.ingest.confinement. Its answers come from code that may
have been taken over: `parse` must check it.
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
from curation.ingest.sandbox_wire import BadMessage, Closed, Message, receive_answer, send_request

Item = TypeVar("Item")
Result = TypeVar("Result")
Function = Callable[[Message], Message]

CPU_SECONDS: Final = 30
"""CPU time for one item; a file of the largest allowed size takes about a third of it (measured)."""
WALL_SECONDS: Final = 120.0
"""Time on the clock for one item: a busy machine gives a worker only a share of a processor."""
START_SECONDS: Final = 120.0
MEMORY: Final = 1536 << 20
"""Address space for one worker beyond what it has when it starts: six times the largest allowed picture."""
MAX_ANSWER: Final = 512 << 20
"""Bytes of one answer: the three layers of a pair of the largest size, as pixels."""
IN_FLIGHT: Final = 2
"""Items that may wait for each worker, beside the one in its hands."""

# -I: neither the working directory nor the environment can slip in a module; the path is the parent's own.
_START: Final = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[3]); "
    "from curation.ingest.sandbox_worker import main; main(int(sys.argv[1]), int(sys.argv[2]))"
)


class Cause(StrEnum):
    """Why an item has no result."""

    crashed = "crashed"  # the worker ended while it had the item
    timed_out = "timed_out"  # it took longer than the limit of CPU or of wall-clock time
    memory = "memory"  # it asked for more memory than a worker has
    raised = "raised"  # the function raised something else
    bad_answer = (
        "bad_answer"  # what came back is no answer, is too large, or was refused by `parse`
    )
    not_loaded = "not_loaded"  # `load` raised: the item never reached a worker


@dataclass(frozen=True)
class Failure:
    """An item without a result. `detail` is for a log: it may come from hostile code; `error` is what `load` raised."""

    cause: Cause
    detail: str = ""
    error: Exception | None = None


@dataclass(frozen=True)
class Limits:
    """What a worker may use, for one item each but for the memory."""

    cpu_seconds: int = CPU_SECONDS
    wall_seconds: float = WALL_SECONDS
    memory: int = MEMORY
    answer_bytes: int = MAX_ANSWER


LIMITS: Final = Limits()


class Sandbox(Generic[Item, Result]):
    """Run one function over many items in `workers` confined processes; results come in the items' order."""

    def __init__(
        self,
        function: Function,
        load: Callable[[Item], Message],
        parse: Callable[[Item, Message], Result],
        *,
        workers: int = 2,
        limits: Limits = LIMITS,
        warm_up: Callable[[], object] | None = None,
    ) -> None:
        """Prepare; workers start with the first item.

        Args:
            function: Runs in the worker, on one request. Must be importable by its name, and import at its module's
                head all that it ever needs: a confined process cannot.
            load: Makes the request from an item, in a thread of this process. Files in its parts are closed after.
            parse: Checks an answer and makes the result from it, in a thread of this process; whatever it raises
                makes the item a Failure.
            workers: How many processes.
            limits: What each may use.
            warm_up: Runs in the worker before it is confined, to load what is loaded late.
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
        self._own = threading.local()
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
        for worker in tuple(self._started):
            worker.kill()  # the thread that waits for its answer finds the socket closed
        self._threads.shutdown(wait=True)
        for worker in self._started:
            worker.close()

    def run(self, items: Iterable[Item]) -> Iterator[tuple[Item, Result | Failure]]:
        """Yield each item with its result, taking from `items` only a little ahead.

        Raises:
            LayerloopError: No worker can be started.
        """
        waiting: deque[tuple[Item, Future[Result | Failure]]] = deque()
        for item in items:
            waiting.append((item, self._threads.submit(self._work, item)))
            if len(waiting) >= self._depth:
                first, future = waiting.popleft()
                yield first, future.result()
        while waiting:
            first, future = waiting.popleft()
            yield first, future.result()

    def _work(self, item: Item) -> Result | Failure:
        """Do one item, in a thread that has a worker of its own."""
        worker = self._worker()
        try:
            request = self._load(item)
        except Exception as error:
            return Failure(Cause.not_loaded, f"{type(error).__name__}: {error}", error)
        try:
            answer = worker.ask(request)
        finally:
            for part in request.parts:
                if not isinstance(part, bytes):
                    part.close()
        if isinstance(answer, Failure):
            return answer
        try:
            return self._parse(item, answer)
        except Exception as error:
            # It may have been taken over, so that the next item gets another one.
            worker.close()
            return Failure(Cause.bad_answer, f"{type(error).__name__}: {error}")

    def _worker(self) -> Worker:
        worker: Worker | None = getattr(self._own, "worker", None)
        if worker is None or worker.gone:
            if worker is not None:
                self._started.remove(worker)
            worker = self._own.worker = Worker(self._start, self._limits)
            self._started.append(worker)
            if self._closing.is_set():
                worker.kill()
        return worker


def run_confined(
    function: Function,
    request: Message,
    *,
    limits: Limits = LIMITS,
    warm_up: Callable[[], object] | None = None,
) -> Message | Failure:
    """Run a function once in a confined process of its own, as Sandbox does; the answer is not checked."""
    with Sandbox(
        function, lambda one: one, lambda _, answer: answer, workers=1, limits=limits, warm_up=warm_up
    ) as sandbox:  # fmt: skip
        return next(sandbox.run([request]))[1]


class Worker:
    """One confined process and the socket to it; used by one thread, but may be killed from another."""

    def __init__(self, start: dict[str, object], limits: Limits) -> None:
        self._limits = limits
        self.gone = False
        self._channel, theirs = socket.socketpair()
        handle = theirs.fileno()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-X", "utf8", "-c", _START, str(handle), str(os.getpid()), _path()],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                pass_fds=[handle], env={}, cwd="/",
                start_new_session=True,  # Ctrl-C reaches only the parent, and there is no terminal to write to
            )  # fmt: skip
        except OSError as error:
            self._channel.close()
            raise _not_started(str(error)) from error
        finally:
            theirs.close()
        self.granted = self._begin(start)

    def _begin(self, start: dict[str, object]) -> dict[str, object]:
        deadline = time.monotonic() + START_SECONDS
        try:
            send_request(self._channel, Message(start), deadline)
            ready = receive_answer(self._channel, 0, deadline).facts
            granted = ready.get("granted")
            told = str(ready.get("broken"))
        except (Closed, BadMessage, OSError) as error:
            granted, told = None, type(error).__name__
        if not isinstance(granted, dict):
            self.close()
            raise _not_started(told)
        return granted

    def ask(self, request: Message) -> Message | Failure:
        """Send one request and wait for its answer; a worker that fails at this is killed."""
        deadline = time.monotonic() + self._limits.wall_seconds
        self._allow_cpu()
        try:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                send_request(self._channel, request, deadline)
            answer = receive_answer(self._channel, self._limits.answer_bytes, deadline)
            return self._unwrap(answer)
        except TimeoutError:
            failure = Failure(Cause.timed_out)
        except BadMessage as error:
            failure = Failure(Cause.bad_answer, str(error))
        except (Closed, OSError):
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(1)  # it ends by itself; how, tells the cause
            failure = Failure(Cause.timed_out if self.close() == -signal.SIGXCPU else Cause.crashed)
        self.close()
        return failure

    def _unwrap(self, answer: Message) -> Message | Failure:
        if isinstance(facts := answer.facts.get("answer"), dict):
            return Message(facts, answer.parts)
        failed = answer.facts.get("failed")
        if failed == "memory":
            return Failure(Cause.memory)
        if failed == "raised":
            return Failure(Cause.raised, str(answer.facts.get("detail"))[:1000])
        raise BadMessage("the answer has no known form")

    def _allow_cpu(self) -> None:
        """Move the limit of CPU time on from here: a worker may live long, and no single item may."""
        if sys.platform == "linux":
            with contextlib.suppress(OSError):  # it has died: the next message tells
                used = time.clock_gettime(
                    (~self._process.pid << 3) | 2
                )  # CLOCK_PROCESS_CPUTIME_ID of that process
                until = int(used) + 1 + self._limits.cpu_seconds
                resource.prlimit(
                    self._process.pid, resource.RLIMIT_CPU, (until, resource.RLIM_INFINITY)
                )

    def kill(self) -> None:
        """End the process, from any thread."""
        self.gone = True
        self._process.kill()

    def close(self) -> int:
        """End the process and return its exit status."""
        self.gone = True
        self._process.kill()
        self._channel.close()
        return self._process.wait()


def _not_started(told: str) -> LayerloopError:
    return LayerloopError(f"no confined process can be started: {told}", "run 'layerloop doctor'")


def _name(function: Callable[..., object]) -> str:
    return f"{function.__module__}:{function.__qualname__}"


def _path() -> str:
    return json.dumps([os.path.abspath(one) for one in sys.path])  # noqa: PTH100  # "" is this folder
