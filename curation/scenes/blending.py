"""Compositing of scene layers: opacity, and placement on a canvas."""

from __future__ import annotations

import numpy as np

from curation.ports import RGBA


def apply_opacity(rgba: RGBA, opacity: int) -> RGBA:
    """Return a copy of an H x W x 4 uint8 image with alpha times opacity / 255, rounded."""
    faded = rgba.copy()
    faded[..., 3] = (rgba[..., 3].astype(np.uint32) * (2 * opacity) + 255) // 510
    return faded


def new_canvas(size: tuple[int, int], color: tuple[int, int, int] | None = None) -> RGBA:
    """Return an image of (width, height) pixels in one opaque color, or transparent."""
    width, height = size
    rgba = np.zeros((height, width, 4), np.uint8)
    if color is not None:
        rgba[...] = (*color, 255)
    return rgba


def place_on_canvas(rgba: RGBA, offset: tuple[int, int], size: tuple[int, int]) -> RGBA:
    """Place an image on a transparent canvas and crop it there.

    Args:
        rgba: The image, H x W x 4 uint8.
        offset: The (x, y) of its upper left corner on the canvas.
        size: The canvas as (width, height).
    """
    (left, top), (width, height) = offset, size
    placed = new_canvas(size)
    image_height, image_width = rgba.shape[:2]
    # Intersect the image with the canvas; an image fully outside leaves it empty.
    x0, y0, x1, y1 = (
        max(left, 0),
        max(top, 0),
        min(left + image_width, width),
        min(top + image_height, height),
    )
    if x0 < x1 and y0 < y1:
        placed[y0:y1, x0:x1] = rgba[y0 - top : y1 - top, x0 - left : x1 - left]
    return placed
