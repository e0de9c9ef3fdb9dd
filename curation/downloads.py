"""Prefetching of objects by a few threads."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor

from curation.ports import ObjectStore


class Downloads:
    """Prefetched objects: a few threads read them ahead, each once.

    Args:
        store: The object store.
        threads: Number of objects that are read at the same time.
    """

    def __init__(self, store: ObjectStore, threads: int = 16) -> None:
        self._store = store
        self._threads = ThreadPoolExecutor(threads, "download")
        self._reading: dict[str, Future[bytes]] = {}

    def start(self, names: Iterable[str]) -> None:
        """Start to read objects; the caller limits how many are started before it takes them."""
        for name in names:
            if name not in self._reading:
                self._reading[name] = self._threads.submit(self._store.get, name)

    def take(self, sha256: str) -> bytes:
        """Wait for an object, and return its bytes, which are kept until `forget`.

        Args:
            sha256: The object's name.

        Raises:
            NotFound: There is no such object.
            Corrupt: The stored bytes have another sha256.
            Unreachable: The store does not answer.
        """
        self.start([sha256])
        return self._reading[sha256].result()

    def forget(self, names: Iterable[str]) -> None:
        """Free the bytes of objects."""
        for name in names:
            self._reading.pop(name, None)

    def close(self) -> None:
        """Cancel the reads that have not begun, and end the threads."""
        self._threads.shutdown(cancel_futures=True)
