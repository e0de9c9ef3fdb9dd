"""Cache of statistics; an entry's lifetime is proportional to the time of its computation."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class AdaptiveCache(Generic[Value]):
    """A cache that keeps a value for a hundred times the time of its computation.

    At most 1 % of the time is thus spent on computations.

    Args:
        cheap: Values that take less time, in seconds, are not cached, so that statistics of small
            installations are always exact.
        clock: Function that returns the time in seconds.
    """

    SHARE, MOST = 100.0, 1_000

    def __init__(self, cheap: float = 0.01, clock: Callable[[], float] = time.monotonic) -> None:
        self._cheap = cheap
        self._clock = clock
        # Key -> expiry and value.
        self._entries: OrderedDict[Hashable, tuple[float, Value]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, compute: Callable[[], Value]) -> Value:
        """Return the cached value of a key, or compute it."""
        with self._lock:
            until, value = self._entries.get(key, (0.0, None))
        started = self._clock()
        if value is not None and started < until:
            return value
        # Compute without the lock: other keys do not wait.
        value = compute()
        duration = self._clock() - started
        with self._lock:
            self._entries.pop(key, None)
            if duration >= self._cheap:
                self._entries[key] = (started + duration * (1 + self.SHARE), value)
            while len(self._entries) > self.MOST:
                self._entries.popitem(last=False)
        return value
