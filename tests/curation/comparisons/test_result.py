"""The figures of votes, against an independent computation."""

from __future__ import annotations

import random
import uuid
from collections import Counter

import pytest
from scipy.stats import binomtest

from curation.comparison_values import ComparisonSide, ComparisonVerdict
from curation.comparisons.result import ItemOutcome, StandingVote, outcome, sentence, summarize

A, B, EQUAL, BAD = (ComparisonVerdict(one) for one in ("a", "b", "equal", "both_bad"))


def vote(
    item: int, verdict: ComparisonVerdict, reviewer: str = "ann", left: str = "a"
) -> StandingVote:
    return StandingVote(
        uuid.uuid5(uuid.NAMESPACE_OID, str(item)), reviewer, verdict, ComparisonSide(left), 1_500
    )


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        ([A], ItemOutcome.a),
        ([A, B, B], ItemOutcome.b),
        ([A, B], ItemOutcome.equal),
        ([A, EQUAL, EQUAL], ItemOutcome.a),
        ([BAD, BAD, EQUAL], ItemOutcome.both_bad),
        ([BAD, EQUAL], ItemOutcome.equal),
        ([BAD, BAD, BAD, A], ItemOutcome.a),
    ],
)
def test_the_side_with_more_votes_wins_an_item(verdicts, expected):
    assert outcome(verdicts) is expected


def test_the_figures_are_those_of_scipy():
    rng = random.Random(5)
    votes = [vote(i, rng.choice([A, B, B, EQUAL, BAD]), left=rng.choice("ab")) for i in range(90)]
    found = summarize(votes, items=100, votes_per_item=1, drawings={})
    counts = Counter(one.verdict for one in votes)
    decided = counts[A] + counts[B]
    assert (found.a, found.b, found.equal, found.both_bad) == tuple(
        counts[one] for one in (A, B, EQUAL, BAD)
    )
    assert found.undecided == 10
    test = binomtest(counts[B], decided)
    interval = test.proportion_ci(0.95, method="wilson")
    assert found.win_rate.value == pytest.approx(counts[B] / decided)
    assert (found.win_rate.low, found.win_rate.high) == pytest.approx(tuple(interval))
    assert found.p_two_sided == pytest.approx(test.pvalue)
    greater = binomtest(counts[B], decided, alternative="greater").pvalue
    assert found.p_b_better == pytest.approx(greater)
    left = sum(one.verdict == one.left_side for one in votes if one.verdict in {A, B})
    assert found.left_share.value == pytest.approx(left / decided)
    [own] = found.reviewers
    assert (own.a, own.b, own.median_seconds) == (counts[A], counts[B], 1.5)


def test_items_count_and_not_votes_and_only_with_all_their_votes():
    votes = [
        *(vote(1, B, name) for name in ("ann", "bob", "cy")),
        *(vote(2, one, name) for one, name in ((A, "ann"), (A, "bob"), (B, "cy"))),
        vote(3, B, "ann"),
    ]
    found = summarize(votes, items=3, votes_per_item=3, drawings={})
    assert (found.a, found.b, found.undecided) == (1, 1, 1)
    # Of item 1 three pairs of votes are alike, of item 2 one.
    assert (found.agreement.value, found.agreement.n) == (pytest.approx(4 / 6), 6)
    assert found.p_two_sided == 1.0


def test_without_votes_there_is_no_rate():
    found = summarize([], items=4, votes_per_item=1, drawings={"generated": 8})
    assert found.win_rate.value is None
    assert found.p_two_sided == 1.0
    assert sentence(found) == "no item is decided for a side yet"


def test_the_sentence_names_a_difference_within_chance():
    few = summarize([vote(i, B) for i in range(4)], items=4, votes_per_item=1, drawings={})
    assert "within chance" in sentence(few)
    many = summarize([vote(i, B) for i in range(12)], items=12, votes_per_item=1, drawings={})
    assert sentence(many).endswith("B is better")
    other = summarize([vote(i, A) for i in range(12)], items=12, votes_per_item=1, drawings={})
    assert sentence(other).endswith("A is better")
