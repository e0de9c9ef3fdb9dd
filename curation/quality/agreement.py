"""Inter-rater agreement beyond chance, with intervals: Krippendorff's alpha and Gwet's AC1."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from curation.db.counts import read_counts
from curation.db.engine import Transaction
from curation.review.consensus import ConsensusSettings
from curation.review.reviewers import PERSON
from curation.review.verdicts import IS_STANDING
from curation.rounds.lifecycle import find_round

RESAMPLES: Final = 1_000
"""Number of bootstrap samples of an interval."""
SEED: Final = 7
MIN_CANDIDATES: Final = 5
"""Minimum number of candidates with two verdicts for an interval."""

Counts = NDArray[np.float64]
"""U x C: how many reviewers put each of U candidates into each of C classes."""
Weights = NDArray[np.float64]
"""... x U: how often each row of counts occurs, in one sample or in several at once."""


@dataclass(frozen=True)
class AgreementCoefficient:
    """A coefficient (1 is perfect, 0 is chance) with its 95 % interval; None where undefined."""

    value: float | None
    low: float | None
    high: float | None


def krippendorff_alpha(counts: Counts, weights: Weights | None = None) -> NDArray[np.float64]:
    """Compute Krippendorff's alpha for nominal data with missing values.

    K. Krippendorff, "Computing Krippendorff's alpha-reliability" (2011), section C:
    1 - (n - 1) * (sum of coincidences off the diagonal) / (sum of n_c n_k for c != k).

    Args:
        counts: U x C counts of verdicts.
        weights: How often each row counts, of shape (..., U); None is once.

    Returns:
        Alpha, at most 1, of the shape of the weights without their last axis; 1 by convention if
        all verdicts are equal; NaN if no candidate has two.
    """
    times = np.ones(len(counts)) if weights is None else weights
    twice = counts.sum(axis=1) >= 2
    paired, times = counts[twice], times[..., twice]
    per_unit = paired.sum(axis=1)
    n = times @ per_unit
    observed = times @ ((per_unit**2 - (paired**2).sum(axis=1)) / (per_unit - 1))
    expected = n**2 - ((times @ paired) ** 2).sum(axis=-1)
    apart = (n - 1) * observed / np.where(expected == 0, 1, expected)
    return np.where(n < 2, np.nan, np.where(expected == 0, 1.0, 1 - apart))


def gwet_ac1(counts: Counts, weights: Weights | None = None) -> NDArray[np.float64]:
    """Compute Gwet's AC1 for any number of reviewers, with missing values.

    K. L. Gwet, "Computing inter-rater reliability and its variance in the presence of high
    agreement" (British Journal of Mathematical and Statistical Psychology 61, 2008): chance
    agreement is 1 / (C - 1) * sum of pi (1 - pi). Unlike alpha it stays meaningful where one class
    dominates, as rejects do here.

    Args:
        counts: U x C counts of verdicts.
        weights: How often each row counts, of shape (..., U); None is once.

    Returns:
        AC1, at most 1, of the shape of the weights without their last axis; NaN if no candidate has
        two verdicts.
    """
    times = np.ones(len(counts)) if weights is None else weights
    # Rows without verdicts have weight 0 below; the maximum only avoids a division by zero.
    per_unit = np.maximum(counts.sum(axis=1), 1)
    seen = times * (counts.sum(axis=1) >= 1)
    twice = times * (per_unit >= 2)
    pairs = twice.sum(axis=-1)
    alike = (counts * (counts - 1)).sum(axis=1) / np.maximum(per_unit * (per_unit - 1), 1)
    observed = twice @ alike / np.maximum(pairs, 1)
    pi = seen @ (counts / per_unit[:, None]) / np.maximum(seen.sum(axis=-1), 1)[..., None]
    chance = (pi * (1 - pi)).sum(axis=-1) / (counts.shape[1] - 1)
    return np.where(pairs == 0, np.nan, (observed - chance) / (1 - chance))


def bootstrap_interval(
    measure: Callable[[Counts, Weights | None], NDArray[np.float64]],
    counts: Counts,
    often: Weights | None = None,
) -> AgreementCoefficient:
    """Compute a coefficient with its 95 % percentile bootstrap interval (Efron, 1979).

    Args:
        measure: The coefficient, `krippendorff_alpha` or `gwet_ac1`.
        counts: U x C counts of verdicts.
        often: How many candidates each row stands for, of shape (U,); None is one.

    Returns:
        The coefficient; without an interval if fewer than MIN_CANDIDATES candidates have two
        verdicts.
    """
    rows, often = _distinct(counts, often)
    value = _defined(float(measure(rows, often)))
    if value is None or often[rows.sum(axis=1) >= 2].sum() < MIN_CANDIDATES:
        return AgreementCoefficient(value, None, None)
    # Candidates with equal counts are interchangeable, so a resample is a multinomial draw of the
    # distinct rows; its cost does not depend on the size of the round.
    total = often.sum()
    samples = np.random.default_rng(SEED).multinomial(int(total), often / total, RESAMPLES)
    values = measure(rows, samples.astype(np.float64))
    low, high = np.nanquantile(values, [0.025, 0.975])
    return AgreementCoefficient(value, float(low), float(high))


def _distinct(counts: Counts, often: Weights | None) -> tuple[Counts, Weights]:
    """Return the distinct rows of counts in their order, and how often each occurs."""
    rows, where = np.unique(counts, axis=0, return_inverse=True)
    return rows, np.bincount(where.ravel(), often, minlength=len(rows)).astype(np.float64)


def _defined(value: float) -> float | None:
    return None if np.isnan(value) else value


def round_agreement(tx: Transaction, round_id: int) -> dict[str, Any]:
    """Compute alpha and AC1 of a round and of each pair of its people.

    The first verdict of each person counts, even if an adjudicator or a re-aggregation decided
    otherwise later; the rule reviewer and gold are left out.

    Args:
        tx: The transaction.
        round_id: ID of the round.

    Returns:
        JSON-compatible values: `consensus` are the rules of the round, `adjudicating` is the number
        of candidates that wait for an adjudicator, `decided_twice` the number with verdicts of two
        or more people, and `agreed` the share of these with equal verdicts only.

    Raises:
        NotFound: There is no such round.
    """
    consensus = ConsensusSettings.read(find_round(tx, round_id)["consensus"])
    # All candidates together under None, and those in common of each pair of people.
    counted: dict[tuple[str, str] | None, list[tuple[int, int, int]]] = defaultdict(list)
    for row in tx.execute(_COUNTS, {"round": round_id}):
        names = None if row.one is None else (row.one, row.other)
        counted[names].append((row.rejects, row.accepts, row.n))
    together = _describe(counted[None])
    pairs = [
        {"reviewers": list(names)} | _describe(rows)
        for names, rows in counted.items()
        if names is not None
    ]
    header = {
        "round": round_id,
        "consensus": asdict(consensus),
        "adjudicating": _count_adjudicating(tx, round_id, consensus.overlap),
    }
    return header | together | {"pairs": pairs}


def _count_adjudicating(tx: Transaction, round_id: int, overlap: int) -> int:
    """Return the number of candidates whose verdicts are all given but do not decide."""
    return sum(
        count.n
        for count in read_counts(tx, [round_id], ["candidates"])
        if count.key[0] in ("waiting", "showing") and int(count.key[1]) >= max(2, overlap)
    )


def as_text(report: Mapping[str, Any]) -> str:
    """Format a report of `round_agreement` for a terminal."""
    if not report["decided_twice"]:
        return f"Round {report['round']}: no candidate has verdicts of two people yet"
    lines = [f"Round {report['round']}: {_sentence(report)}"]
    if report["adjudicating"]:
        lines.append(
            f"  {report['adjudicating']} wait for an adjudicator (role engineer or higher, in "
            "the same labeling tool)"
        )
    lines += [f"  {' and '.join(pair['reviewers'])}: {_sentence(pair)}" for pair in report["pairs"]]
    return "\n".join(lines)


def _describe(counted: Iterable[tuple[int, int, int]]) -> dict[str, Any]:
    """Return the agreement of candidates, given as (rejects, accepts, number of candidates)."""
    table = np.array(list(counted), np.float64).reshape(-1, 3)
    counts, often = table[:, :2], table[:, 2]
    twice = counts.sum(axis=1) >= 2
    decided_twice = int(often[twice].sum())
    equal = int(often[twice & (counts.min(axis=1) == 0)].sum())
    return {
        "decided_twice": decided_twice,
        "agreed": equal / decided_twice if decided_twice else None,
        "alpha": asdict(bootstrap_interval(krippendorff_alpha, counts, often)),
        "ac1": asdict(bootstrap_interval(gwet_ac1, counts, often)),
    }


def _sentence(report: Mapping[str, Any]) -> str:
    coefficients = ", ".join(
        f"{label} {_format_coefficient(report[name])}"
        for name, label in (("alpha", "alpha"), ("ac1", "AC1"))
    )
    decided = f"{report['decided_twice']} decided by two or more people"
    return f"{decided}, {report['agreed']:.0%} equal verdicts; {coefficients}"


def _format_coefficient(value: Mapping[str, float | None]) -> str:
    if value["value"] is None:
        return "–"
    low, high = value["low"], value["high"]
    interval = f" (95 % {low:.2f} to {high:.2f})" if low is not None else ""
    return f"{value['value']:.2f}{interval}"


# The database counts, since a large round has hundreds of thousands of verdicts: the candidates by
# their numbers of rejects and accepts, and by pair of people. The first verdict of each person
# counts, without those of adjudicators.
_COUNTS = sa.text(f"""
    with verdicts as materialized (
        select distinct on (d.candidate_id, d.reviewer_id)
            d.candidate_id, v.name, (d.verdict = 'accept')::int as accept
        from decisions d join reviewers v on v.id = d.reviewer_id
        where d.round_id = :round and v.kind = '{PERSON}' and not d.final and {IS_STANDING}
        order by d.candidate_id, d.reviewer_id, d.id),
    by_candidate as materialized (
        select candidate_id, count(*) as n, sum(accept) as accepts
        from verdicts group by candidate_id),
    several as materialized (
        select v.* from verdicts v join by_candidate using (candidate_id) where by_candidate.n > 1)
    select * from (
        select null as one, null as other, n - accepts as rejects, accepts, count(*) as n
        from by_candidate group by 3, 4
        union all
        select one.name, other.name, 2 - one.accept - other.accept, one.accept + other.accept,
            count(*)
        from several one join several other
            on other.candidate_id = one.candidate_id and other.name > one.name collate "C"
        group by 1, 2, 3, 4) counted
    order by one collate "C" nulls first, other collate "C", rejects""")
