"""Layers as a scene lays them: faded, and placed on its canvas."""

from __future__ import annotations

import numpy as np

from curation.ports import RGBA


def fade(rgba: RGBA, opacity: int) -> RGBA:
    """The same H x W x 4 uint8 picture with its alpha times opacity / 255, rounded."""
    faded = rgba.copy()
    faded[..., 3] = (rgba[..., 3].astype(np.uint32) * (2 * opacity) + 255) // 510
    return faded


def canvas(size: tuple[int, int], colour: tuple[int, int, int] | None = None) -> RGBA:
    """A picture of (width, height) pixels in one opaque colour, or clear."""
    width, height = size
    plain = np.zeros((height, width, 4), np.uint8)
    if colour is not None:
        plain[...] = (*colour, 255)
    return plain


def on_canvas(rgba: RGBA, offset: tuple[int, int], size: tuple[int, int]) -> RGBA:
    """A picture with its upper left corner at `offset` (x, y) of a clear canvas (width, height), cut off there."""
    (left, top), (width, height) = offset, size
    clear = canvas(size)
    high, wide = rgba.shape[:2]
    x0, y0, x1, y1 = max(left, 0), max(top, 0), min(left + wide, width), min(top + high, height)
    if x0 < x1 and y0 < y1:
        clear[y0:y1, x0:x1] = rgba[y0 - top : y1 - top, x0 - left : x1 - left]
    return clear
