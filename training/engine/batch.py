"""The input of an optimizer step: its micro-batches, prefetched while the previous step runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol, Self, runtime_checkable

import torch
from torch import Tensor

Batch = Mapping[str, Any]
"""A batch: tensors, lists and tensor bundles by name, each with the image as its first axis."""


@runtime_checkable
class TensorBundle(Protocol):
    """Tensors that belong together, such as a denoiser's `Conditions`."""

    def take(self, batch: Sequence[int] | slice) -> Self:
        """Return some rows of every tensor."""

    def map(self, fn: Callable[[str, Tensor], Tensor]) -> Self:
        """Return the same bundle with every tensor replaced by `change(name, tensor)`."""


@dataclass(frozen=True)
class StepBatches:
    """One step: all its sample indices, and this process's micro-batches with their loss weights.

    A weight is the micro-batch's share of the global batch, in [0, 1].
    """

    places: list[int]
    batches: list[tuple[Batch, float]]


class Prefetcher:
    """Makes the batches of the next step in a thread while the current step runs.

    Without `threaded` they are made on request. A step that is requested out of order is made
    anew.
    """

    def __init__(
        self, make_step: Callable[[int], StepBatches], total: int, *, threaded: bool
    ) -> None:
        """Create a prefetcher.

        Args:
            make_step: Makes the step that begins after some number of images.
            total: Images of the whole stage; no step is made beyond them.
            threaded: Whether to prefetch in a thread.
        """
        self._lay_out, self._total = make_step, total
        self._pool = ThreadPoolExecutor(1, "lay-out") if threaded else None
        self._next: tuple[int, Future[StepBatches]] | None = None

    def take(self, images_seen: int) -> StepBatches:
        """Return the step that begins after `images_seen` images, or raise its error."""
        if self._pool is None:
            return self._lay_out(images_seen)
        # After a resume, or the first time, no suitable step is under way.
        if self._next is None or self._next[0] != images_seen:
            self._next = (images_seen, self._pool.submit(self._lay_out, images_seen))
        step = self._next[1].result()
        # Start on the following step before the caller trains on this one.
        after = images_seen + len(step.places)
        self._next = (
            (after, self._pool.submit(self._lay_out, after)) if after < self._total else None
        )
        return step

    def close(self) -> None:
        """Stop the thread."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)


def slice_batch(batch: Batch, part: slice) -> Batch:
    """Return a slice of a batch along the image axis."""
    return {
        name: v.take(part) if isinstance(v, TensorBundle) else v[part] for name, v in batch.items()
    }


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Move a batch to a device, asynchronously from pinned memory."""
    if device.type == "cpu":
        return batch
    return _each(batch, lambda tensor: tensor.to(device, non_blocking=True))


def pin_memory(batch: Batch, device: torch.device) -> Batch:
    """Pin the memory of a batch if it is bound for a CUDA device."""
    return _each(batch, Tensor.pin_memory) if device.type == "cuda" else batch


def _each(batch: Batch, change: Callable[[Tensor], Tensor]) -> Batch:
    return {name: _change(value, change) for name, value in batch.items()}


def _change(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, TensorBundle):
        return value.map(lambda _, tensor: change(tensor))
    return change(value) if isinstance(value, Tensor) else value
