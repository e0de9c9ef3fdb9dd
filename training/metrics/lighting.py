"""Whether the layers of pairs stand in one light: bright foregrounds over bright backgrounds, dim ones over dim ones.

Xue et al. (2012) chose what to compare in a composite by how it correlates between a photograph's parts. So here: a red
ball on a lawn disagrees in any one pair, and over many pairs its own colours cancel out.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from curation.ports import RGBA

SOLID = 127
DARKEST = 0.002
RESAMPLES, SURE = 1_000, 0.95
LEAST = 4
"""Pictures below which a correlation says nothing."""

_Y = np.array([0.2126, 0.7152, 0.0722])  # CIE Y of linear sRGB

Lights = tuple[float, float]


def lights_of(foreground: RGBA, background: RGBA) -> Lights:
    """Mean log2 of CIE Y (0.002..1) where the foreground's alpha is above a half, and of the background elsewhere.

    Both have to be somewhere.
    """
    solid = foreground[..., 3] > SOLID
    return _brightness(foreground[solid]), _brightness(background[~solid])


def correlation(pictures: Sequence[Sequence[Lights]]) -> float | None:
    """Pearson's r of both lights over all drawings of pictures, in -1..1; None where they are too few, or all alike."""
    found = np.array([lights for drawings in pictures for lights in drawings])
    if sum(bool(drawings) for drawings in pictures) < LEAST or not found.std(axis=0).all():
        return None
    return float(np.corrcoef(found.T)[0, 1])


def resample(count: int) -> list[NDArray[np.int64]]:
    """The places of so many pictures, drawn anew with replacement (Efron's bootstrap); the same every time."""
    return list(np.random.default_rng(count).integers(0, count, (RESAMPLES, count)))


def interval(values: Sequence[float | None]) -> tuple[float, float] | tuple[None, None]:
    """The middle 95 % of what resampling gave."""
    found = [value for value in values if value is not None]
    if not found:
        return None, None
    low, high = np.quantile(found, [(1 - SURE) / 2, (1 + SURE) / 2])
    return float(low), float(high)


def _brightness(colours: RGBA) -> float:
    srgb = colours[..., :3] / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    return float(np.log2(np.clip(linear @ _Y, DARKEST, 1)).mean())
