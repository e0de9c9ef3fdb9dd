"""The exact sign test against scipy, and where floats would overflow."""

from __future__ import annotations

import random

import pytest
from scipy.stats import binomtest

from curation.statistics.sign_test import one_sided_sign_test, sign_test


def test_p_values_are_those_of_scipy():
    rng = random.Random(3)
    cases = [(rng.randrange(0, 300), rng.randrange(0, 300)) for _ in range(200)]
    for wins, losses in [*cases, (1, 0), (0, 1), (5, 5), (0, 12)]:
        n = wins + losses
        if not n:
            continue
        assert sign_test(wins, losses) == pytest.approx(binomtest(wins, n).pvalue, rel=1e-9)
        one_sided = binomtest(wins, n, alternative="greater").pvalue
        assert one_sided_sign_test(wins, losses) == pytest.approx(one_sided, rel=1e-9)


def test_nothing_decided_proves_nothing():
    assert sign_test(0, 0) == one_sided_sign_test(0, 0) == 1.0


def test_large_counts_do_not_overflow():
    assert one_sided_sign_test(1_000, 1_000) == pytest.approx(0.5, abs=0.01)
    assert 0 < one_sided_sign_test(1_200, 800) < 1e-15
