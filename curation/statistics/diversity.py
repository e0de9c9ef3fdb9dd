"""Diversity of vectors, by subsamples of a fixed size so that sets of any size compare.

The Vendi score and the recall grow with the number of vectors, and a bootstrap, which repeats
vectors, would lower the score. So each statistic is that of `size` vectors: its mean over
subsamples without replacement. The standard error is that of the delete-d jackknife (Shao and Wu,
Annals of Statistics 1989): the deviation between subsamples, times sqrt(size / (n - size)).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from curation.statistics.intervals import Z_95, normal_p

Vectors = NDArray[np.float32]
Matrix = NDArray[np.float64]

REPEATS: Final = 200
"""Number of subsamples."""
NEIGHBORS: Final = 3
"""Neighbors that the radius of a vector reaches in `recall`, as in its paper."""


@dataclass(frozen=True)
class PointEstimate:
    """An estimate with its standard error."""

    value: float
    std_error: float

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval, by the normal distribution."""
        return self.value - Z_95 * self.std_error, self.value + Z_95 * self.std_error


@dataclass(frozen=True)
class Ratio:
    """A ratio of two estimates, with its 95 % interval, and the p-value of the two being equal."""

    value: float
    low: float
    high: float
    p: float


def vendi_score(vectors: Vectors) -> float:
    """Compute the Vendi score by the cosine similarity: the effective number of distinct vectors.

    The exponential of the entropy of the eigenvalues of K / n, for the similarity matrix K of n
    vectors (Friedman and Dieng, TMLR 2023, arXiv 2210.02410, equation 1).

    Args:
        vectors: N x D vectors, N >= 1.

    Returns:
        The score, from 1 (all alike) to N (all different).
    """
    return _vendi_of_unit(_unit(vectors))


def mean_distance(vectors: Vectors) -> float:
    """Compute the mean Euclidean distance of two different vectors among N >= 2."""
    return _mean_of_pairs(_distances(vectors, vectors))


def recall(seeds: Vectors, drawn: Vectors, neighbors: int = NEIGHBORS) -> float:
    """Compute the share of seeds within the manifold of drawn vectors.

    The manifold is the union of balls around the drawn vectors, each as large as the distance to
    its k-th nearest neighbor among them (Kynkaanniemi et al., NeurIPS 2019, arXiv 1904.06991,
    equation 2).

    Args:
        seeds: R x D vectors of the seeds.
        drawn: N x D vectors, N > neighbors.
        neighbors: The k of the k-th nearest neighbor.
    """
    return _recall(_distances(seeds, drawn), _distances(drawn, drawn), neighbors)


def subsample_estimates(
    drawn: Vectors, seeds: Vectors, size: int, repeats: int = REPEATS
) -> dict[str, PointEstimate]:
    """PointEstimate the diversity of `size` vectors that are drawn like these.

    The vectors count as independent draws.

    Args:
        drawn: N x D vectors, N > size.
        seeds: R x D vectors of the seeds; without seeds there is no recall.
        size: The size of a subsample.
        repeats: The number of subsamples.

    Returns:
        The estimates `vendi`, `distance` and `recall`.
    """
    n = len(drawn)
    if not NEIGHBORS < size < n:
        raise ValueError(f"subsamples of {size} of {n} vectors")
    # Subsamples are the same for equal n, so that a measurement can be repeated.
    rng = np.random.default_rng([n, size])
    chosen = [rng.choice(n, size, replace=False) for _ in range(repeats)]
    # Distances between all vectors are computed once.
    unit, between = _unit(drawn), _distances(drawn, drawn)
    statistics: dict[str, Callable[[NDArray[np.intp]], float]] = {
        "vendi": lambda part: _vendi_of_unit(unit[part]),
        "distance": lambda part: _mean_of_pairs(between[np.ix_(part, part)]),
    }
    if len(seeds):
        to_seeds = _distances(seeds, drawn)
        statistics["recall"] = lambda part: _recall(
            to_seeds[:, part], between[np.ix_(part, part)], NEIGHBORS
        )
    scale = size / (n - size) + 1 / repeats  # the second term: the mean of few subsamples
    estimates = {}
    for name, statistic in statistics.items():
        values = np.array([statistic(part) for part in chosen])
        estimates[name] = PointEstimate(
            float(values.mean()), float(values.std(ddof=1)) * math.sqrt(scale)
        )
    return estimates


def ratio(later: PointEstimate, first: PointEstimate) -> Ratio | None:
    """Return the ratio of two independent estimates; None where one is not positive.

    The interval is normal on the logarithmic scale, by the delta method.
    """
    if later.value <= 0 or first.value <= 0:
        return None
    relative = math.hypot(later.std_error / later.value, first.std_error / first.value)
    value = later.value / first.value
    factor = math.exp(Z_95 * relative)
    p = normal_p(math.log(value) / relative) if relative else float(value == 1)
    return Ratio(value, value / factor, value * factor, p)


def _unit(vectors: Vectors) -> Matrix:
    wide = np.asarray(vectors, np.float64)
    unit: Matrix = wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-12)
    return unit


def _vendi_of_unit(unit: Matrix) -> float:
    # K = X X^T and X^T X have the same positive eigenvalues; the smaller matrix is cheaper.
    gram = unit @ unit.T if len(unit) <= unit.shape[1] else unit.T @ unit
    eigenvalues = np.linalg.eigvalsh(gram / len(unit))
    positive = eigenvalues[eigenvalues > 1e-12]
    return math.exp(-float(positive @ np.log(positive)))


def _distances(first: Vectors, second: Vectors) -> Matrix:
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    squared = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1) - 2 * (a @ b.T)
    distances: Matrix = np.sqrt(np.maximum(squared, 0.0))
    return distances


def _mean_of_pairs(between: Matrix) -> float:
    n = len(between)
    return float((between.sum() - np.trace(between)) / (n * (n - 1)))


def _recall(to_seeds: Matrix, between: Matrix, neighbors: int) -> float:
    # Entry 0 of a sorted row is the vector itself.
    radii = np.partition(between, neighbors, axis=1)[:, neighbors]
    return float((to_seeds <= radii).any(axis=1).mean())
