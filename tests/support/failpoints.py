"""Named points at which a worker process can be killed or made to fail, for fault tests.

The points stand before and after each commit, put of an object, send of a message, acknowledgement
and generated batch. They are installed by `install` in a process of a test; the product has none.
"""

from __future__ import annotations

import errno
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

POINTS = tuple(
    f"{step}.{side}"
    for step in ("commit", "put", "send", "ack", "generate")
    for side in ("before", "after")
)


@dataclass(frozen=True)
class FaultPlan:
    """The faults of one worker process.

    Attributes:
        kill: The point to die at, and at which passage, from 1; None lives.
        disk_full_until: Time (time.time) until which every put raises ENOSPC.
        clock_seconds: Seconds by which the clock of the process is wrong.
        doubled: Whether every message is sent twice.
        held_back: Whether messages are sent one late, so that they change their order.
    """

    kill: tuple[str, int] | None = None
    disk_full_until: float = 0.0
    clock_seconds: float = 0.0
    doubled: bool = False
    held_back: bool = False
    passed: Counter[str] = field(default_factory=Counter, compare=False)

    @staticmethod
    def read(row: Mapping[str, Any]) -> FaultPlan:
        """Return a plan from JSON."""
        kill = row.get("kill")
        return FaultPlan(**{**row, "kill": tuple(kill) if kill else None})

    def hit(self, point: str) -> None:
        """Pass a point, and die there if it is planned."""
        self.passed[point] += 1
        if self.kill == (point, self.passed[point]):
            os.kill(os.getpid(), signal.SIGKILL)


def install(plan: FaultPlan) -> None:
    """Install the points of a plan in this process, before it opens anything."""
    import kombu.message

    from curation.adapters.celery_queue import CeleryQueue
    from curation.adapters.s3 import S3Store
    from curation.db.engine import Database
    from curation.object_store import FolderStore
    from tests.support.shape_generator import Painter

    real_time = time.time
    original_transaction = Database.transaction

    @contextmanager
    def transaction(self: Database, **options: Any) -> Iterator[Any]:
        with original_transaction(self, **options) as tx:
            yield tx
            plan.hit("commit.before")
        plan.hit("commit.after")

    Database.transaction = transaction  # type: ignore[method-assign, assignment]

    def around(owner: Any, method: str, step: str) -> None:
        original = getattr(owner, method)

        def wrapped(self: Any, *args: Any, **kwargs: Any) -> Any:
            plan.hit(f"{step}.before")
            if step == "put" and real_time() < plan.disk_full_until:
                raise OSError(errno.ENOSPC, "No space left on device")
            result = original(self, *args, **kwargs)
            plan.hit(f"{step}.after")
            return result

        setattr(owner, method, wrapped)

    around(FolderStore, "put", "put")
    around(S3Store, "put", "put")
    around(kombu.message.Message, "ack", "ack")
    around(Painter, "generate", "generate")
    _change_messages(CeleryQueue, plan)
    around(CeleryQueue, "send", "send")
    if plan.clock_seconds:
        time.time = lambda: real_time() + plan.clock_seconds


def _change_messages(queue: Any, plan: FaultPlan) -> None:
    original = queue.send
    held: list[Any] = []

    def send(self: Any, job: Any) -> bool:
        if plan.held_back:
            held.append(job)
            if len(held) < 2:
                return True
            job = held.pop(0)
        if plan.doubled:
            original(self, job)
        return bool(original(self, job))

    queue.send = send
