"""Confidence intervals of observed shares."""

from __future__ import annotations

import math

Z_95 = 1.959963984540054


def wilson(share: float, n: float) -> tuple[float, float]:
    """The 95 % score interval (E. B. Wilson, 1927) of a share observed among n > 0; n need not be whole."""
    middle = (share + Z_95**2 / (2 * n)) / (1 + Z_95**2 / n)
    reach = Z_95 / (1 + Z_95**2 / n) * math.sqrt(share * (1 - share) / n + Z_95**2 / (4 * n**2))
    return max(0.0, middle - reach), min(1.0, middle + reach)
