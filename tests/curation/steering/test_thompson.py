"""Shares of Thompson sampling: a distribution under a cap that follows the planted acceptance."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.steering.evidence import Evidence, discounted, weighted_evidence
from curation.steering.settings import Goal
from curation.steering.thompson import PromptArms, steered_shares


def of(accepts: float, rejects: float) -> Evidence:
    return Evidence(accepts, rejects, round(accepts + rejects))


def shares(arms, evidence, *, goal=Goal.accepts, concentration=3.0, seed=0, own=None, natural=None):
    count = len(arms)
    natural = np.full(count, 1 / count) if natural is None else np.asarray(natural)
    own = own or {}
    prompts = PromptArms(
        arms,
        natural,
        np.array([own.get(i, (0, 0))[0] for i in range(count)], float),
        np.array([own.get(i, (0, 0))[1] for i in range(count)], float),
    )
    total = of(sum(one.accepts for one in evidence), sum(one.rejects for one in evidence))
    return steered_shares(
        prompts, evidence, total, goal=goal, concentration=concentration, seed=seed, draws=100
    )


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 200), st.floats(0, 200)), min_size=1, max_size=6),
    st.integers(2, 30),
    st.floats(1, 8),
    st.sampled_from(list(Goal)),
    st.integers(0, 99),
)
def test_shares_are_a_distribution_under_the_cap(counts, count, concentration, goal, seed):
    rng = np.random.default_rng(seed)
    evidence = [of(*pair) for pair in counts]
    arms = [
        list(rng.choice(len(counts), rng.integers(0, len(counts) + 1), replace=False))
        for _ in range(count)
    ]
    natural = rng.random(count) + 0.01
    natural /= natural.sum()
    found = shares(
        arms, evidence, goal=goal, concentration=concentration, seed=seed, natural=natural
    )
    assert found.sum() == pytest.approx(1)
    assert (found >= 0).all()
    assert (found <= concentration * natural * (1 + 1e-9)).all()


def test_a_concentration_of_one_is_the_natural_distribution():
    natural = np.array([0.5, 0.3, 0.2])
    found = shares([[0], [1], []], [of(9, 0), of(0, 9)], concentration=1, natural=natural)
    assert found == pytest.approx(natural)


def test_accepted_arms_get_more_and_the_cap_bounds_them():
    found = shares([[0]] * 10 + [[1]] * 20, [of(90, 10), of(10, 90)])
    assert found[:10].sum() > 0.95
    assert found.max() <= 3 / 30 + 1e-9


def test_few_decisions_steer_less_than_many():
    few = shares([[0]] * 10 + [[1]] * 20, [of(2, 1), of(1, 2)])
    many = shares([[0]] * 10 + [[1]] * 20, [of(200, 100), of(100, 200)])
    assert 1 / 3 < few[:10].sum() < many[:10].sum() - 0.1


def test_learn_prefers_undecided_arms_to_certain_ones():
    evidence = [of(98, 2), of(50, 50), of(2, 98)]
    arms = [[0]] * 10 + [[1]] * 10 + [[2]] * 10
    learn = shares(arms, evidence, goal=Goal.learn)
    assert learn[10:20].sum() > 0.95
    assert shares(arms, evidence)[:10].sum() > 0.95


def test_decisions_about_a_prompt_itself_outweigh_those_about_its_words():
    found = shares([[0]] * 30, [of(50, 50)], own={0: (40, 0), 1: (0, 40)})
    assert found[0] == pytest.approx(3 / 30, rel=0.1)
    assert found[1] == pytest.approx(0, abs=0.005)


def test_equal_seeds_give_equal_shares():
    arms, evidence = [[0], [1], [0, 1], []], [of(3, 1), of(1, 2)]
    assert (shares(arms, evidence, seed=4) == shares(arms, evidence, seed=4)).all()


@given(st.floats(0, 1), st.integers(1, 50), st.floats(0.1, 10))
def test_equal_weights_leave_the_number_of_decisions(share, n, weight):
    found = weighted_evidence(n * weight, n * weight * share, n * weight**2, n, 0)
    assert found.size == pytest.approx(n)
    assert found.accepts == pytest.approx(n * share)


@given(st.lists(st.floats(0.01, 10), min_size=1, max_size=20))
def test_unequal_weights_reduce_the_number_of_decisions(weights):
    squared = sum(w * w for w in weights)
    found = weighted_evidence(sum(weights), sum(weights), squared, len(weights), 0)
    assert 0 < found.size <= len(weights) * (1 + 1e-9)


def test_a_decision_counts_half_after_the_half_life():
    newest, _, oldest = {"red": of(8, 0)}, {}, {"red": of(0, 8)}
    found = discounted([newest, {}, oldest], half_life=2)["red"]
    assert (found.accepts, found.rejects) == (8, 4)
    assert found.decisions == 16
