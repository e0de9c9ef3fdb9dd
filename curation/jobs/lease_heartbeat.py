"""The worker's leases: heartbeat, release of lost leases, and the request to stop."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from curation.db import leases
from curation.db.engine import Transaction
from curation.runtime.context import AppContext
from curation.runtime.lease_holders import WORKER_ID, dead_holders, mark_alive, remove_marker

log = logging.getLogger("layerloop.jobs")

__all__ = [
    "WORKER_ID",
    "Stopped",
    "register_worker",
    "release_lost_leases",
    "renewing_leases",
    "stop_requested",
]


class Stopped(Exception):
    """The worker must stop; unfinished work is released and resumed later."""


stop_requested = threading.Event()
"""Set when this worker should end; long jobs check it at each report of progress."""


def register_worker(context: AppContext) -> None:
    """Record that this process is alive; every job calls it before it claims work."""
    mark_alive(context.settings.path("holders"))


def release_lost_leases(context: AppContext) -> None:
    """Release the work of expired leases and of processes that were killed on this machine."""
    with context.database.transaction() as tx:
        release_lost_leases_in(tx, context)


def release_lost_leases_in(tx: Transaction, context: AppContext) -> None:
    """Do the same as `release_lost_leases` in an open transaction."""
    folder = context.settings.path("holders")
    for holder in dead_holders(folder):
        leases.release_dead_holder(tx, holder)
        # If this transaction fails, the leases still expire.
        remove_marker(folder, holder)
    leases.expire(tx)


@contextmanager
def renewing_leases(context: AppContext, purpose: str) -> Iterator[None]:
    """Renew this process's leases in a background thread while the block runs.

    Args:
        context: The app context.
        purpose: Purpose of the leases, such as generate.
    """
    done = threading.Event()

    def renew() -> None:
        while not done.wait(context.settings.lease_seconds / 3):
            try:
                with context.database.transaction() as tx:
                    leases.renew(tx, WORKER_ID, purpose, context.settings.lease_seconds)
            except Exception:
                log.exception("a lease could not be renewed")

    thread = threading.Thread(target=renew, name="leases", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
