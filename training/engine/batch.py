"""What a step of a training looks at: its rows, one for each image, laid out ahead of the loop and dealt out to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol, Self, runtime_checkable

import torch
from torch import Tensor

Rows = Mapping[str, Any]
"""By name: tensors, lists and bundles of tensors, whose first axis is the image."""


@runtime_checkable
class TensorBundle(Protocol):
    """Tensors that belong together, as what a denoiser is told (training.denoiser.denoiser.Conditions)."""

    def take(self, rows: Sequence[int] | slice) -> Self:
        """Some rows of every tensor."""

    def map(self, change: Callable[[str, Tensor], Tensor]) -> Self:
        """The same tensors, each changed."""


@dataclass(frozen=True)
class Laid:
    """A step: the places of all its pictures, and this process's batches of it, each with its share of the whole."""

    places: list[int]
    batches: list[tuple[Rows, float]]


class Prefetcher:
    """Steps, each laid out in a thread while the one before it is computed; or when asked for, if not `threaded`.

    One that is asked for out of turn is laid out anew.
    """

    def __init__(self, lay_out: Callable[[int], Laid], total: int, *, threaded: bool) -> None:
        self._lay_out, self._total = lay_out, total
        self._pool = ThreadPoolExecutor(1, "lay-out") if threaded else None
        self._next: tuple[int, Future[Laid]] | None = None

    def take(self, seen: int) -> Laid:
        """The step after `seen` images. Raises what laying it out raised."""
        if self._pool is None:
            return self._lay_out(seen)
        if self._next is None or self._next[0] != seen:
            self._next = (seen, self._pool.submit(self._lay_out, seen))
        laid = self._next[1].result()
        after = seen + len(laid.places)
        self._next = (
            (after, self._pool.submit(self._lay_out, after)) if after < self._total else None
        )
        return laid

    def close(self) -> None:
        """Let the thread end."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)


def cut(rows: Rows, part: slice) -> Rows:
    """Some of the rows."""
    return {
        name: v.take(part) if isinstance(v, TensorBundle) else v[part] for name, v in rows.items()
    }


def send(rows: Rows, device: torch.device) -> Rows:
    """The rows on a device, without waiting for their arrival where they lie in pinned memory."""
    if device.type == "cpu":
        return rows
    return _each(rows, lambda tensor: tensor.to(device, non_blocking=True))


def pin(rows: Rows, device: torch.device) -> Rows:
    """The rows in memory that a GPU reads by itself, where there is one."""
    return _each(rows, Tensor.pin_memory) if device.type == "cuda" else rows


def _each(rows: Rows, change: Callable[[Tensor], Tensor]) -> Rows:
    return {name: _change(value, change) for name, value in rows.items()}


def _change(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, TensorBundle):
        return value.map(lambda _, tensor: change(tensor))
    return change(value) if isinstance(value, Tensor) else value
