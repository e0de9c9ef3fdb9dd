"""Psychometric curves: how severe a defect must be for a reviewer to notice it, from gold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

LAPSE_RATE: Final = 0.02
"""The lapse rate: the share of verdicts that miss even the most obvious defect."""
THRESHOLDS: Final[NDArray[np.float64]] = np.linspace(0.0, 1.4, 71)
SLOPES: Final[NDArray[np.float64]] = np.geomspace(3.0, 60.0, 12)
GUESSES: Final[NDArray[np.float64]] = np.linspace(0.005, 0.605, 25)
"""The grid of the posterior; above threshold 1 even the severest defect is often missed."""
GUESS_RATE_PRIOR: Final = (1.0, 9.0)
"""The beta prior of the guess rate, as numbers of rejected and accepted clean copies."""


class GoldTrial(NamedTuple):
    """A verdict on gold with a defect: its severity in (0, 1], and whether it was rejected."""

    severity: float
    rejected: bool


@dataclass(frozen=True)
class Curve:
    """The psychometric curve of a reviewer for one defect.

    Attributes:
        threshold: The severity that is noticed half of the time, beyond guessing.
        low: Lower end of its central 95 % interval.
        high: Upper end of its central 95 % interval.
        slope: The slope of the curve at the threshold, per unit of severity.
        guess: The share of clean copies that are rejected.
        n: The number of verdicts.
    """

    threshold: float
    low: float
    high: float
    slope: float
    guess: float
    n: int


def reject_probability(
    severity: float | NDArray[np.float64], threshold: float, slope: float, guess: float
) -> NDArray[np.float64]:
    """Compute the probability of a reject.

    guess + (1 - guess - LAPSE_RATE) / (1 + exp(-slope (severity - threshold)))

    Args:
        severity: The severity of the defect in [0, 1], a number or an array.
        threshold: The severity that is noticed half of the time.
        slope: The slope at the threshold.
        guess: The share of clean copies that are rejected.

    Returns:
        Probabilities of the shape of `severity`.
    """
    from scipy.special import expit  # loading it takes longer than most commands

    noticed = expit(slope * (np.asarray(severity) - threshold))
    result: NDArray[np.float64] = guess + (1 - guess - LAPSE_RATE) * noticed
    return result


def fit_curve(verdicts: Sequence[GoldTrial], clean: Sequence[bool]) -> Curve | None:
    """Fit a logistic curve to the verdicts on one defect and on clean copies.

    The posterior on a grid of thresholds, slopes (both with a uniform prior) and guess rates (L. L.
    Kontsevich and C. W. Tyler, "Bayesian adaptive estimation of psychometric slope and threshold",
    Vision Research 39, 1999); the curve with guess and lapse rates is that of F. A. Wichmann and
    N. J. Hill, "The psychometric function: I" (Perception and Psychophysics 63, 2001). Unlike a
    maximum likelihood fit, a posterior is stable with ten verdicts, or if all verdicts are equal.

    Args:
        verdicts: The verdicts on gold with the defect.
        clean: Whether each clean copy was rejected.

    Returns:
        The posterior means, the median of the threshold, and its interval; None without verdicts.
    """
    if not verdicts:
        return None
    # The probability of noticing, thresholds x slopes x verdicts.
    severity = np.array([trial.severity for trial in verdicts])
    rejected = np.array([trial.rejected for trial in verdicts])
    from scipy.special import expit

    noticed = expit(SLOPES[:, None] * (severity - THRESHOLDS[:, None, None]))

    # The log posterior, guesses x thresholds x slopes; the clean copies inform the guess rate.
    clean_counts = (
        sum(clean) + GUESS_RATE_PRIOR[0] - 1,
        len(clean) - sum(clean) + GUESS_RATE_PRIOR[1] - 1,
    )
    log_prior = clean_counts[0] * np.log(GUESSES) + clean_counts[1] * np.log1p(-GUESSES)
    likelihood = np.stack(
        [
            _log_likelihood(noticed, rejected, guess) + log_density
            for guess, log_density in zip(GUESSES, log_prior, strict=True)
        ]
    )
    weight = np.exp(likelihood - likelihood.max())
    weight /= weight.sum()

    # Marginals; a cell of the grid is centered on its threshold.
    ends = THRESHOLDS + (THRESHOLDS[1] - THRESHOLDS[0]) / 2
    low, middle, high = np.interp([0.025, 0.5, 0.975], np.cumsum(weight.sum(axis=(0, 2))), ends)
    slope = np.exp(weight.sum(axis=(0, 1)) @ np.log(SLOPES))
    guess = weight.sum(axis=(1, 2)) @ GUESSES
    return Curve(float(middle), float(low), float(high), float(slope), float(guess), len(verdicts))


def _log_likelihood(
    noticed: NDArray[np.float64], rejected: NDArray[np.bool_], guess: np.float64
) -> NDArray[np.float64]:
    """Return the log likelihood of all verdicts at one guess rate, per threshold and slope."""
    probability = guess + (1 - guess - LAPSE_RATE) * noticed
    result: NDArray[np.float64] = np.log(np.where(rejected, probability, 1 - probability)).sum(
        axis=2
    )
    return result
