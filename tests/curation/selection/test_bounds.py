"""Bounds: exact as scipy's, spent no more than once, and right as often as they promise."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from curation.domain import Verdict
from curation.selection.gates import GRID, look_at
from curation.statistics.bounds import count, enough, last_proven, spend, whenever


@given(st.integers(0, 300), st.integers(1, 300), st.sampled_from([0.05, 0.01]))
def test_the_bounds_are_clopper_and_pearsons(k, n, level):
    k = min(k, n)
    found = count(k, n, level)
    upper = binomtest(k, n, alternative="less").proportion_ci(1 - level, method="exact").high
    lower = binomtest(k, n, alternative="greater").proportion_ci(1 - level, method="exact").low
    assert (found.low, found.high) == (pytest.approx(lower, abs=1e-9), pytest.approx(upper, abs=1e-9))


def test_nothing_observed_proves_nothing():
    assert (count(0, 0).low, count(0, 0).high) == (0.0, 1.0)
    assert last_proven([0, 0], 0, 0.02, 0.05) == 0


@pytest.mark.parametrize("p", [0.02, 0.3])
def test_bounds_for_whoever_looks_whenever_are_hardly_ever_wrong_at_any_look(p):
    rng = np.random.default_rng(5)
    wrong = exact_wrong = 0
    for _ in range(200):
        counted = np.cumsum(rng.random(300) < p)
        looks = range(1, 300, 5)
        wrong += any(not (b := whenever(int(counted[n - 1]), n)).low <= p <= b.high for n in looks)
        exact_wrong += any(count(int(counted[n - 1]), n).low > p for n in looks)
    assert wrong <= 0.05 * 200
    assert exact_wrong > 0.05 * 200, "which those for a single look are not"
    assert whenever(0, 0) == whenever(0, 0).__class__(0, 0, 0.0, 1.0)
    assert whenever(30, 100).low < count(30, 100).low < 0.3 < count(30, 100).high < whenever(30, 100).high


def test_all_looks_together_spend_the_level_once():
    assert math.fsum(spend(look) for look in range(1, 10_000)) < 0.05
    assert spend(1) == 0.025


@pytest.mark.parametrize("budget", [0.01, 0.02, 0.1])
def test_enough_is_the_least_that_can_prove_a_budget(budget):
    n = enough(budget, 0.05)
    assert count(0, n).high <= budget < count(0, n - 1).high


def test_the_first_threshold_that_fails_ends_the_row():
    assert last_proven([0, 1, 30, 1], 500, 0.02, 0.05) == 2


@pytest.mark.parametrize("verdict", [Verdict.reject, Verdict.accept])
def test_a_threshold_that_is_let_through_keeps_its_budget_in_95_of_100_repetitions(verdict):
    """1,000 repetitions of 19 thresholds tried on 600 judged candidates each: rarely is one let through that is bad."""
    budget, bad, passed = 0.05, 0, 0
    for seed in range(1_000):
        rng = np.random.default_rng([seed, 11])
        probabilities = rng.random(600)
        accepted = rng.random(600) < truth(probabilities, verdict)
        grid = np.quantile(probabilities, GRID if verdict is Verdict.reject else [1 - share for share in GRID])
        found = look_at(probabilities, accepted, grid.tolist(), verdict, budget, 0.05)
        if found.proven:
            passed += 1
            bad += true_error(float(grid[found.proven - 1]), verdict) > budget
    assert passed > 500  # it is of some use
    assert bad <= 50 + 3 * math.sqrt(47.5)


def truth(probabilities, verdict):
    """How likely each is accepted: the score is right in its order and wrong in its size."""
    return probabilities**3 if verdict is Verdict.reject else 1 - (1 - probabilities) ** 3


def true_error(threshold, verdict):
    """The acceptable ones lost of all acceptable ones, or the bad ones of all accepted, if the supply had no end."""
    if verdict is Verdict.reject:
        return threshold**4  # the integral of c^3 to t, over that to 1
    return (1 - threshold) ** 3 / 4
