"""Noticing: from answers to gold, a curve of how grave a defect must be before a reviewer sees it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

LAPSE: Final = 0.02
"""The share of looks at which the most obvious defect is passed over, by a slip of the finger or the eye."""
THRESHOLDS: Final[NDArray[np.float64]] = np.linspace(0.0, 1.4, 71)
SLOPES: Final[NDArray[np.float64]] = np.geomspace(3.0, 60.0, 12)
GUESSES: Final[NDArray[np.float64]] = np.linspace(0.005, 0.605, 25)
"""The grid on which curves are weighed. A threshold above 1 has whoever hardly notices the gravest."""
BELIEVED_CLEAN: Final = (1.0, 9.0)
"""What is believed of the guess rate before any clean copy was answered: so many rejects and accepts (a beta)."""


class Look(NamedTuple):
    """One answer to gold with a planted defect: how grave it was, in (0, 1], and whether the reviewer rejected it."""

    severity: float
    rejected: bool


@dataclass(frozen=True)
class Curve:
    """What a reviewer notices of one defect.

    `threshold` is the severity that is noticed half of the time, beyond guessing, with its central 95 % interval;
    `slope` how steep the curve is there (per unit of severity); `guess` the share of clean copies that are rejected.
    """

    threshold: float
    low: float
    high: float
    slope: float
    guess: float
    n: int


def rejects(
    severity: float | NDArray[np.float64], threshold: float, slope: float, guess: float
) -> NDArray[np.float64]:
    """The probability of a reject: guess + (1 - guess - LAPSE) / (1 + exp(-slope (severity - threshold)))."""
    noticed = expit(slope * (np.asarray(severity) - threshold))
    found: NDArray[np.float64] = guess + (1 - guess - LAPSE) * noticed
    return found


def fit_curve(looks: Sequence[Look], clean: Sequence[bool]) -> Curve | None:
    """The logistic curve of answers to one defect, and to clean copies (whether each was rejected); None without looks.

    The posterior over a grid of thresholds and slopes, all equally likely before, and guess rates (L. L. Kontsevich and
    C. W. Tyler, "Bayesian adaptive estimation of psychometric slope and threshold", Vision Research 39, 1999); the
    curve's form, its guesses and lapses are those of F. A. Wichmann and N. J. Hill, "The psychometric function: I"
    (Perception and Psychophysics 63, 2001). A posterior bears ten answers, and answers that are all alike, where a fit
    would run away.
    """
    if not looks:
        return None
    severity = np.array([look.severity for look in looks])
    rejected = np.array([look.rejected for look in looks])
    noticed = expit(SLOPES[:, None] * (severity - THRESHOLDS[:, None, None]))
    told = sum(clean) + BELIEVED_CLEAN[0] - 1, len(clean) - sum(clean) + BELIEVED_CLEAN[1] - 1
    before = told[0] * np.log(GUESSES) + told[1] * np.log1p(-GUESSES)
    likelihood = np.stack(
        [
            _log_likelihood(noticed, rejected, guess) + belief
            for guess, belief in zip(GUESSES, before, strict=True)
        ]
    )
    weight = np.exp(likelihood - likelihood.max())
    weight /= weight.sum()
    ends = (
        THRESHOLDS + (THRESHOLDS[1] - THRESHOLDS[0]) / 2
    )  # a cell of the grid lies around its threshold
    low, middle, high = np.interp([0.025, 0.5, 0.975], np.cumsum(weight.sum(axis=(0, 2))), ends)
    slope = np.exp(weight.sum(axis=(0, 1)) @ np.log(SLOPES))
    guess = weight.sum(axis=(1, 2)) @ GUESSES
    return Curve(float(middle), float(low), float(high), float(slope), float(guess), len(looks))


def _log_likelihood(
    noticed: NDArray[np.float64], rejected: NDArray[np.bool_], guess: np.float64
) -> NDArray[np.float64]:
    """Of all answers, for each threshold and slope, at one guess rate."""
    said = guess + (1 - guess - LAPSE) * noticed
    found: NDArray[np.float64] = np.log(np.where(rejected, said, 1 - said)).sum(axis=2)
    return found
