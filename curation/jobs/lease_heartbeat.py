"""Who works here, what it holds while it works, and how it is asked to stop."""

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
    """The worker was asked to stop; what is half done is handed back and taken up again later."""


stopping = threading.Event()
"""Set when this worker should end: long jobs look at it between two steps."""


def announce_holder(context: AppContext) -> None:
    """Let others on this machine see that this process is alive; every job calls it before it claims anything."""
    announce(context.settings.path("holders"))


def release_lost(context: AppContext) -> None:
    """Hand back what lost its lease: those that expired, and at once those of processes killed on this machine."""
    with context.database.transaction() as tx:
        release_lost_in(tx, context)


def release_lost_in(tx: Transaction, context: AppContext) -> None:
    """As `release_lost`, in a transaction that is open already."""
    folder = context.settings.path("holders")
    for holder in dead_holders(folder):
        leases.hand_back_dead(tx, holder)
        # Should this transaction fail, the leases expire all the same.
        forget(folder, holder)
    leases.sweep(tx)


@contextmanager
def lease_kept(context: AppContext, purpose: str) -> Iterator[None]:
    """Renew this process's leases in the background while work goes on with no transaction open."""
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
