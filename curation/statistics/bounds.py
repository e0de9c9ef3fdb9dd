"""Exact confidence bounds of error rates, and thresholds that are proven by them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

LEVEL: Final = 0.05
"""Default significance level: one minus the confidence."""


@dataclass(frozen=True)
class BoundedCount:
    """A count of k among n, with one-sided lower and upper confidence bounds of the share."""

    k: int
    n: int
    low: float
    high: float


def exact_bounds(k: int, n: int, level: float = LEVEL) -> BoundedCount:
    """Compute the exact bounds of Clopper and Pearson (1934); [0, 1] without observations.

    Args:
        k: The number of errors, 0 to n.
        n: The number of observations.
        level: The significance level of each bound.

    Returns:
        The count with its bounds.
    """
    from scipy.stats import beta

    low = float(beta.ppf(level, k, n - k + 1)) if k else 0.0
    high = float(beta.ppf(1 - level, k + 1, n - k)) if k < n else 1.0
    return BoundedCount(k, n, low, high)


def anytime_bounds(k: int, n: int, level: float = LEVEL) -> BoundedCount:
    """Compute bounds like `count` that hold at all n simultaneously (a confidence sequence).

    They may be checked after every observation. The interval contains all shares whose likelihood
    times 1 / level exceeds the mean likelihood over all shares; by Ville's inequality (1939) the
    true share is ever outside with probability `level` at most (Robbins, 1970).

    Args:
        k: The number of errors, 0 to n.
        n: The number of observations.
        level: The significance level.

    Returns:
        The count with its bounds.
    """
    return BoundedCount(k, n, _low_whenever(k, n, level), 1 - _low_whenever(n - k, n, level))


def _low_whenever(k: int, n: int, level: float) -> float:
    """Find the lower bound of `whenever` by bisection."""
    if not k:
        return 0.0
    # The logarithm of the mean likelihood of k among n under a uniform prior (a beta function).
    mean = math.lgamma(k + 1) + math.lgamma(n - k + 1) - math.lgamma(n + 2)
    low, high = 0.0, k / n
    for _ in range(40):
        middle = (low + high) / 2
        own = k * math.log(middle) + (n - k) * math.log1p(-middle)
        low, high = (middle, high) if mean - own >= -math.log(level) else (low, middle)
    return low


def interim_level(test_number: int, level: float = LEVEL) -> float:
    """Return the significance level of the look-th interim test (from 1) of an unlimited series.

    The levels are level / (j (j + 1)), which sum to `level`, so that tests may be repeated whenever
    there are more decisions.
    """
    return level / (test_number * (test_number + 1))


def min_sample_size(budget: float, level: float) -> int:
    """Return the smallest n at which zero errors prove a share below `budget`.

    That is (1 - budget)^n <= level.
    """
    return math.ceil(math.log(level) / math.log1p(-budget))


def count_proven_thresholds(errors: Sequence[int], n: int, budget: float, level: float) -> int:
    """Return how many thresholds, from the safest on, have a proven error rate within `budget`.

    Fixed-sequence testing: each threshold is tested at the full level, in an order that was fixed
    before any verdict was known, until the first one fails. The probability that any passed
    threshold exceeds the budget is at most `level`, however many there are (Bauer, 1991;
    Angelopoulos et al., Learn then Test, 2021, section 3.2).

    Args:
        errors: The number of errors at each threshold, from the safest on.
        n: The number of observations.
        budget: The maximum error rate.
        level: The significance level.

    Returns:
        The number of thresholds that pass.
    """
    for passed, k in enumerate(errors):
        if not n or exact_bounds(k, n, level).high > budget:
            return passed
    return len(errors)
