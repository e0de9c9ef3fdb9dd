"""Features of the rule reviewer: layer embeddings, caption words and nearest neighbors."""

from __future__ import annotations

import re
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from curation.images.layer_masks import downscale
from curation.ports import RGBA

REVIEW_SIZE: Final = 64
"""Layers are judged at this image size (longer side, pixels)."""


MIN_VISIBLE_ALPHA: Final = 10
"""Alpha (0..255) below which pixels are ignored: network noise is invisible, a 6 % veil is not."""


ALPHA_SIDE, COLOR_SIDE = 16, 8
ALPHA_WEIGHT = 2.0
"""The weight of shape against color in the distance."""


def embed_layer(rgba: RGBA) -> NDArray[np.float32]:
    """Return a vector of 448 numbers for a layer's appearance, independent of position and scale.

    It describes the square around the visible pixels (a > 0.1): alpha at 16 x 16, and L*, a*, b* of
    the layer on mid-gray at 8 x 8, each scaled to about 0..1 and divided by the root of its count,
    so that the distance of two layers is comparable to a root mean square difference.
    """
    alpha = rgba[..., 3].astype(np.float32) / 255
    box = _square_around(alpha > 0.1, rgba.shape[0], rgba.shape[1])
    layer = np.dstack([rgba[..., :3].astype(np.float32) / 255 * alpha[..., None], alpha])
    top, left, size = box
    # The square may reach beyond the image: pad with transparency.
    pad = max(0, -top, -left, top + size - rgba.shape[0], left + size - rgba.shape[1])
    padded = np.pad(layer, ((pad, pad), (pad, pad), (0, 0)))
    square = padded[top + pad : top + pad + size, left + pad : left + pad + size]
    # Shape and colors, the latter over mid-gray so that hidden colors do not count.
    shape = cv2.resize(
        np.ascontiguousarray(square[..., 3]), (ALPHA_SIDE, ALPHA_SIDE), interpolation=cv2.INTER_AREA
    )
    cells = cv2.resize(square, (COLOR_SIDE, COLOR_SIDE), interpolation=cv2.INTER_AREA)
    on_grey = np.clip(cells[..., :3] + 0.5 * (1 - cells[..., 3:]), 0, 1)
    colors = cv2.cvtColor(on_grey, cv2.COLOR_RGB2Lab) / np.float32(100)
    parts = [ALPHA_WEIGHT * shape.ravel() / ALPHA_SIDE, colors.ravel() / COLOR_SIDE]
    return np.concatenate(parts).astype(np.float32)


def content_words(text: str) -> frozenset[str]:
    """Return the content words of a caption or prompt in lower case, without function words."""
    return frozenset(re.findall(r"[^\W\d_]{3,}", text.lower())) - STOP_WORDS


STOP_WORDS: Final = frozenset((
    "the", "and", "with", "for", "from", "its", "this", "that", "into", "onto", "over", "under",
    "some", "are",
))  # fmt: skip
"""Function words that captions are compared without."""


def prepare_layer(rgba: RGBA) -> RGBA:
    """Return the layer at REVIEW_SIZE pixels without pixels too faint to be seen."""
    small: RGBA = downscale(rgba, REVIEW_SIZE).copy()
    small[small[..., 3] < MIN_VISIBLE_ALPHA] = 0
    return small


def nearest_neighbors(
    queries: NDArray[np.float32],
    seeds: NDArray[np.float32],
    count: int,
    *,
    include_self: bool = True,
) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Return indices and distances (Q x count) of the nearest seeds, nearest first.

    Args:
        queries: Q x D embeddings.
        seeds: N x D embeddings.
        count: The number of neighbors.
        include_self: False if the queries are the seeds, to exclude each one's distance to itself.
    """
    count = min(count, len(seeds) - (not include_self))
    indices, distances = [], []
    squares = np.einsum("nd,nd->n", seeds, seeds)
    # One matrix product per 1,024 queries bounds the memory.
    for start in range(0, len(queries), 1024):
        block = queries[start : start + 1024]
        squared = np.einsum("nd,nd->n", block, block)[:, None] + squares - 2 * block @ seeds.T
        if not include_self:
            squared[np.arange(len(block)), start + np.arange(len(block))] = np.inf
        order = np.argsort(squared, axis=1)[:, :count]
        indices.append(order)
        distances.append(np.sqrt(np.maximum(np.take_along_axis(squared, order, axis=1), 0)))
    return np.concatenate(indices), np.concatenate(distances)


def _square_around(visible: NDArray[np.bool_], height: int, width: int) -> tuple[int, int, int]:
    """Return (top, left, size) of the square around visible pixels, or around the whole image."""
    rows, columns = np.flatnonzero(visible.any(axis=1)), np.flatnonzero(visible.any(axis=0))
    if not len(rows):
        rows, columns = np.array([0, height - 1]), np.array([0, width - 1])
    size = int(max(rows[-1] - rows[0], columns[-1] - columns[0])) + 1
    top = int(rows[0] + rows[-1] + 1 - size) // 2
    left = int(columns[0] + columns[-1] + 1 - size) // 2
    return top, left, size
