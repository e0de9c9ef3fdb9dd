"""Built-in embeddings of candidates, without model weights.

The embedder is a classical one: histograms of oriented gradients (Dalal and Triggs, CVPR 2005) over
black, over white and of alpha itself, the colors of both in CIE Lab, and statistics of alpha; then
a fixed random projection with random signs, which preserves distances (Achlioptas, JCSS 2003).
Other embedders, such as CLIP or DINO, implement the port `ports.Embedder`; `source` identifies the
embedder of a stored vector.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from curation.domain import LayerRole, Prompt
from curation.errors import Refused
from curation.ports import RGBA, Embedder, EmbeddingResult, Layers

Plane = NDArray[np.float32]

EMBEDDER_ID: Final = "layerloop-gradients@1"
EMBEDDING_DIM: Final = 96
"""The dimension of the embedding."""

_SIZE, _CELLS, _BINS, _FINE = 64, 4, 8, 8
_LEVELS = np.linspace(0, 1, 9)


class GradientEmbedder:
    """The built-in embedder: about a millisecond per candidate, reproducible up to rounding."""

    source = EMBEDDER_ID
    metric_names: Sequence[str] = ()

    def embed(self, drawn: Sequence[Layers], prompts: Sequence[Prompt]) -> list[EmbeddingResult]:
        """Return one vector of length EMBEDDING_DIM per candidate; the prompts are not used."""
        return [
            EmbeddingResult(_embed(*candidate_views(layers)), {})
            for layers, _ in zip(drawn, prompts, strict=True)
        ]


BUILTIN_EMBEDDER: Final[Embedder] = GradientEmbedder()


def open_embedder(model: str | None, aesthetic: Path | None) -> Embedder:
    """Return the built-in embedder.

    Args:
        model: Must be None, since the embedder has no weights.
        aesthetic: Must be None likewise.

    Raises:
        Refused: Weights are configured.
    """
    if model or aesthetic:
        raise Refused(
            "the built-in embedder takes no weights",
            "set LAYERLOOP_EMBEDDER=training.embedding:open_embedder to use a CLIP or DINO model",
        )
    return BUILTIN_EMBEDDER


def candidate_views(layers: Layers) -> tuple[Plane, Plane, Plane]:
    """Return two views (H x W x 3, 0..1) and the alpha (H x W) of a candidate.

    The views of a single layer are over black and over white; those of a pair are its blended image
    and its background, since the foreground is seen over that.
    """
    if LayerRole.blended in layers:
        blended, background = (
            _to_unit(layers[role][..., :3]) for role in (LayerRole.blended, LayerRole.background)
        )
        return blended, background, _to_unit(layers[LayerRole.foreground][..., 3])
    rgba: RGBA = next(layers[role] for role in LayerRole if role in layers)
    alpha = _to_unit(rgba[..., 3])
    over_black = _to_unit(rgba[..., :3]) * alpha[..., None]
    return over_black, over_black + (1 - alpha[..., None]), alpha


def pack_vector(vector: Plane) -> bytes:
    """Return a vector as stored: little-endian half floats."""
    return vector.astype("<f2").tobytes()


def unpack_vectors(stored: Sequence[bytes]) -> Plane:
    """Return N stored vectors of one embedder as an N x D array."""
    return np.frombuffer(b"".join(stored), "<f2").reshape(len(stored), -1).astype(np.float32)


def _to_unit(levels: NDArray[np.uint8]) -> Plane:
    return levels.astype(np.float32) / np.float32(255)


def _embed(first: Plane, second: Plane, alpha: Plane) -> Plane:
    first, second, alpha = (
        np.asarray(cv2.resize(plane, (_SIZE, _SIZE), interpolation=cv2.INTER_AREA), np.float32)
        for plane in (first, second, alpha)
    )
    # Edges, colors and the distribution of alpha, each scaled to a similar length.
    lab_views = [cv2.cvtColor(np.clip(view, 0, 1), cv2.COLOR_RGB2Lab) for view in (first, second)]
    edges = [
        _orientation_histogram(np.asarray(view[..., 0] / 100, np.float32)) for view in lab_views
    ] + [_orientation_histogram(alpha)]
    colors = [
        cv2.resize(view, (_CELLS, _CELLS), interpolation=cv2.INTER_AREA).ravel() / 100
        for view in lab_views
    ]
    shape = cv2.resize(alpha, (_FINE, _FINE), interpolation=cv2.INTER_AREA).ravel() / _FINE
    alpha_histogram = np.sqrt(np.histogram(alpha, _LEVELS)[0] / alpha.size)
    # A fixed random projection keeps distances and makes all vectors equally long.
    described = np.concatenate(
        [*edges, *(cells / _CELLS for cells in colors), 2 * shape, alpha_histogram]
    )
    return np.asarray(described @ _projection(len(described)), np.float32)


def _orientation_histogram(plane: Plane) -> Plane:
    """Return histograms of gradient orientation in _CELLS x _CELLS cells, of unit length.

    Each pixel counts with the magnitude of its gradient.
    """
    dx, dy = cv2.Sobel(plane, cv2.CV_32F, 1, 0), cv2.Sobel(plane, cv2.CV_32F, 0, 1)
    orientation_bin = np.minimum((np.arctan2(dy, dx) % np.pi) * (_BINS / np.pi), _BINS - 1).astype(
        np.intp
    )
    # One histogram over all cells at once: each pixel's bin is offset by its cell.
    counted = np.bincount(
        (_cells() + orientation_bin).ravel(), np.hypot(dx, dy).ravel(), _CELLS * _CELLS * _BINS
    )
    # The square root (Hellinger) damps strong edges, as is usual for such histograms.
    square_root = np.sqrt(counted)
    return np.asarray(square_root / max(float(np.linalg.norm(square_root)), 1e-6), np.float32)


@cache
def _cells() -> NDArray[np.intp]:
    """Return the index of the first bin of each pixel's cell."""
    cell = np.arange(_SIZE) * _CELLS // _SIZE
    return (cell[:, None] * _CELLS + cell) * _BINS


@cache
def _projection(length: int) -> Plane:
    """Return a fixed matrix of random signs: bits of SHAKE-256 of the embedder's name."""
    bits = np.unpackbits(
        np.frombuffer(
            hashlib.shake_256(EMBEDDER_ID.encode()).digest(length * EMBEDDING_DIM // 8), np.uint8
        )
    )
    return np.asarray((2.0 * bits - 1) / np.sqrt(EMBEDDING_DIM), np.float32).reshape(
        length, EMBEDDING_DIM
    )
