"""The worker's heartbeat: a thread that records in the database what this process does."""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from curation import __version__
from curation.db import workers
from curation.db.engine import Database
from curation.db.workers import WorkerState
from curation.runtime.lease_holders import WORKER_ID

log = logging.getLogger("layerloop.worker")

MAX_TEXT = 500
"""Longest stored reason or error, in characters."""


class Heartbeat:
    """The state of this worker process, recorded every few seconds and at each change.

    Args:
        database: The database.
        queues: Names of the queues whose work this process claims.
    """

    def __init__(self, database: Database, queues: Sequence[str]) -> None:
        self._database = database
        self._worker = workers.WorkerProcess(
            WORKER_ID, socket.gethostname(), os.getpid(), queues, __version__, WorkerState.idle
        )
        self._lock = threading.Lock()
        self._changed = threading.Event()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    @property
    def worker(self) -> workers.WorkerProcess:
        """The present state of this worker."""
        return self._worker

    def update(
        self,
        state: WorkerState | None = None,
        *,
        job: str | None = None,
        reason: str | None = None,
        error: str | None = None,
    ) -> None:
        """Change what is recorded, without waiting for the database.

        Args:
            state: The new state; None keeps it. A worker that drains stays so.
            job: Its present job.
            reason: Why it is paused.
            error: An error to record as the last one; None keeps the last one.
        """
        with self._lock:
            before = self._worker
            draining = before.state is WorkerState.draining
            self._worker = replace(
                before,
                state=before.state if state is None or draining else state,
                job=job,
                reason=reason and reason[:MAX_TEXT],
                last_error=error[:MAX_TEXT] if error else before.last_error,
            )
            if self._worker != before:
                self._changed.set()

    def start(self) -> None:
        """Record the worker, and start the thread."""
        self._record()
        self._thread.start()

    def stop(self) -> None:
        """End the thread, and remove the worker from the database."""
        self._ended.set()
        self._changed.set()
        self._thread.join()
        try:
            with self._database.transaction() as tx:
                workers.remove_worker(tx, WORKER_ID)
        except Exception:
            log.warning("this worker could not be removed from the list of workers", exc_info=True)

    def _run(self) -> None:
        while not self._ended.is_set():
            self._changed.wait(workers.HEARTBEAT_SECONDS)
            # Changes that follow each other closely are recorded together.
            self._ended.wait(0.2)
            self._changed.clear()
            if not self._ended.is_set():
                self._record()

    def _record(self) -> None:
        try:
            with self._database.transaction() as tx:
                workers.record_worker(tx, self._worker)
        except Exception as error:
            log.warning("the heartbeat could not be recorded: %s", error)


@contextmanager
def worker_heartbeat(database: Database, queues: Sequence[str]) -> Iterator[Heartbeat]:
    """Record this process as a worker while the block runs.

    Args:
        database: The database.
        queues: Names of the queues whose work this process claims.
    """
    heartbeat = Heartbeat(database, queues)
    heartbeat.start()
    try:
        yield heartbeat
    finally:
        heartbeat.stop()
