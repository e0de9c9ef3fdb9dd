"""Workers that train a run, each in its own process and home."""

from __future__ import annotations

import multiprocessing
import os
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from typing import Any

# Loaded once by the server that forks the workers; nothing of this package, so that each worker
# has an id of its own.
SLOW_IMPORTS = ["torch", "accelerate", "diffusers", "sqlalchemy", "boto3", "torch._dynamo"]

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(SLOW_IMPORTS)


@dataclass
class Worker:
    """A worker process, and its reports: stage number, images done, and stage."""

    process: ForkServerProcess
    reports: Connection

    def wait_for(self, stage_number: int, images: int) -> bool:
        """Wait for a report of so many images, or later; whether there was one."""
        with suppress(EOFError):
            while self.reports.recv()[:2] < (stage_number, images):
                pass
            return True
        return False

    def kill_at(self, stage_number: int, images: int, pause: float = 0.0) -> bool:
        """SIGKILL at the first report of so many images, or later; whether it was still training."""
        if self.wait_for(stage_number, images):
            time.sleep(pause)
        self.process.kill()
        self.process.join()
        return self.process.exitcode == -9

    def finish(self, seconds: float) -> int | None:
        """Wait for the worker to end, and return its exit status."""
        with suppress(EOFError):
            while True:
                self.reports.recv()
        self.process.join(seconds)
        return self.process.exitcode


def start_worker(environment: Mapping[str, str], run: uuid.UUID) -> Worker:
    """Start a worker with settings from an environment, which works until the run has ended."""
    receiver, sender = _context.Pipe(duplex=False)
    process = _context.Process(target=_work, args=(dict(environment), str(run), sender))
    process.start()
    sender.close()
    return Worker(process, receiver)


def _work(environment: dict[str, str], run: str, reports: Connection) -> None:
    os.environ.update(environment)
    # Imported here, so that the settings are those of this worker.
    from curation import jobs
    from curation.checkpoints import registry
    from curation.runtime.context import open_context
    from curation.settings import read_settings

    def tell(progress: Any) -> None:
        reports.send((progress.stage_number, progress.done, progress.stage))

    with open_context(read_settings()) as context:
        state = ""
        while state not in {"finished", "failed", "cancelled", "paused"}:
            jobs.release_lost_leases(context)
            jobs.train_run(context, run, tell)
            with context.database.transaction() as tx:
                state = registry.find_run(tx, uuid.UUID(run))["state"]
            time.sleep(0.1)
