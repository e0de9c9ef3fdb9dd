"""The result of a comparison: win rate with its interval, sign test, and counts by reviewer."""

from __future__ import annotations

import statistics
import uuid
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import combinations

import sqlalchemy as sa

from curation.comparison_values import ComparisonSide, ComparisonVerdict
from curation.comparisons.sessions import drawing_states, find_comparison
from curation.comparisons.votes import STANDING
from curation.db.engine import Transaction
from curation.statistics.intervals import wilson
from curation.statistics.sign_test import one_sided_sign_test, sign_test


class ItemOutcome(StrEnum):
    """What the reviewers of an item say together."""

    a = "a"
    b = "b"
    equal = "equal"
    both_bad = "both_bad"


@dataclass(frozen=True)
class StandingVote:
    """One vote that stands."""

    item: uuid.UUID
    reviewer: str
    verdict: ComparisonVerdict
    left_side: ComparisonSide
    dwell_ms: int | None


@dataclass(frozen=True)
class ShareWithInterval:
    """A share of `n` observations with its 95 % interval (Wilson); None without observations."""

    value: float | None
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True)
class ReviewerVotes:
    """The votes of one reviewer, and the median of their times in seconds."""

    reviewer: str
    a: int
    b: int
    equal: int
    both_bad: int
    median_seconds: float | None


@dataclass(frozen=True)
class ComparisonResult:
    """The figures of a comparison.

    Attributes:
        a: Items that side A wins.
        b: Items that side B wins.
        equal: Items where no side is better.
        both_bad: Items where both sides are bad.
        undecided: Items whose votes are missing.
        win_rate: Share of B among the items that a side wins.
        p_two_sided: Probability of a split at least as uneven if both sides were equally good.
        p_b_better: Probability of at least so many wins of B if both sides were equally good.
        p_a_better: The same of A.
        left_share: Share of the left side among the votes for a side; far from a half, reviewers
            prefer a place and not an image.
        agreement: Share of alike votes among the pairs of votes on one item.
        reviewers: Votes by reviewer.
        drawings: Number of drawings by state.
    """

    a: int
    b: int
    equal: int
    both_bad: int
    undecided: int
    win_rate: ShareWithInterval
    p_two_sided: float
    p_b_better: float
    p_a_better: float
    left_share: ShareWithInterval
    agreement: ShareWithInterval
    reviewers: Sequence[ReviewerVotes]
    drawings: Mapping[str, int]


def read_result(tx: Transaction, number: int) -> ComparisonResult:
    """Return the result of a comparison, of the items that have all their votes.

    Args:
        tx: The transaction.
        number: The comparison.

    Raises:
        NotFound: There is no such comparison.
    """
    row = find_comparison(tx, number)
    votes = [
        StandingVote(
            one.item_id,
            one.name,
            ComparisonVerdict(one.verdict),
            ComparisonSide(one.left_side),
            one.dwell_ms,
        )
        for one in tx.execute(_VOTES, {"number": number})
    ]
    return summarize(votes, row["items"], row["votes"], drawing_states(tx, number))


def summarize(
    votes: Sequence[StandingVote], items: int, votes_per_item: int, drawings: Mapping[str, int]
) -> ComparisonResult:
    """Compute the result of votes.

    The items are what the test counts, not the votes, since votes on one item are not independent.

    Args:
        votes: The votes that stand.
        items: The number of items of the comparison.
        votes_per_item: The number of votes that an item needs.
        drawings: Number of drawings by state.
    """
    by_item: dict[uuid.UUID, list[ComparisonVerdict]] = {}
    for vote in votes:
        by_item.setdefault(vote.item, []).append(vote.verdict)
    outcomes = Counter(
        outcome(verdicts) for verdicts in by_item.values() if len(verdicts) >= votes_per_item
    )
    a, b = outcomes[ItemOutcome.a], outcomes[ItemOutcome.b]
    sides = [vote for vote in votes if vote.verdict in {ComparisonVerdict.a, ComparisonVerdict.b}]
    pairs = [pair for verdicts in by_item.values() for pair in combinations(verdicts, 2)]
    return ComparisonResult(
        a=a,
        b=b,
        equal=outcomes[ItemOutcome.equal],
        both_bad=outcomes[ItemOutcome.both_bad],
        undecided=items - outcomes.total(),
        win_rate=_share(b, a + b),
        p_two_sided=sign_test(a, b),
        p_b_better=one_sided_sign_test(b, a),
        p_a_better=one_sided_sign_test(a, b),
        left_share=_share(sum(str(one.verdict) == str(one.left_side) for one in sides), len(sides)),
        agreement=_share(sum(one == other for one, other in pairs), len(pairs)),
        reviewers=_by_reviewer(votes),
        drawings=dict(drawings),
    )


def outcome(verdicts: Iterable[ComparisonVerdict]) -> ItemOutcome:
    """Return what several votes on one item say: the side with more votes, else no side.

    Without a majority of sides, both are bad where more than half of all votes say so.

    Args:
        verdicts: The votes on the item.
    """
    counts = Counter(verdicts)
    a, b = counts[ComparisonVerdict.a], counts[ComparisonVerdict.b]
    if a != b:
        return ItemOutcome.a if a > b else ItemOutcome.b
    bad = 2 * counts[ComparisonVerdict.both_bad] > counts.total()
    return ItemOutcome.both_bad if bad else ItemOutcome.equal


def _by_reviewer(votes: Sequence[StandingVote]) -> list[ReviewerVotes]:
    own: dict[str, list[StandingVote]] = {}
    for vote in votes:
        own.setdefault(vote.reviewer, []).append(vote)
    found = []
    for name, given in sorted(own.items()):
        counts = Counter(vote.verdict for vote in given)
        times = [vote.dwell_ms / 1_000 for vote in given if vote.dwell_ms is not None]
        found.append(
            ReviewerVotes(
                reviewer=name,
                a=counts[ComparisonVerdict.a],
                b=counts[ComparisonVerdict.b],
                equal=counts[ComparisonVerdict.equal],
                both_bad=counts[ComparisonVerdict.both_bad],
                median_seconds=statistics.median(times) if times else None,
            )
        )
    return found


def _share(k: int, n: int) -> ShareWithInterval:
    if not n:
        return ShareWithInterval(None, None, None, 0)
    low, high = wilson(k / n, n)
    return ShareWithInterval(k / n, low, high, n)


def sentence(result: ComparisonResult) -> str:
    """Return in one sentence whether a side is better."""
    rate = result.win_rate
    if rate.value is None or rate.low is None or rate.high is None:
        return "no item is decided for a side yet"
    shares = f"{rate.value:.0%} of {rate.n} decided items (95 % interval {rate.low:.0%} to "
    shares += f"{rate.high:.0%}, sign test p = {result.p_two_sided:.2g})"
    if result.p_two_sided > SIGNIFICANCE:
        return f"B wins {shares}: the difference is within chance"
    return f"B wins {shares}: {'B' if result.b > result.a else 'A'} is better"


SIGNIFICANCE = 0.05

_VOTES = sa.text(f"""
    select v.item_id, r.name, v.verdict, v.left_side, v.dwell_ms from comparison_votes v
    join reviewers r on r.id = v.reviewer_id
    where v.comparison_id = :number and {STANDING} order by v.id""")
