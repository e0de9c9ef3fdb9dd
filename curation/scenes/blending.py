"""Layers put over one another, exactly: straight RGBA over straight RGBA, each value rounded once."""

from __future__ import annotations

import numpy as np

from curation.ports import RGBA


def composite(foreground: RGBA, background: RGBA) -> RGBA:
    """One H x W x 4 uint8 picture over another of its size; colour 0 where the result has alpha 0.

    Porter and Duff's "over" (1984) on straight colours: a = f + b (1 - f), c = (cf f + cb b (1 - f)) / a, in whole
    numbers, so that it is the nearest uint8 to the true value. Raises ValueError where the sizes differ.
    """
    if foreground.shape != background.shape:
        raise ValueError(f"{foreground.shape} over {background.shape}")
    above = foreground[..., 3:].astype(np.uint32) * 255  # alpha times 255², as every weight here
    below = background[..., 3:].astype(np.uint32) * (255 - foreground[..., 3:].astype(np.uint32))
    weight = above + below
    colour = foreground[..., :3] * above + background[..., :3] * below
    blended = np.empty_like(foreground)
    # Twice everything, so that half of the divisor is whole: rounded, not cut off.
    blended[..., :3] = (2 * colour + weight) // np.maximum(2 * weight, 1)
    blended[..., 3:] = (2 * weight + 255) // 510
    blended[..., :3][blended[..., 3] == 0] = 0
    return blended


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
