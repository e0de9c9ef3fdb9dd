"""Bounds: equal to scipy's, spent once, and with the promised coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from curation.domain import Verdict
from curation.selection.gates import THRESHOLD_SHARES
from curation.selection.thresholds import evaluate_thresholds
from curation.statistics.bounds import (
    anytime_bounds,
    count_proven_thresholds,
    exact_bounds,
    interim_level,
    min_sample_size,
)


@given(st.integers(0, 300), st.integers(1, 300), st.sampled_from([0.05, 0.01]))
def test_the_bounds_equal_clopper_pearson(k, n, level):
    k = min(k, n)
    found = exact_bounds(k, n, level)
    upper = binomtest(k, n, alternative="less").proportion_ci(1 - level, method="exact").high
    lower = binomtest(k, n, alternative="greater").proportion_ci(1 - level, method="exact").low
    assert (found.low, found.high) == (
        pytest.approx(lower, abs=1e-9),
        pytest.approx(upper, abs=1e-9),
    )


def test_nothing_observed_proves_nothing():
    assert (exact_bounds(0, 0).low, exact_bounds(0, 0).high) == (0.0, 1.0)
    assert count_proven_thresholds([0, 0], 0, 0.02, 0.05) == 0


@pytest.mark.parametrize("p", [0.02, 0.3])
def test_bounds_hold_at_all_interim_looks(p):
    rng = np.random.default_rng(5)
    wrong = exact_wrong = 0
    for _ in range(200):
        counted = np.cumsum(rng.random(300) < p)
        looks = range(1, 300, 5)
        wrong += any(
            not (b := anytime_bounds(int(counted[n - 1]), n)).low <= p <= b.high for n in looks
        )
        exact_wrong += any(exact_bounds(int(counted[n - 1]), n).low > p for n in looks)
    assert wrong <= 0.05 * 200
    assert exact_wrong > 0.05 * 200, "which those for a single look are not"
    assert anytime_bounds(0, 0) == anytime_bounds(0, 0).__class__(0, 0, 0.0, 1.0)
    assert (
        anytime_bounds(30, 100).low
        < exact_bounds(30, 100).low
        < 0.3
        < exact_bounds(30, 100).high
        < anytime_bounds(30, 100).high
    )


def test_all_interim_looks_together_spend_the_level_once():
    assert math.fsum(interim_level(look) for look in range(1, 10_000)) < 0.05
    assert interim_level(1) == 0.025


@pytest.mark.parametrize("budget", [0.01, 0.02, 0.1])
def test_the_minimum_sample_size_is_the_smallest_that_proves_a_budget(budget):
    n = min_sample_size(budget, 0.05)
    assert exact_bounds(0, n).high <= budget < exact_bounds(0, n - 1).high


def test_the_search_stops_at_the_first_threshold_that_fails():
    assert count_proven_thresholds([0, 1, 30, 1], 500, 0.02, 0.05) == 2


@pytest.mark.parametrize("verdict", [Verdict.reject, Verdict.accept])
def test_a_proven_threshold_keeps_its_budget_in_95_of_100_repetitions(verdict):
    """1,000 repetitions of 19 thresholds tried on 600 judged candidates each: rarely is one let through that is bad."""
    budget, bad, passed = 0.05, 0, 0
    for seed in range(1_000):
        rng = np.random.default_rng([seed, 11])
        probabilities = rng.random(600)
        accepted = rng.random(600) < truth(probabilities, verdict)
        grid = np.quantile(
            probabilities,
            THRESHOLD_SHARES
            if verdict is Verdict.reject
            else [1 - share for share in THRESHOLD_SHARES],
        )
        found = evaluate_thresholds(probabilities, accepted, grid.tolist(), verdict, budget, 0.05)
        if found.proven:
            passed += 1
            bad += true_error(float(grid[found.proven - 1]), verdict) > budget
    assert passed > 500  # it is of some use
    assert bad <= 50 + 3 * math.sqrt(47.5)


def truth(probabilities, verdict):
    """How likely each is accepted: the score is right in its order and wrong in its size."""
    return probabilities**3 if verdict is Verdict.reject else 1 - (1 - probabilities) ** 3


def true_error(threshold, verdict):
    """Return the acceptable ones lost of all acceptable ones, or the bad ones of all accepted, if the supply had no end."""
    if verdict is Verdict.reject:
        return threshold**4  # the integral of c^3 to t, over that to 1
    return (1 - threshold) ** 3 / 4
