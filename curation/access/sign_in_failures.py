"""Refused sign-ins in the event log, at a rate that strangers cannot exceed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from curation.db.engine import Database

MAX_PER_MINUTE = 30
"""Refused sign-ins that one process records in a minute; the others are counted."""


class SignInFailures:
    """A recorder of refused sign-ins; one per process.

    Anybody can make the server refuse a sign-in, so without a bound anybody could fill the
    database.

    Args:
        clock: A monotonic clock in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._minute = clock()
        self._recorded = 0
        self._omitted = 0

    def record(self, database: Database, address: str, reason: str, **data: object) -> None:
        """Record a refused sign-in in a transaction of its own, unless there were too many.

        Args:
            database: The database.
            address: Address of the client.
            reason: Why it was refused.
            **data: More data, as JSON.
        """
        omitted = self._admit()
        if omitted is None:
            return
        if omitted:
            data["omitted"] = omitted
        with database.transaction() as tx:
            tx.log("api", "sign-in refused", f"address {address}", reason=reason, **data)

    def _admit(self) -> int | None:
        """Return how many were omitted before this one; None if this one is omitted too."""
        with self._lock:
            if self._clock() - self._minute >= 60:
                self._minute, self._recorded = self._clock(), 0
            if self._recorded >= MAX_PER_MINUTE:
                self._omitted += 1
                return None
            self._recorded += 1
            omitted, self._omitted = self._omitted, 0
            return omitted
