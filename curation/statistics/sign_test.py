"""The exact sign test: whether one of two paired outcomes wins more often than by chance."""

from __future__ import annotations

import math
from fractions import Fraction


def sign_test(wins: int, losses: int) -> float:
    """Compute the two-sided p-value of wins against losses, ties left out.

    The probability of a split that is at least as uneven if both were equally likely
    (W. J. Dixon and A. M. Mood, 1946); for accepts and rejects of the same items it is the exact
    test of Q. McNemar (1947) on the discordant pairs.

    Args:
        wins: Number of pairs that one side wins.
        losses: Number of pairs that the other side wins.

    Returns:
        The p-value; 1 without decided pairs.
    """
    return min(1.0, 2 * one_sided_sign_test(max(wins, losses), min(wins, losses)))


def one_sided_sign_test(wins: int, losses: int) -> float:
    """Compute the probability of at least so many wins if both sides were equally likely.

    Args:
        wins: Number of pairs that the side in question wins.
        losses: Number of pairs that the other side wins.

    Returns:
        The p-value; 1 without decided pairs.
    """
    n = wins + losses
    tail = sum(math.comb(n, k) for k in range(wins, n + 1))
    # Whole numbers, since 2^n exceeds a float for large n.
    return float(Fraction(tail, 2**n))
