"""Confidence intervals of observed shares."""

from __future__ import annotations

import math

Z_95 = 1.959963984540054


def wilson(share: float, n: float) -> tuple[float, float]:
    """Compute the 95 % score interval of a share (E. B. Wilson, 1927).

    Args:
        share: The observed share in [0, 1].
        n: The number of observations, > 0; an effective sample size need not be an integer.

    Returns:
        The lower and upper end of the interval, in [0, 1].
    """
    center = (share + Z_95**2 / (2 * n)) / (1 + Z_95**2 / n)
    radius = Z_95 / (1 + Z_95**2 / n) * math.sqrt(share * (1 - share) / n + Z_95**2 / (4 * n**2))
    return max(0.0, center - radius), min(1.0, center + radius)
