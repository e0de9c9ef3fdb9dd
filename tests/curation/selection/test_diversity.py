"""Figures of diversity: beside other libraries' values, and intervals that hold what they say."""

from __future__ import annotations

import numpy as np
import pytest

from curation.statistics.diversity import (
    PointEstimate,
    mean_distance,
    ratio,
    recall,
    subsample_estimates,
    vendi_score,
)

CENTERS = np.random.default_rng(1).normal(size=(12, 24))


def draw(rng: np.random.Generator, count: int, kinds: int = 12) -> np.ndarray:
    """Return vectors around the first `kinds` centers."""
    near = CENTERS[rng.integers(kinds, size=count)] + 1
    return (near + 0.3 * rng.normal(size=(count, 24))).astype(np.float32)


def test_the_figures_equal_those_of_the_libraries():
    drawn = np.random.default_rng(5).normal(size=(40, 12)) + 1
    seeds = np.random.default_rng(6).normal(size=(60, 12)) + 1
    # vendi-score 0.0.3, `vendi.score_X` of unit vectors.
    assert vendi_score(drawn) == pytest.approx(5.607926544213998, rel=1e-9)
    # prdc 0.2, `compute_prdc(real_features=seeds, fake_features=drawn, nearest_k=3)["recall"]`.
    assert recall(seeds, drawn) == pytest.approx(0.8166666666666667, rel=1e-9)
    # SciPy 1.16, `pdist(drawn).mean()`.
    assert mean_distance(drawn) == pytest.approx(4.652552102745703, rel=1e-9)


def test_the_score_counts_kinds():
    kinds = np.eye(5, 32)
    assert vendi_score(np.repeat(kinds, 4, axis=0)) == pytest.approx(5)
    assert vendi_score(np.repeat(kinds[:1], 9, axis=0)) == pytest.approx(1)
    # The smaller of the two matrices is used, and both have the same eigenvalues.
    wide = np.random.default_rng(0).normal(size=(30, 64))
    unit = wide / np.linalg.norm(wide, axis=1, keepdims=True)
    eigenvalues = np.linalg.eigvalsh(unit.T @ unit / 30)
    positive = eigenvalues[eigenvalues > 1e-12]
    assert vendi_score(wide) == pytest.approx(np.exp(-(positive * np.log(positive)).sum()))


def test_sets_of_any_size_have_the_same_expectation():
    rng = np.random.default_rng(3)
    seeds = draw(rng, 100)
    few, many = draw(rng, 96), draw(rng, 800)
    assert vendi_score(many) > vendi_score(few) * 1.02
    estimates = [subsample_estimates(drawn, seeds, 48) for drawn in (few, many)]
    for name in ("vendi", "distance", "recall"):
        found = ratio(estimates[1][name], estimates[0][name])
        assert found is not None
        assert found.low < 1 < found.high, name
        assert estimates[1][name].std_error < estimates[0][name].std_error
    assert subsample_estimates(few, seeds, 48) == estimates[0]
    with pytest.raises(ValueError, match="subsamples of 96 of 96"):
        subsample_estimates(few, seeds, 96)
    assert ratio(PointEstimate(1.0, 0.1), PointEstimate(0.0, 0.0)) is None


@pytest.mark.slow
@pytest.mark.parametrize(("count", "size"), [(60, 48), (96, 48), (400, 256)])
def test_equal_rounds_are_seldom_told_apart(count, size):
    """Of 200 pairs of rounds of one generator, at most 5 % (and chance) differ."""
    rng = np.random.default_rng(count)
    none = np.zeros((0, 24), np.float32)
    outside = lost = 0
    for _ in range(200):
        later, first = (subsample_estimates(draw(rng, count), none, size, 60) for _ in range(2))
        found = ratio(later["vendi"], first["vendi"])
        outside += not found.low <= 1 <= found.high
        lost += found.value < 0.9 and found.high < 1
    assert outside <= 18  # 10 are expected at 95 %, 18 exceeded in 1 % of cases
    assert lost <= 5  # at most 1.6 are expected, 5 exceeded in 1 % of cases


def test_a_collapse_is_seen():
    rng = np.random.default_rng(8)
    seeds = draw(rng, 200)
    first, later = (subsample_estimates(draw(rng, 96, k), seeds, 48) for k in (12, 4))
    for name in ("vendi", "distance", "recall"):
        found = ratio(later[name], first[name])
        assert found.value < 0.9
        assert found.high < 1
