"""Sandbox: confined worker processes that run a function on untrusted bytes.

A worker that crashes, hangs or returns invalid data fails only its item. The worker
(curation.ingest.sandbox_worker) receives bytes and open files and responds with JSON and bytes;
neither side unpickles anything. Its permissions are in curation.ingest.confinement. A response may
come from compromised code, so `parse` must validate it.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Final, Generic, Self

from curation.ingest.sandbox_process import (
    DEFAULT_LIMITS,
    FailureCause,
    Function,
    Item,
    ItemFailure,
    Result,
    SandboxLimits,
    Worker,
)
from curation.ingest.sandbox_wire import (
    Message,
)

IN_FLIGHT: Final = 2
"""Items that may be queued for each worker, besides the current one."""


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
        if worker is None or worker.has_ended:
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


def _name(function: Callable[..., object]) -> str:
    return f"{function.__module__}:{function.__qualname__}"
