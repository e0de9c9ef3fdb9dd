"""Who works here, what it holds while it works, and how it is asked to stop."""

from __future__ import annotations

import logging
import os
import socket
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from curation import leases
from curation.house import House

log = logging.getLogger("layerloop.jobs")

HOLDER = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:6]}"
"""Who this process is in the leases; a restarted worker is somebody else."""


class Stopped(Exception):
    """The worker was asked to stop; what is half done is handed back and taken up again later."""


stopping = threading.Event()
"""Set when this worker should end: long jobs look at it between two steps."""


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
