"""Worker processes for hostile files: one that kills its decoder kills only that process, and the batch goes on."""

from __future__ import annotations

import multiprocessing
import resource
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Generic, Self, TypeVar

import cv2

Item = TypeVar("Item")
Result = TypeVar("Result")

CPU_SECONDS = 30
"""CPU time for one item; a file of the largest allowed size takes about a third of it (measured)."""
MEMORY = 1536 << 20
"""Address space for one worker beyond what it has when it starts: six times the largest allowed picture."""
IN_FLIGHT = 8
"""Items a worker may have been given ahead: enough to keep it busy, few to repeat when a worker dies."""


@dataclass(frozen=True)
class Killed:
    """The worker died on this item, alone: it ran out of time, or its decoder crashed."""


class Sandbox(Generic[Item, Result]):
    """Runs one function over many items in `workers` processes under limits of CPU time and memory, results in order.

    The function must be importable (spawned workers share nothing with this process but its code).
    """

    def __init__(
        self, function: Callable[[Item], Result], workers: int = 2, seconds: int = CPU_SECONDS, memory: int = MEMORY
    ) -> None:
        self._function = function
        self._workers = workers
        self._limits = (seconds, memory)
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def run(self, items: Iterable[Item]) -> Iterator[tuple[Item, Result | Killed]]:
        """Each item with its result, in the items' order, taking from `items` only a little ahead."""
        waiting: deque[tuple[Item, Future[Result]]] = deque()
        for item in items:
            waiting.append((item, self._submit(item)))
            if len(waiting) >= self._workers * IN_FLIGHT:
                yield self._next(waiting)
        while waiting:
            yield self._next(waiting)

    def _submit(self, item: Item) -> Future[Result]:
        try:
            return self._open().submit(_limited, self._function, item, self._limits[0])
        except BrokenProcessPool as error:
            lost: Future[Result] = Future()
            lost.set_exception(error)
            return lost

    def _next(self, waiting: deque[tuple[Item, Future[Result]]]) -> tuple[Item, Result | Killed]:
        item, future = waiting.popleft()
        try:
            return item, future.result()
        except BrokenProcessPool:
            # Which of the items in flight did it is unknown: this one is tried alone, those behind it start afresh.
            behind = [(one, done) for one, done in waiting if not _succeeded(done)]
            result = self._alone(item)
            again = {id(done): self._submit(one) for one, done in behind}
            kept = [(one, again.get(id(done), done)) for one, done in waiting]
            waiting.clear()
            waiting.extend(kept)
            return item, result

    def _alone(self, item: Item) -> Result | Killed:
        self._close()
        try:
            return self._open().submit(_limited, self._function, item, self._limits[0]).result()
        except BrokenProcessPool:
            self._close()
            return Killed()

    def _open(self) -> ProcessPoolExecutor:
        if self._pool is None:
            # Neither fork (threads and database connections would be copied) nor one process per file (too slow).
            self._pool = ProcessPoolExecutor(
                self._workers, multiprocessing.get_context("spawn"), _confine, (self._limits[1],)
            )
        return self._pool

    def _close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None


def _succeeded(future: Future[Result]) -> bool:
    return future.done() and not future.cancelled() and future.exception() is None


def _confine(memory: int) -> None:
    """Once per worker: no core dumps, one thread, and a ceiling on address space (where the system keeps one)."""
    cv2.setNumThreads(1)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    statm = Path("/proc/self/statm")
    if statm.exists():
        now = int(statm.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + memory, now + memory))


def _limited(function: Callable[[Item], Result], item: Item, seconds: int) -> Result:
    """The soft limit moves on with every item, so that a worker may live long and no single item may."""
    resource.setrlimit(resource.RLIMIT_CPU, (int(time.process_time()) + 1 + seconds, resource.RLIM_INFINITY))
    return function(item)
