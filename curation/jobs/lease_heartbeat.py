"""The worker's leases: heartbeat, release of lost leases, and the request to stop."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from curation.db import leases
from curation.db.engine import Transaction
from curation.runtime.context import AppContext
from curation.runtime.lease_holders import HOLDER, announce, dead_holders, forget

log = logging.getLogger("layerloop.jobs")

__all__ = ["HOLDER", "Stopped", "announce_holder", "lease_kept", "release_lost", "stopping"]


class Stopped(Exception):
    """The worker must stop; unfinished work is released and resumed later."""


stopping = threading.Event()
"""Set when this worker should end; long jobs check it at each report of progress."""


def announce_holder(context: AppContext) -> None:
    """Record that this process is alive; every job calls it before it claims work."""
    announce(context.settings.path("holders"))


def release_lost(context: AppContext) -> None:
    """Release the work of expired leases and of processes that were killed on this machine."""
    with context.database.transaction() as tx:
        release_lost_in(tx, context)


def release_lost_in(tx: Transaction, context: AppContext) -> None:
    """Do the same as `release_lost` in an open transaction."""
    folder = context.settings.path("holders")
    for holder in dead_holders(folder):
        leases.hand_back_dead(tx, holder)
        # If this transaction fails, the leases still expire.
        forget(folder, holder)
    leases.sweep(tx)


@contextmanager
def lease_kept(context: AppContext, purpose: str) -> Iterator[None]:
    """Renew this process's leases in a background thread while the block runs.

    Args:
        context: The app context.
        purpose: Purpose of the leases, such as draw.
    """
    done = threading.Event()

    def renew() -> None:
        while not done.wait(context.settings.lease_seconds / 3):
            try:
                with context.database.transaction() as tx:
                    leases.renew(tx, HOLDER, purpose, context.settings.lease_seconds)
            except Exception:
                log.exception("a lease could not be renewed")

    thread = threading.Thread(target=renew, name="leases", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
