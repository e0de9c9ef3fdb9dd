"""Bounds: what a count of errors proves about their share, exactly, and which of several thresholds it lets through."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

LEVEL: Final = 0.05
"""One minus the confidence of every statement made here."""


@dataclass(frozen=True)
class Count:
    """k of n, with what it proves: `low` and `high` are one-sided bounds, each right with the confidence asked for."""

    k: int
    n: int
    low: float
    high: float


def count(k: int, n: int, level: float = LEVEL) -> Count:
    """Clopper and Pearson's exact bounds (1934); nothing observed proves nothing."""
    from scipy.stats import beta

    low = float(beta.ppf(level, k, n - k + 1)) if k else 0.0
    high = float(beta.ppf(1 - level, k + 1, n - k)) if k < n else 1.0
    return Count(k, n, low, high)


def whenever(k: int, n: int, level: float = LEVEL) -> Count:
    """As `count`, but both bounds are right at every n together, so that one may look after each that is counted.

    All shares under which the mean likelihood of k of n over every share is below 1 / level times their own: by Ville's
    inequality (1939) the true one is ever left out with probability `level` at most (Robbins, 1970).
    """
    return Count(k, n, _low_whenever(k, n, level), 1 - _low_whenever(n - k, n, level))


def _low_whenever(k: int, n: int, level: float) -> float:
    if not k:
        return 0.0
    mean = math.lgamma(k + 1) + math.lgamma(n - k + 1) - math.lgamma(n + 2)
    low, high = 0.0, k / n
    for _ in range(40):
        middle = (low + high) / 2
        own = k * math.log(middle) + (n - k) * math.log1p(-middle)
        low, high = (middle, high) if mean - own >= -math.log(level) else (low, middle)
    return low


def spend(look: int, level: float = LEVEL) -> float:
    """The level of the look-th test (from 1) in a series without an end: all of them together spend `level`.

    level / (j (j + 1)), whose sum is `level`. So one may look again whenever there are more decisions.
    """
    return level / (look * (look + 1))


def enough(budget: float, level: float) -> int:
    """The least n of which no error at all proves a share under `budget`: (1 - budget)^n <= level."""
    return math.ceil(math.log(level) / math.log1p(-budget))


def last_proven(errors: Sequence[int], n: int, budget: float, level: float) -> int:
    """How many of a row of thresholds, from the safest on, are proven to err in at most `budget`.

    Fixed-sequence testing: each is tested at the full level, in an order that was settled before any verdict was
    looked at, and the first that fails ends it. The chance that any of those let through is bad is at most `level`
    (Bauer, 1991; Angelopoulos et al., Learn then Test, 2021, section 3.2), however many there are.
    """
    for place, k in enumerate(errors):
        if not n or count(k, n, level).high > budget:
            return place
    return len(errors)
