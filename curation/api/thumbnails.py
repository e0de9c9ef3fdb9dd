"""Cache of shrunk layers for the grid view; the least recently used are dropped."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable

MAX_BYTES = 64 << 20
"""Size of the cache in bytes: about 3,000 layers of 320 pixels.

Memory is enough, since a layer is requested once or twice within a short time.
"""


class ThumbnailCache:
    """A thread-safe cache of encoded images, limited by their bytes.

    No thread waits for an image that another thread is encoding.
    """

    def __init__(self, most: int = MAX_BYTES) -> None:
        self._most = most
        self._entries: OrderedDict[Hashable, bytes] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], bytes]) -> bytes:
        """Return the cached bytes of a key, or make them."""
        with self._lock:
            if key in self._entries:
                self._entries.move_to_end(key)
                return self._entries[key]
        image = make()
        # Another thread may have made the same image meanwhile.
        with self._lock:
            self._bytes += len(image) - len(self._entries.pop(key, b""))
            self._entries[key] = image
            while self._bytes > self._most:
                self._bytes -= len(self._entries.popitem(last=False)[1])
        return image
