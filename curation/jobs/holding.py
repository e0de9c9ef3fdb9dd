"""Who works here, what it holds while it works, and how it is asked to stop."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from curation import leases
from curation.database import Transaction
from curation.holders import HOLDER, announce, dead_holders, forget
from curation.house import House

log = logging.getLogger("layerloop.jobs")

__all__ = ["HOLDER", "Stopped", "announce_holder", "lease_kept", "release_lost", "stopping"]


class Stopped(Exception):
    """The worker was asked to stop; what is half done is handed back and taken up again later."""


stopping = threading.Event()
"""Set when this worker should end: long jobs look at it between two steps."""


def announce_holder(house: House) -> None:
    """Let others on this machine see that this process is alive; every job calls it before it claims anything."""
    announce(house.settings.path("holders"))


def release_lost(house: House) -> None:
    """Hand back what lost its lease: those that expired, and at once those of processes killed on this machine."""
    with house.database.transaction() as tx:
        release_lost_in(tx, house)


def release_lost_in(tx: Transaction, house: House) -> None:
    """As `release_lost`, in a transaction that is open already."""
    folder = house.settings.path("holders")
    for holder in dead_holders(folder):
        leases.hand_back_dead(tx, holder)
        # Should this transaction fail, the leases expire all the same.
        forget(folder, holder)
    leases.sweep(tx)


@contextmanager
def lease_kept(house: House, purpose: str) -> Iterator[None]:
    """Renew this process's leases in the background while work goes on with no transaction open."""
    done = threading.Event()

    def renew() -> None:
        while not done.wait(house.settings.lease_seconds / 3):
            try:
                with house.database.transaction() as tx:
                    leases.renew(tx, HOLDER, purpose, house.settings.lease_seconds)
            except Exception:
                log.exception("a lease could not be renewed")

    thread = threading.Thread(target=renew, name="leases", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
