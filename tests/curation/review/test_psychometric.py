"""Fitted curves recover the thresholds of simulated reviewers; defects grow with their severity."""

from __future__ import annotations

import numpy as np
import pytest

from curation.errors import Refused
from curation.images.codec import composite_over
from curation.screening.defects import DEFECT_REASONS, DEFECTS, add_defect
from curation.statistics.dawid_skene import Skills, Vote, fit_skills
from curation.statistics.psychometric import LAPSE_RATE, GoldTrial, fit_curve, reject_probability
from curation.synthetic.shapes import draw_subject, sample_subject
from tests.benchmarks.consensus import measure

GREEN = (90, 160, 90)


def simulate(
    rng: np.random.Generator, threshold: float, n: int, slope: float = 12.0, guess: float = 0.05
):
    severities = rng.uniform(0.02, 1, n)
    rejected = rng.random(n) < reject_probability(severities, threshold, slope, guess)
    return [GoldTrial(float(s), bool(r)) for s, r in zip(severities, rejected, strict=True)]


@pytest.mark.parametrize("threshold", [0.15, 0.3, 0.5, 0.7])
def test_curves_recover_the_thresholds_of_simulated_reviewers(threshold):
    """With 100 reviewers of 60 verdicts each there is no bias, and 90 of 100 intervals contain the truth."""
    rng = np.random.default_rng([1, round(100 * threshold)])
    curves = [
        fit_curve(simulate(rng, threshold, 60), list(rng.random(20) < 0.05)) for _ in range(100)
    ]
    assert abs(np.mean([curve.threshold for curve in curves]) - threshold) < 0.02
    assert sum(curve.low <= threshold <= curve.high for curve in curves) >= 90


def test_more_verdicts_narrow_the_interval():
    rng = np.random.default_rng(2)
    widths = [
        np.mean(
            [
                (curve := fit_curve(simulate(rng, 0.4, n), [False] * 20)).high - curve.low
                for _ in range(20)
            ]
        )
        for n in (10, 40, 160)
    ]
    assert widths[0] > 1.4 * widths[1] > 1.4 * 1.4 * widths[2]


def test_equal_verdicts_give_a_finite_curve():
    blind = fit_curve([GoldTrial(s, rejected=False) for s in np.linspace(0.1, 1, 20)], [False] * 20)
    keen = fit_curve([GoldTrial(s, rejected=True) for s in np.linspace(0.1, 1, 20)], [False] * 20)
    assert blind.low > 0.9
    assert keen.high < 0.35
    assert fit_curve([], [False]) is None
    assert keen.guess < fit_curve([GoldTrial(0.5, rejected=True)], [True] * 8).guess
    assert reject_probability(1.0, 0.1, 50, 0.05) == pytest.approx(1 - LAPSE_RATE)
    assert reject_probability(0.0, 0.9, 50, 0.05) == pytest.approx(0.05)


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_defect_grows_with_its_severity(defect):
    rng = np.random.default_rng(4)
    rgba = draw_subject(sample_subject(rng), rng, 96)
    seen = (rgba[..., 3] > 128).sum()
    assert (add_defect(rgba, defect, 0, rng) == rgba).all()
    before = composite_over(rgba, GREEN).astype(float)
    changed = []
    for severity in (0.1, 0.4, 1.0):
        defective = add_defect(rgba, defect, severity, np.random.default_rng(9))
        assert defective.shape == rgba.shape and defective.dtype == np.uint8
        change = (
            seen - (defective[..., 3] > 128).sum()
            if defect == "cut"
            else np.abs(composite_over(defective, GREEN) - before).mean()
        )
        changed.append(change)
    assert 0 < changed[0] < changed[1] < changed[2], (
        "a cut is measured by the missing pixels, other defects by the visible change"
    )
    assert defect in DEFECT_REASONS


@pytest.mark.parametrize("empty", [True, False])
@pytest.mark.parametrize("defect", DEFECTS)
def test_defects_can_be_added_to_any_layer(defect, empty):
    rgba = np.full((17, 31, 4), 0 if empty else 255, np.uint8)
    for seed in range(4):
        assert add_defect(rgba, defect, 0.7, np.random.default_rng(seed)).shape == rgba.shape


def test_unknown_defects_and_severities_are_refused():
    rgba = np.zeros((4, 4, 4), np.uint8)
    for defect, severity in (("dust", 0.5), ("haze", 1.5), ("haze", -0.1)):
        with pytest.raises(Refused):
            add_defect(rgba, defect, severity, np.random.default_rng(0))


def simulated_votes(
    rng: np.random.Generator, skills: list[tuple[float, float]], items: int, overlap: int
):
    """Return votes of random reviewers on each item, and the true labels; three in ten are sound."""
    truth = rng.random(items) < 0.3
    votes = []
    for item in range(items):
        for reviewer in rng.choice(len(skills), overlap, replace=False):
            right = rng.random() < (skills[reviewer][0] if truth[item] else skills[reviewer][1])
            votes.append(Vote(item, int(reviewer), bool(truth[item] == right)))
    return votes, truth


def test_dawid_skene_recovers_skills_from_verdicts_alone():
    rng = np.random.default_rng(6)
    skills = [(0.95, 0.97), (0.9, 0.6), (0.6, 0.95), (0.8, 0.8), (0.55, 0.5)]
    votes, truth = simulated_votes(rng, skills, 3_000, 4)
    fit = fit_skills(votes)
    for reviewer, (accepts, rejects) in enumerate(skills):
        assert fit.skills.of[reviewer] == pytest.approx((accepts, rejects), abs=0.05)
    assert fit.skills.sound == pytest.approx(truth.mean(), abs=0.03)
    right = np.mean([(fit.probability[item] > 0.5) == truth[item] for item in range(len(truth))])
    assert right > 0.93


def test_known_labels_contribute_to_skills_and_are_not_estimated():
    """With one verdict per item only gold reveals a reviewer who is always wrong."""
    votes = [Vote(f"item {index}", 1, index % 2 == 0) for index in range(20)]
    gold = [Vote(f"gold {index}", 1, True) for index in range(30)]
    fit = fit_skills(votes + gold, {f"gold {index}": False for index in range(30)})
    assert set(fit.probability) == {f"item {index}" for index in range(20)}
    assert fit.skills.of[1].rejects_unsound < 0.2
    assert fit_skills([]).probability == {}


def test_the_probability_is_that_of_bayes_rule():
    known = Skills(0.25)
    accepted_once = 0.25 * 0.8 / (0.25 * 0.8 + 0.75 * 0.2)
    assert known.probability([(1, True)]) == pytest.approx(accepted_once)
    assert known.probability([]) == pytest.approx(0.25)
    assert known.probability([(1, True), (2, False)]) == pytest.approx(0.25), (
        "two unknown reviewers who disagree cancel out"
    )


@pytest.mark.parametrize("team", ["mixed", "careless"])
def test_the_model_beats_the_majority_where_reviewers_differ(team):
    """A small form of the benchmark tests/benchmarks/consensus.py."""
    found = measure(team, 3, 800, 4)
    assert found["won"] == 4
    assert found["forced"] > found["majority"] + 0.02
    assert found["sure"] > found["forced"]
