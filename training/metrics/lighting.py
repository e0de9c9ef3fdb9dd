"""Consistency of lighting in pairs: the correlation of foreground and background brightness.

Xue et al. (2012) chose the statistics to match in composites by their correlation between the parts
of photographs. Likewise here: brightness may differ in any one pair, such as a red ball on a lawn,
but object colors average out over many pairs.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from curation.ports import RGBA

OPAQUE_ALPHA = 127
DARKEST = 0.002
RESAMPLES, CONFIDENCE = 1_000, 0.95
MIN_PROMPTS = 4
"""Number of images below which a correlation is meaningless."""

_Y = np.array([0.2126, 0.7152, 0.0722])  # CIE Y of linear sRGB

LayerBrightness = tuple[float, float]


def brightness_of_layers(foreground: RGBA, background: RGBA) -> LayerBrightness:
    """Return the mean log2 of CIE Y (0.002..1) of foreground and background.

    The foreground counts where its alpha is above one half, the background elsewhere; neither area
    may be empty.
    """
    solid = foreground[..., 3] > OPAQUE_ALPHA
    return _brightness(foreground[solid]), _brightness(background[~solid])


def correlation(prompts: Sequence[Sequence[LayerBrightness]]) -> float | None:
    """Compute Pearson's r of foreground and background brightness, in -1..1.

    Args:
        prompts: The brightness of the generated pairs of each prompt.

    Returns:
        The correlation over all pairs; None if there are too few prompts, or no variance.
    """
    values = np.array([pair for pairs in prompts for pair in pairs])
    if sum(bool(pairs) for pairs in prompts) < MIN_PROMPTS or not values.std(axis=0).all():
        return None
    return float(np.corrcoef(values.T)[0, 1])


def bootstrap_indices(count: int) -> list[NDArray[np.int64]]:
    """Return bootstrap resamples (Efron) of `count` indices with replacement, always the same."""
    return list(np.random.default_rng(count).integers(0, count, (RESAMPLES, count)))


def percentile_interval(values: Sequence[float | None]) -> tuple[float, float] | tuple[None, None]:
    """Return the central 95 % interval of resampled values, which may include None."""
    present = [value for value in values if value is not None]
    if not present:
        return None, None
    low, high = np.quantile(present, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def _brightness(colors: RGBA) -> float:
    # From sRGB to linear light before averaging channels.
    srgb = colors[..., :3] / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    return float(np.log2(np.clip(linear @ _Y, DARKEST, 1)).mean())
