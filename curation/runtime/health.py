"""Readiness of a process: whether the servers that it needs answer, within a time limit."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait

import sqlalchemy as sa

from curation.db import schema
from curation.errors import LayerloopError, NotFound, Refused
from curation.object_store import FolderStore
from curation.runtime.context import AppContext

log = logging.getLogger("layerloop.health")

TIMEOUT_SECONDS = 5.0
CACHE_SECONDS = 2.0
"""Seconds for which a result is cached, so that frequent probes cost nothing."""

OK = "ok"
_NO_OBJECT = "0" * 64


class Readiness:
    """The readiness of this process; a check that hangs is not started a second time.

    Args:
        context: The app context.
    """

    def __init__(self, context: AppContext) -> None:
        checks: Mapping[str, Callable[[AppContext], None]] = {
            "database": _check_database,
            "store": _check_store,
            "queue": _check_queue,
        }
        self._checks = {name: _bound(check, context) for name, check in checks.items()}
        self._pool = ThreadPoolExecutor(len(checks), thread_name_prefix="readiness")
        self._running: dict[str, Future[str]] = {}
        self._lock = threading.Lock()
        self._result: dict[str, str] = {}
        self._checked_at = float("-inf")

    def check(self) -> dict[str, str]:
        """Return "ok" or the problem of each part in a few words; the log has the details."""
        with self._lock:
            if time.monotonic() - self._checked_at < CACHE_SECONDS:
                return dict(self._result)
            for name, check in self._checks.items():
                if name not in self._running:
                    self._running[name] = self._pool.submit(check)
            wait(self._running.values(), timeout=TIMEOUT_SECONDS)
            result = {
                name: future.result() if future.done() else "does not answer"
                for name, future in self._running.items()
            }
            self._running = {
                name: future for name, future in self._running.items() if not future.done()
            }
            # Each change is logged once, however often the process is probed.
            for name, status in result.items():
                if status != self._result.get(name, OK):
                    log.warning("readiness: the %s %s", name, "is back" if status == OK else status)
            self._result = result
            self._checked_at = time.monotonic()
            return dict(result)

    def close(self) -> None:
        """Stop the threads of the checks."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def is_ready(result: Mapping[str, str]) -> bool:
    """Return whether every part of a result is "ok"."""
    return all(status == OK for status in result.values())


def _bound(check: Callable[[AppContext], None], context: AppContext) -> Callable[[], str]:
    """Return a check as a function that returns "ok" or the problem, and never raises."""

    def run() -> str:
        try:
            check(context)
        except schema.SchemaMismatch as error:
            log.warning("%s (%s)", error.message, error.hint)
            return "has the tables of another version"
        except Refused as error:
            log.warning("%s (%s)", error.message, error.hint)
            return "is misconfigured"
        except Exception as error:
            hint = f" ({error.hint})" if isinstance(error, LayerloopError) else ""
            log.warning("%s%s", error, hint)
            return "does not answer"
        return OK

    return run


def _check_database(context: AppContext) -> None:
    """Check that the database answers, accepts writes and has the schema of this version."""
    with context.database.transaction() as tx:
        if tx.scalar(sa.text("select pg_is_in_recovery()")):
            raise Refused(
                "the database is a replica, which accepts no writes",
                "name the primary server in LAYERLOOP_DATABASE",
            )
    schema.check(context.database)


def _check_store(context: AppContext) -> None:
    """Check that the store answers a read of an object that does not exist."""
    store = context.store
    if isinstance(store, FolderStore) and not os.access(store.folder, os.W_OK | os.X_OK):
        raise Refused(
            f"the folder {store.folder} is missing or not writable",
            "mount it, or correct LAYERLOOP_STORAGE",
        )
    with contextlib.suppress(NotFound):
        store.get(_NO_OBJECT)


def _check_queue(context: AppContext) -> None:
    context.queue.check()
