"""Image sizes: SDXL's training sizes, and sizes by aspect ratio for other models."""

from __future__ import annotations

import math
from collections.abc import Iterable

SDXL_SIZE = 1024
"""The side of the square whose area SDXL's sizes have, in pixels."""

SDXL_SIZES: tuple[tuple[int, int], ...] = tuple(
    (width, height)
    for heights, width in (
        ((2048, 1984, 1920, 1856), 512), ((1792, 1728, 1664), 576), ((1600, 1536), 640),
        ((1472, 1408, 1344), 704), ((1344, 1280), 768), ((1216, 1152), 832), ((1152, 1088), 896),
        ((1088, 1024), 960), ((1024, 960), 1024), ((960, 896), 1088), ((896, 832), 1152),
        ((832,), 1216), ((768,), 1280), ((768,), 1344), ((704,), 1408), ((704,), 1472),
        ((640,), 1536), ((640,), 1600), ((576,), 1664), ((576,), 1728), ((576,), 1792),
        ((512,), 1856), ((512,), 1920), ((512,), 1984), ((512,), 2048),
    )
    for height in heights
)  # fmt: skip
"""Width and height of SDXL's forty training buckets (Podell et al., 2023, arXiv 2307.01952,
appendix I)."""


def nearest_size(aspect: float, sizes: Iterable[tuple[int, int]] = SDXL_SIZES) -> tuple[int, int]:
    """Return the size whose aspect ratio is nearest to `aspect`, by the logarithm.

    Models generate best at their training sizes: with a side a quarter longer or shorter, heads and
    limbs are cut off or repeated.

    Args:
        aspect: Width / height.
        sizes: Widths and heights to choose from, in pixels.
    """
    return min(sizes, key=lambda size: abs(math.log(size[0] / size[1] / aspect)))


def scaled_size(aspect: float, size: int, step: int = 64) -> tuple[int, int]:
    """Return a size of about size x size pixels at an aspect ratio, for models without a table.

    Args:
        aspect: Width / height.
        size: The side of the square of the same area, in pixels.
        step: The number that width and height are multiples of.
    """
    width, height = (
        max(step, round(size * ratio / step) * step)
        for ratio in (math.sqrt(aspect), 1 / math.sqrt(aspect))
    )
    return width, height
