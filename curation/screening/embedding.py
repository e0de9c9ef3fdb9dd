"""Embeddings: a candidate as a few numbers, so that those that look alike lie near each other; no weights are needed.

The built-in embedder is a classical one: what edges run where (histograms of oriented gradients, Dalal and Triggs,
CVPR 2005) over black, over white and of alpha itself, the colours of both in CIE Lab, and how alpha lies; then a fixed
projection onto fewer numbers by random signs, which keeps distances (Achlioptas, JCSS 2003). Another one, such as a
CLIP or DINO, comes through the door `ports.Embedder`; `source` says whose numbers are whose.
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

SOURCE: Final = "layerloop-gradients@1"
NUMBERS: Final = 96
"""How many numbers one candidate becomes."""

_SIDE, _CELLS, _TURNS, _FINE = 64, 4, 8, 8
_LEVELS = np.linspace(0, 1, 9)


class Gradients:
    """The built-in Embedder: about a millisecond a candidate, equal on every machine up to rounding."""

    source = SOURCE
    measures: Sequence[str] = ()

    def see(self, drawn: Sequence[Layers], prompts: Sequence[Prompt]) -> list[EmbeddingResult]:
        """Each candidate's NUMBERS numbers, in order; the prompts are not looked at."""
        return [
            EmbeddingResult(_embed(*pictures(one)), {})
            for one, _ in zip(drawn, prompts, strict=True)
        ]


OWN: Final[Embedder] = Gradients()


def open_embedder(model: str | None, aesthetic: Path | None) -> Embedder:
    """The built-in embedder. Raises Refused where it is given weights, which it does not have."""
    if model or aesthetic:
        raise Refused(
            "the built-in embedder takes no weights",
            "LAYERLOOP_EMBEDDER=training.embedding:open_embedder is the one that reads a CLIP or DINO",
        )
    return OWN


def pictures(layers: Layers) -> tuple[Plane, Plane, Plane]:
    """Two looks (H x W x 3, 0..1) and the alpha (H x W) of a candidate: over black and over white; of a pair its
    blended image and its background, since that is what it is seen over.
    """
    if LayerRole.blended in layers:
        blended, background = (
            _shares(layers[role][..., :3]) for role in (LayerRole.blended, LayerRole.background)
        )
        return blended, background, _shares(layers[LayerRole.foreground][..., 3])
    rgba: RGBA = next(layers[role] for role in LayerRole if role in layers)
    alpha = _shares(rgba[..., 3])
    over_black = _shares(rgba[..., :3]) * alpha[..., None]
    return over_black, over_black + (1 - alpha[..., None]), alpha


def pack(vector: Plane) -> bytes:
    """Numbers as they are stored: half floats, little end first."""
    return vector.astype("<f2").tobytes()


def unpack(stored: Sequence[bytes]) -> Plane:
    """N stored vectors of one embedder as N x D."""
    return np.frombuffer(b"".join(stored), "<f2").reshape(len(stored), -1).astype(np.float32)


def _shares(bytes_: NDArray[np.uint8]) -> Plane:
    return bytes_.astype(np.float32) / np.float32(255)


def _embed(first: Plane, second: Plane, alpha: Plane) -> Plane:
    first, second, alpha = (
        np.asarray(cv2.resize(one, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA), np.float32)
        for one in (first, second, alpha)
    )
    looks = [cv2.cvtColor(np.clip(one, 0, 1), cv2.COLOR_RGB2Lab) for one in (first, second)]
    edges = [_turns(np.asarray(look[..., 0] / 100, np.float32)) for look in looks] + [_turns(alpha)]
    colours = [
        cv2.resize(look, (_CELLS, _CELLS), interpolation=cv2.INTER_AREA).ravel() / 100
        for look in looks
    ]
    shape = cv2.resize(alpha, (_FINE, _FINE), interpolation=cv2.INTER_AREA).ravel() / _FINE
    levels = np.sqrt(np.histogram(alpha, _LEVELS)[0] / alpha.size)
    described = np.concatenate(
        [*edges, *(colour / _CELLS for colour in colours), 2 * shape, levels]
    )
    return np.asarray(described @ _projection(len(described)), np.float32)


def _turns(plane: Plane) -> Plane:
    """Histograms of the gradient's orientation in _CELLS x _CELLS cells, weighted by its length; of unit length."""
    across, down = cv2.Sobel(plane, cv2.CV_32F, 1, 0), cv2.Sobel(plane, cv2.CV_32F, 0, 1)
    turn = np.minimum((np.arctan2(down, across) % np.pi) * (_TURNS / np.pi), _TURNS - 1).astype(
        np.intp
    )
    counted = np.bincount(
        (_cells() + turn).ravel(), np.hypot(across, down).ravel(), _CELLS * _CELLS * _TURNS
    )
    root = np.sqrt(counted)
    return np.asarray(root / max(float(np.linalg.norm(root)), 1e-6), np.float32)


@cache
def _cells() -> NDArray[np.intp]:
    """The first bin of each pixel's cell."""
    place = np.arange(_SIDE) * _CELLS // _SIDE
    return (place[:, None] * _CELLS + place) * _TURNS


@cache
def _projection(length: int) -> Plane:
    """Random signs, the same for ever: bits of SHAKE-256 of the embedder's name."""
    bits = np.unpackbits(
        np.frombuffer(hashlib.shake_256(SOURCE.encode()).digest(length * NUMBERS // 8), np.uint8)
    )
    return np.asarray((2.0 * bits - 1) / np.sqrt(NUMBERS), np.float32).reshape(length, NUMBERS)
