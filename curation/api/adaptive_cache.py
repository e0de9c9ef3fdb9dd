"""Cache of statistics that are slow to compute, kept longer the longer they took."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class AdaptiveCache(Generic[Value]):
    """Keeps a value a hundred times as long as computing it took, so that at most 1 % of the time goes there.

    What takes under `cheap` seconds is computed anew each time, so that small instances always see exact figures.
    """

    SHARE, MOST = 100.0, 1_000

    def __init__(self, cheap: float = 0.01, clock: Callable[[], float] = time.monotonic) -> None:
        self._cheap = cheap
        self._clock = clock
        self._kept: OrderedDict[Hashable, tuple[float, Value]] = OrderedDict()  # until when, what
        self._lock = threading.Lock()

    def get(self, key: Hashable, compute: Callable[[], Value]) -> Value:
        """The value for a key, kept or computed."""
        with self._lock:
            until, value = self._kept.get(key, (0.0, None))
        started = self._clock()
        if value is not None and started < until:
            return value
        value = compute()
        took = self._clock() - started
        with self._lock:
            self._kept.pop(key, None)
            if took >= self._cheap:
                self._kept[key] = (started + took * (1 + self.SHARE), value)
            while len(self._kept) > self.MOST:
                self._kept.popitem(last=False)
        return value
