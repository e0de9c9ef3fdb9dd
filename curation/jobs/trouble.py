"""Trouble of jobs: whether an error comes from the instance, the worker or the candidates."""

from __future__ import annotations

import errno
import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, TypeVar

import sqlalchemy as sa

from curation.adapters.celery_queue import QUEUE_JOBS
from curation.errors import LayerloopError, Unreachable

DISK_ERRORS: Final = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.ENOMEM, errno.EMFILE, errno.ENFILE}
)
"""Errors of an operating system that lacks something, which no candidate is the reason of."""

FIRST_PAUSE_SECONDS: Final = 1.0
INSTANCE_PAUSE_SECONDS: Final = 20.0
"""Longest pause after trouble of the instance, which ends for all workers at once."""
WORKER_PAUSE_SECONDS: Final = 300.0
"""Longest pause of a worker that cannot do a kind of work while others may."""

Result = TypeVar("Result")


class InstanceTrouble(LayerloopError):
    """The store, the database or a disk fails: no candidate is the reason; it is tried again."""


class WorkerTrouble(LayerloopError):
    """This worker cannot do a kind of work: it cannot load the weights, or its batches fail."""


def is_instance_trouble(error: BaseException) -> bool:
    """Return whether an error is one of the store, the database, the network or a disk."""
    if isinstance(error, (InstanceTrouble, Unreachable, ConnectionError, TimeoutError)):
        return True
    if isinstance(error, sa.exc.DBAPIError):
        return isinstance(error, (sa.exc.OperationalError, sa.exc.InterfaceError)) or (
            error.connection_invalidated
        )
    return isinstance(error, OSError) and error.errno in DISK_ERRORS


def describe(error: BaseException) -> str:
    """Return an error as one line: its kind, unless it is one of this package, and its message."""
    text = error.message if isinstance(error, LayerloopError) else str(error)
    name = "" if isinstance(error, LayerloopError) else f"{type(error).__name__}: "
    return " ".join(f"{name}{text}".split())


def retry_in_trouble(
    work: Callable[[], Result], seconds: float, stopping: threading.Event
) -> Result:
    """Call work again, with growing pauses, while the instance is in trouble.

    Args:
        work: The work; it must be idempotent.
        seconds: Time after which the trouble is raised.
        stopping: Set when this process should end, which also raises the trouble.

    Returns:
        The result of the work.

    Raises:
        InstanceTrouble: The trouble lasted longer.
    """
    deadline, pause = time.monotonic() + seconds, 0.1
    while True:
        try:
            return work()
        except Exception as error:
            if not is_instance_trouble(error):
                raise
            if time.monotonic() > deadline or stopping.wait(pause * random.uniform(0.5, 1)):
                raise InstanceTrouble(describe(error)) from error
            pause = min(2 * pause, 3.0)


@dataclass
class Breaker:
    """A circuit breaker for one kind of work of this worker.

    After trouble it pauses the work, longer each time, and then tries one small batch.
    """

    failures: int = 0
    until: float = 0.0
    reason: str = ""

    @property
    def is_open(self) -> bool:
        """Whether the work is paused now."""
        return time.monotonic() < self.until

    @property
    def is_probing(self) -> bool:
        """Whether the last batch failed, so that the next one should be small."""
        return self.failures > 0

    def succeed(self) -> None:
        """Record a success, which ends the pauses."""
        self.failures = 0
        self.until, self.reason = 0.0, ""

    def fail(self, error: BaseException) -> float:
        """Record an error, and pause.

        Args:
            error: The error.

        Returns:
            The seconds of the pause.
        """
        of_instance = is_instance_trouble(error)
        longest = INSTANCE_PAUSE_SECONDS if of_instance else WORKER_PAUSE_SECONDS
        # Workers that failed together do not come back together.
        pause = min(FIRST_PAUSE_SECONDS * (1 << min(self.failures, 10)), longest)
        pause *= random.uniform(0.75, 1.25)
        self.failures += 1
        self.until, self.reason = time.monotonic() + pause, describe(error)
        return pause


breakers: Mapping[str, Breaker] = {queue: Breaker() for queue in QUEUE_JOBS}
"""The circuit breakers of this process, by queue."""


def pause_reason() -> str | None:
    """Return what this worker pauses and why, or None if it pauses nothing."""
    paused = [
        f"{queue} pauses for {max(1, round(breaker.until - time.monotonic()))} s: {breaker.reason}"
        for queue, breaker in breakers.items()
        if breaker.is_open
    ]
    return "; ".join(paused) or None
