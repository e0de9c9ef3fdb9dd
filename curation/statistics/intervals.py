"""Confidence intervals of observed shares, and the test whether two of them differ."""

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


def difference_p(first: float, first_n: float, second: float, second_n: float) -> float:
    """Compute the p-value of two observed shares being equal, two-sided.

    It is the score test of two proportions: the z-test with a pooled variance, which is the
    chi-square test of Pearson (1900) without a correction for continuity.

    Args:
        first: The first share in [0, 1].
        first_n: Its number of observations, > 0; an effective sample size need not be an integer.
        second: The second share.
        second_n: Its number of observations.
    """
    pooled = (first * first_n + second * second_n) / (first_n + second_n)
    variance = pooled * (1 - pooled) * (1 / first_n + 1 / second_n)
    return normal_p((second - first) / math.sqrt(variance)) if variance > 0 else 1.0


def normal_p(z: float) -> float:
    """Compute the two-sided p-value of a standard normal statistic."""
    return math.erfc(abs(z) / math.sqrt(2))
