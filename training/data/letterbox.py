"""Letterboxing of layers: fit an image into a square of transparent pixels."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from curation.ports import RGBA
from training.data.area_resize import resize_area
from training.data.buckets import Size

LetterboxArea = tuple[int, int, int, int]
"""Top, left, height and width in pixels."""


def letterbox(rgba: RGBA, size: int | Size) -> RGBA:
    """Fit an image into a transparent canvas, centered, and return it as H x W x 4 uint8.

    Colors are premultiplied by alpha while resizing, so that hidden colors do not bleed into
    visible pixels. An integer `size` is a square canvas.
    """
    shape = (size, size) if isinstance(size, int) else size
    top, left, new_height, new_width = letterbox_area(rgba.shape[:2], shape)
    canvas = np.zeros((*shape, 4), np.uint8)
    area = canvas[top : top + new_height, left : left + new_width]
    if area.shape == rgba.shape:
        np.copyto(area, rgba, where=rgba[..., 3:] > 0)
        return canvas
    # Premultiply in float32.
    pixels = rgba.astype(np.float32)
    pixels /= 255.0
    pixels *= _alpha_and_one(pixels[..., 3])
    small = resize_area(pixels, new_height, new_width)
    # Back to straight alpha; where alpha is 0 the color stays 0.
    small /= _alpha_and_one(np.where(small[..., 3] > 0, small[..., 3], np.float32(1)))
    small.clip(0, 1, out=small)
    small *= 255
    area[...] = np.rint(small, out=small)
    return canvas


def to_tensor(rgba: RGBA) -> Tensor:
    """Return an image of H x W x 4 uint8 as 4 x H x W float32 in [0, 1]."""
    return torch.from_numpy(rgba).permute(2, 0, 1).float() / 255.0


def letterbox_area(original: tuple[int, ...], shape: Size) -> LetterboxArea:
    """Return the area of a letterboxed image in pixels: top, left, height, width.

    Args:
        original: Height and width of the image; further axes are not allowed.
        shape: Height and width of the canvas.
    """
    (height, width), (full_height, full_width) = original, shape
    ratio = min(full_height / height, full_width / width)
    new_height, new_width = max(1, round(height * ratio)), max(1, round(width * ratio))
    return (full_height - new_height) // 2, (full_width - new_width) // 2, new_height, new_width


def _alpha_and_one(alpha: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return weights per channel: alpha for colors, 1 for alpha.

    One array of a single layout makes the multiplication three times faster than four channels.
    """
    weights = np.repeat(alpha[..., None], 4, axis=-1)
    weights[..., 3] = 1
    return weights
