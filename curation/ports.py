"""The doors of the house: what it asks of the world, at most four methods each, plain data in and out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from curation.domain import Checkpoint, DrawRequest, Job, LayerRole, Progress, TrainingOrder

RGBA = NDArray[np.uint8]
"""One straight (not premultiplied) image, H x W x 4, sRGB and alpha in 0..255."""

Layers = Mapping[LayerRole, RGBA]
Report = Callable[[Progress], None]


class ObjectStore(Protocol):
    """Bytes under the sha256 of their content: written whole or not at all, never changed."""

    def put(self, source: bytes | Path) -> str:
        """Store bytes, or a file's bytes, and return their sha256 in hex; durable when it returns."""

    def get(self, sha256: str) -> bytes:
        """The bytes of that name, checked against it. Raises NotFound, Corrupt."""

    def has(self, sha256: str) -> bool:
        """Whether the bytes of that name are stored."""

    def address(self, sha256: str, seconds: int) -> str | None:
        """A URL at which anybody may read the bytes for so long, or None where the store has no such thing."""


class Queue(Protocol):
    """Where jobs are asked for; a nudge only, since the database knows what is to be done."""

    def send(self, job: Job) -> None:
        """Ask a worker to do it; never raises: a job that is lost here is asked for again by the sweep."""


class LayerGenerator(Protocol):
    """A loaded checkpoint that draws."""

    def draw(self, requests: Sequence[DrawRequest]) -> Sequence[Layers]:
        """Draw one candidate per request, in order; deterministic in prompt and seed, not in the batch."""


class OpenGenerator(Protocol):
    """The dotted name in LAYERLOOP_GENERATOR is one of these."""

    def __call__(self, checkpoint: Checkpoint, store: ObjectStore) -> LayerGenerator:
        """Load a checkpoint's weights from the store."""


class Train(Protocol):
    """The dotted name in LAYERLOOP_TRAINER is one of these."""

    def __call__(self, order: TrainingOrder, store: ObjectStore, folder: Path, report: Report) -> Checkpoint:
        """Train from a snapshot, resuming exactly from what `folder` holds, and store the weights."""


class Evaluate(Protocol):
    """The dotted name in LAYERLOOP_EVALUATOR is one of these."""

    def __call__(
        self, checkpoint: Checkpoint, snapshot: str, store: ObjectStore, report: Report
    ) -> Mapping[str, float]:
        """The figures of a checkpoint on the held-out split of a snapshot."""
