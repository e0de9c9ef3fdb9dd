"""Work in threads over long lists, a bounded number of items ahead of the results."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Final, TypeVar

T = TypeVar("T")
R = TypeVar("R")

WINDOW: Final = 4
"""Items per thread that are worked on or done before their results are taken."""


def in_parallel(
    work: Callable[[T], R], items: Iterable[T], workers: int, *, ordered: bool = False
) -> Iterator[R]:
    """Yield the results of a function, a bounded number ahead.

    Args:
        work: The function.
        items: Its arguments.
        workers: Number of threads.
        ordered: Yield them in the order of the arguments, otherwise in that of completion.
    """
    pending: list[Future[R]] = []

    def take() -> list[R]:
        """Remove the next futures, and return their results."""
        done = pending[:1] if ordered else wait(pending, return_when=FIRST_COMPLETED).done
        pending[:] = [future for future in pending if future not in done]
        return [future.result() for future in done]

    with ThreadPoolExecutor(workers, "exports") as pool:
        try:
            for item in items:
                pending.append(pool.submit(work, item))
                while len(pending) >= workers * WINDOW:
                    yield from take()
            while pending:
                yield from take()
        finally:
            for future in pending:
                future.cancel()
