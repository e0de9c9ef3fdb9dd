"""Agreement: the coefficients equal published examples, and a round's agreement is computed from its decisions."""

from __future__ import annotations

import uuid

import numpy as np
import pytest

from curation.domain import Verdict
from curation.quality.agreement import (
    as_text,
    bootstrap_interval,
    gwet_ac1,
    krippendorff_alpha,
    round_agreement,
)
from curation.review.consensus import ConsensusRule, ConsensusSettings, set_consensus
from curation.review.decisions import decide
from curation.review.reviewers import add_reviewer
from tests.support.factories import make_candidates, make_round

# K. Krippendorff, "Computing Krippendorff's alpha-reliability" (2011), section C: four observers, twelve units.
FOUR = """
    1 2 3 3 2 1 4 1 2 . . .
    1 2 3 3 2 2 4 1 2 5 . 3
    . 3 3 3 2 3 4 2 2 5 1 .
    1 2 3 3 2 4 4 1 2 5 1 ."""
# The same, section B: two observers, ten units, two classes.
TWO = """
    0 1 0 0 0 0 0 0 1 0
    1 1 1 0 0 1 0 0 0 0"""


def counts(table: str) -> np.ndarray:
    rows = [row.split() for row in table.split("\n") if row.strip()]
    classes = sorted({value for row in rows for value in row} - {"."})
    return np.array(
        [[sum(row[u] == c for row in rows) for c in classes] for u in range(len(rows[0]))], float
    )


def test_alpha_is_krippendorffs_own():
    assert krippendorff_alpha(counts(FOUR)) == pytest.approx(0.743, abs=5e-4)
    assert krippendorff_alpha(counts(TWO)) == pytest.approx(0.095, abs=5e-4)


def test_ac1_is_gwets_own():
    """The same four observers in Gwet's Handbook of Inter-Rater Reliability (2014), and his paradox of 125 subjects.

    Of those two reviewers agree on 94 %, and kappa is below 0: AC1 = (0.944 - 0.0544) / (1 - 0.0544).
    """
    assert gwet_ac1(counts(FOUR)) == pytest.approx(0.77544, abs=5e-6)
    paradox = np.array([[2.0, 0]] * 118 + [[1, 1]] * 7)
    assert gwet_ac1(paradox) == pytest.approx(0.9408, abs=5e-5)
    assert krippendorff_alpha(paradox) < 0


def test_weights_are_repetitions():
    kinds, often = np.array([[3.0, 0], [2, 1], [1, 0], [0, 2]]), np.array([4.0, 2, 3, 1])
    repeated = np.repeat(kinds, often.astype(int), axis=0)
    for measure in (krippendorff_alpha, gwet_ac1):
        assert measure(kinds, often) == pytest.approx(measure(repeated))
        assert bootstrap_interval(measure, kinds, often) == bootstrap_interval(measure, repeated)


def test_samples_are_measured_together_as_one_by_one():
    """Rows of weights with no candidate, with no pair and with one class are among them."""
    kinds = np.array([[0.0, 2], [1, 1], [1, 0], [2, 0], [2, 1]])
    samples = np.random.default_rng(3).integers(0, 4, (200, 5)).astype(float)
    samples[:3] = [[0] * 5, [0, 0, 3, 0, 0], [4, 0, 0, 0, 0]]
    for measure in (krippendorff_alpha, gwet_ac1):
        together = measure(kinds, samples)
        np.testing.assert_allclose(together, [float(measure(kinds, one)) for one in samples])
        assert np.isnan(together[:2]).all()
        assert together[2] == 1


def test_agreement_is_none_without_two_verdicts_on_one_candidate():
    for measure in (krippendorff_alpha, gwet_ac1):
        assert np.isnan(measure(np.zeros((0, 2))))
        assert np.isnan(measure(np.array([[1.0, 0], [0, 1]])))
        assert measure(np.array([[2.0, 0], [3, 0]])) == 1
    assert bootstrap_interval(gwet_ac1, np.zeros((0, 2))).value is None
    assert bootstrap_interval(gwet_ac1, np.array([[2.0, 0], [1, 1]])).low is None, (
        "too few for an interval"
    )


@pytest.mark.parametrize("measure", [krippendorff_alpha, gwet_ac1])
def test_the_interval_covers_the_coefficient_of_the_population(measure):
    """Two reviewers, each right 85 % of the time, of 300 candidates with one accept in five: 60 repetitions."""
    rng = np.random.default_rng(11)

    def sample(n: int) -> np.ndarray:
        truth = rng.random(n) < 0.2
        votes = np.array([np.where(rng.random(n) < 0.85, truth, ~truth) for _ in range(2)])
        return np.stack([2 - votes.sum(axis=0), votes.sum(axis=0)], axis=1).astype(float)

    population = measure(sample(400_000))
    found = [bootstrap_interval(measure, sample(300)) for _ in range(60)]
    inside = sum(one.low <= population <= one.high for one in found)
    assert 51 <= inside <= 60, "95 % of 60, less three deviations"


def test_the_agreement_of_a_round_is_that_of_people(database, store):
    with database.transaction() as tx:
        round_id = make_round(tx)
        set_consensus(tx, round_id, ConsensusSettings(ConsensusRule.majority, 3), "test")
        ids = make_candidates(tx, store, round_id, 8)
        people = [add_reviewer(tx, name).id for name in ("ann", "bob", "cy")]
        for index, one in enumerate(ids):
            for who, off in zip(people, (False, index in {1, 2}, index % 2 == 0), strict=True):
                verdict = Verdict.accept if (index < 3) ^ off else Verdict.reject
                decide(tx, who, one, verdict, key=uuid.uuid4())
    with database.transaction() as tx:
        report = round_agreement(tx, round_id)
    assert report["consensus"] == {
        "rule": "majority",
        "overlap": 3,
        "certainty": 0.5,
        "rule_reviewer_votes": False,
    }
    assert report["adjudicating"] == 0, "three never tie"
    by_pair = {tuple(pair["reviewers"]): pair for pair in report["pairs"]}
    assert list(by_pair) == [("ann", "bob"), ("ann", "cy"), ("bob", "cy")]
    assert report["decided_twice"] == 8
    assert by_pair["ann", "bob"]["agreed"] == 6 / 8
    assert by_pair["ann", "cy"]["agreed"] == 4 / 8
    one_of = by_pair["ann", "bob"]["alpha"]
    assert one_of["value"] == pytest.approx(1 - 15 * 4 / (16**2 - 12**2 - 4**2)), (
        "4 accepts, 12 rejects, 2 of 8 apart"
    )
    assert one_of["low"] <= one_of["value"] <= one_of["high"]
    assert "ann and bob: 8 decided by two or more people, 75% equal verdicts" in as_text(report)


def test_a_round_of_single_decisions_has_no_agreement(database, store):
    with database.transaction() as tx:
        round_id = make_round(tx)
        (one,) = make_candidates(tx, store, round_id, 1)
        decide(tx, add_reviewer(tx, "ann").id, one, Verdict.accept, key=uuid.uuid4())
        report = round_agreement(tx, round_id)
    assert (report["decided_twice"], report["agreed"], report["pairs"]) == (0, None, [])
    assert as_text(report) == f"Round {round_id}: no candidate has verdicts of two people yet"
