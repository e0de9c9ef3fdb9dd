"""Inter-rater agreement beyond chance, with intervals: Krippendorff's alpha and Gwet's AC1."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any, Final

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

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
Often = NDArray[np.float64] | None


@dataclass(frozen=True)
class AgreementCoefficient:
    """A coefficient (1 is perfect, 0 is chance) with its 95 % interval; None where undefined."""

    value: float | None
    low: float | None
    high: float | None


def krippendorff_alpha(counts: Counts, weights: Often = None) -> float | None:
    """Compute Krippendorff's alpha for nominal data with missing values.

    K. Krippendorff, "Computing Krippendorff's alpha-reliability" (2011), section C:
    1 - (n - 1) * (sum of coincidences off the diagonal) / (sum of n_c n_k for c != k).

    Args:
        counts: U x C counts of verdicts.
        weights: U weights, how often each row counts; None is once.

    Returns:
        Alpha, at most 1; 1 by convention if all verdicts are equal; None if no candidate has two.
    """
    times = np.ones(len(counts)) if weights is None else weights
    twice = counts.sum(axis=1) >= 2
    paired, times = counts[twice], times[twice]
    per_unit = paired.sum(axis=1)
    n = times @ per_unit
    if n < 2:
        return None
    observed = times @ ((per_unit**2 - (paired**2).sum(axis=1)) / (per_unit - 1))
    expected = n**2 - ((times @ paired) ** 2).sum()
    return 1.0 if expected == 0 else float(1 - (n - 1) * observed / expected)


def gwet_ac1(counts: Counts, weights: Often = None) -> float | None:
    """Compute Gwet's AC1 for any number of reviewers, with missing values.

    K. L. Gwet, "Computing inter-rater reliability and its variance in the presence of high
    agreement" (British Journal of Mathematical and Statistical Psychology 61, 2008): chance
    agreement is 1 / (C - 1) * sum of pi (1 - pi). Unlike alpha it stays meaningful where one class
    dominates, as rejects do here.

    Args:
        counts: U x C counts of verdicts.
        weights: U weights, how often each row counts; None is once.

    Returns:
        AC1, at most 1; None if no candidate has two verdicts.
    """
    times = np.ones(len(counts)) if weights is None else weights
    # Rows without verdicts have weight 0 below; the maximum only avoids a division by zero.
    per_unit = np.maximum(counts.sum(axis=1), 1)
    seen = times * (counts.sum(axis=1) >= 1)
    twice = times * (per_unit >= 2)
    if not twice.any():
        return None
    alike = (counts * (counts - 1)).sum(axis=1) / np.maximum(per_unit * (per_unit - 1), 1)
    observed = twice @ alike / twice.sum()
    pi = seen @ (counts / per_unit[:, None]) / seen.sum()
    chance = (pi * (1 - pi)).sum() / (counts.shape[1] - 1)
    return float((observed - chance) / (1 - chance))


def bootstrap_interval(
    measure: Callable[[Counts, Often], float | None], counts: Counts
) -> AgreementCoefficient:
    """Compute a coefficient with its 95 % percentile bootstrap interval (Efron, 1979).

    Args:
        measure: The coefficient, `krippendorff_alpha` or `gwet_ac1`.
        counts: U x C counts of verdicts.

    Returns:
        The coefficient; without an interval if fewer than MIN_CANDIDATES candidates have two
        verdicts.
    """
    value = measure(counts, None)
    if value is None or (counts.sum(axis=1) >= 2).sum() < MIN_CANDIDATES:
        return AgreementCoefficient(value, None, None)
    # Candidates with equal counts are interchangeable, so a resample is a multinomial draw of the
    # distinct rows; its cost does not depend on the size of the round.
    rows, often = np.unique(counts, axis=0, return_counts=True)
    samples = np.random.default_rng(SEED).multinomial(often.sum(), often / often.sum(), RESAMPLES)
    values = [measure(rows, sample.astype(np.float64)) for sample in samples]
    low, high = np.quantile([v for v in values if v is not None], [0.025, 0.975])
    return AgreementCoefficient(value, float(low), float(high))


def count_verdicts(verdicts: Iterable[tuple[Hashable, bool]]) -> Counts:
    """Count (candidate, accepted) verdicts as U x 2 rejects and accepts per candidate."""
    counted: dict[Hashable, list[int]] = defaultdict(lambda: [0, 0])
    for candidate, accept in verdicts:
        counted[candidate][accept] += 1
    return np.array(list(counted.values()), np.float64).reshape(-1, 2)


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
    rows = tx.execute(_VERDICTS, {"round": round_id}).all()
    counts = count_verdicts((row.candidate_id, row.accept) for row in rows)
    by_person: dict[str, dict[Hashable, bool]] = defaultdict(dict)
    for row in rows:
        by_person[row.name][row.candidate_id] = row.accept

    # Pairs of people with candidates in common.
    pairs = [
        {"reviewers": [first, second]}
        | _describe(_count_shared(by_person[first], by_person[second]))
        for first, second in combinations(sorted(by_person), 2)
        if by_person[first].keys() & by_person[second].keys()
    ]
    adjudicating = tx.scalar(_ADJUDICATING.bindparams(round=round_id, overlap=consensus.overlap))
    header = {"round": round_id, "consensus": asdict(consensus), "adjudicating": adjudicating}
    return header | _describe(counts) | {"pairs": pairs}


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


def _count_shared(first: Mapping[Hashable, bool], second: Mapping[Hashable, bool]) -> Counts:
    """Count the verdicts of two people on their common candidates."""
    shared = sorted(first.keys() & second.keys(), key=str)
    return count_verdicts(
        [(item, verdicts[item]) for item in shared for verdicts in (first, second)]
    )


def _describe(counts: Counts) -> dict[str, Any]:
    twice = counts[counts.sum(axis=1) >= 2]
    return {
        "decided_twice": len(twice),
        "agreed": float((twice.min(axis=1) == 0).mean()) if len(twice) else None,
        "alpha": bootstrap_interval(krippendorff_alpha, counts).__dict__,
        "ac1": bootstrap_interval(gwet_ac1, counts).__dict__,
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


# The first verdict of each person on each candidate, without those of adjudicators.
_VERDICTS = sa.text(f"""
    select distinct on (d.candidate_id, d.reviewer_id)
        d.candidate_id, v.name, d.verdict = 'accept' as accept
    from decisions d join candidates c on c.id = d.candidate_id
    join reviewers v on v.id = d.reviewer_id
    where c.round_id = :round and v.kind = '{PERSON}' and not d.final and {IS_STANDING}
    order by d.candidate_id, d.reviewer_id, d.id""")

_ADJUDICATING = sa.text("""
    select count(*) from candidates
    where round_id = :round and state in ('waiting', 'showing')
        and decided >= :overlap and decided > 1""")
