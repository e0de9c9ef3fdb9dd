"""The doors of the house: what it asks of the world, at most four methods each, plain data in and out."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from curation.domain import Checkpoint, DrawRequest, LayerRole, Progress, RejectReason, TrainingOrder, Verdict

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


@dataclass(frozen=True)
class DeskDecision:
    """A decision made at a desk outside the house, as it is collected; `key` makes it idempotent."""

    candidate: uuid.UUID
    reviewer: str
    verdict: Verdict
    reasons: Sequence[RejectReason]
    comment: str
    dwell_ms: int | None
    key: uuid.UUID
    at: datetime


class ReviewDesk(Protocol):
    """Where people look at candidates."""

    def put_up(self, candidates: Sequence[uuid.UUID]) -> None:
        """Show these; putting up twice is putting up once."""

    def collect(self, cursor: str) -> tuple[Sequence[DeskDecision], str]:
        """The decisions made since the cursor ("" for all), and the next cursor."""

    def take_down(self, candidates: Sequence[uuid.UUID]) -> None:
        """Show these no longer."""


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

    def __call__(self, checkpoint: Checkpoint, snapshot: str, store: ObjectStore, report: Report) -> Mapping[str, float]:
        """The figures of a checkpoint on the held-out split of a snapshot."""
