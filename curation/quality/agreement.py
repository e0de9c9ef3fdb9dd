"""Agreement: how far reviewers of the same candidates say the same beyond chance, with intervals."""

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
from curation.review.consensus import Consensus
from curation.review.reviewers import PERSON
from curation.review.verdicts import STANDS
from curation.rounds.lifecycle import find_round

RESAMPLES: Final = 1_000
"""Bootstrap samples behind an interval."""
SEED: Final = 7
FEWEST: Final = 5
"""Candidates decided by two or more below which no interval is told: a bootstrap of so few means nothing."""

Counts = NDArray[np.float64]
"""U x C: how many reviewers put each of U candidates into each of C classes; zeros where somebody did not look."""
Often = NDArray[np.float64] | None


@dataclass(frozen=True)
class Figure:
    """A coefficient (1 is perfect, 0 chance) with its 95 % interval; None where it is not defined."""

    value: float | None
    low: float | None
    high: float | None


def krippendorff_alpha(counts: Counts, often: Often = None) -> float | None:
    """Krippendorff's alpha for nominal data with missing values, from counts U x C, each row `often` times (once).

    K. Krippendorff, "Computing Krippendorff's alpha-reliability" (2011), section C: 1 - (n - 1) * (sum of coincidences
    off the diagonal) / (sum of n_c n_k for c != k). None where nothing can be paired; where all values are equal
    nothing could have disagreed, and alpha is 1 by convention.
    """
    times = np.ones(len(counts)) if often is None else often
    twice = counts.sum(axis=1) >= 2
    paired, times = counts[twice], times[twice]
    per_unit = paired.sum(axis=1)
    n = times @ per_unit
    if n < 2:
        return None
    observed = times @ ((per_unit**2 - (paired**2).sum(axis=1)) / (per_unit - 1))
    expected = n**2 - ((times @ paired) ** 2).sum()
    return 1.0 if expected == 0 else float(1 - (n - 1) * observed / expected)


def gwet_ac1(counts: Counts, often: Often = None) -> float | None:
    """Gwet's AC1 for any number of reviewers and missing values, from counts U x C, each row `often` times (once).

    K. L. Gwet, "Computing inter-rater reliability and its variance in the presence of high agreement" (British Journal
    of Mathematical and Statistical Psychology 61, 2008): chance is 1 / (C - 1) * sum of pi (1 - pi). Unlike alpha it
    stays meaningful where nearly all is of one class, as rejects are here. None where no candidate has two verdicts.
    """
    times = np.ones(len(counts)) if often is None else often
    per_unit = np.maximum(
        counts.sum(axis=1), 1
    )  # nobody looked: a row of zeros, which weighs nothing below
    seen = times * (counts.sum(axis=1) >= 1)
    twice = times * (per_unit >= 2)
    if not twice.any():
        return None
    alike = (counts * (counts - 1)).sum(axis=1) / np.maximum(per_unit * (per_unit - 1), 1)
    observed = twice @ alike / twice.sum()
    pi = seen @ (counts / per_unit[:, None]) / seen.sum()
    chance = (pi * (1 - pi)).sum() / (counts.shape[1] - 1)
    return float((observed - chance) / (1 - chance))


def with_interval(measure: Callable[[Counts, Often], float | None], counts: Counts) -> Figure:
    """A coefficient with its percentile bootstrap interval over candidates (B. Efron, 1979), from RESAMPLES samples.

    Candidates with equal counts are interchangeable, so drawing how many of each kind there are is drawing candidates:
    a sample costs as much as there are kinds, however large the round.
    """
    value = measure(counts, None)
    if value is None or (counts.sum(axis=1) >= 2).sum() < FEWEST:
        return Figure(value, None, None)
    kinds, often = np.unique(counts, axis=0, return_counts=True)
    drawn = np.random.default_rng(SEED).multinomial(often.sum(), often / often.sum(), RESAMPLES)
    found = [
        one for sample in drawn if (one := measure(kinds, sample.astype(np.float64))) is not None
    ]
    low, high = np.quantile(found, [0.025, 0.975])
    return Figure(value, float(low), float(high))


def count_verdicts(verdicts: Iterable[tuple[Hashable, bool]]) -> Counts:
    """Counts U x 2 (rejects, accepts) of verdicts (candidate, accepted)."""
    counted: dict[Hashable, list[int]] = defaultdict(lambda: [0, 0])
    for candidate, accept in verdicts:
        counted[candidate][accept] += 1
    return np.array(list(counted.values()), np.float64).reshape(-1, 2)


def round_agreement(tx: Transaction, number: int) -> dict[str, Any]:
    """Alpha and AC1 of a round and of each pair of its people, as JSON would hold it. Raises NotFound.

    What each person said first counts, whatever an adjudicator or a re-aggregation made of it; the oracle and gold
    are left out. `consensus` is how the round's verdicts are reached, `adjudicating` how many candidates wait for an
    adjudicator, `decided_twice` counts candidates with verdicts of two or more people, `agreed` the share of them on
    which all said the same.
    """
    consensus = Consensus.read(find_round(tx, number)["consensus"])
    rows = tx.execute(_VERDICTS, {"round": number}).all()
    counts = count_verdicts((row.candidate_id, row.accept) for row in rows)
    by_person: dict[str, dict[Hashable, bool]] = defaultdict(dict)
    for row in rows:
        by_person[row.name][row.candidate_id] = row.accept
    pairs = [
        {"reviewers": [one, other]} | _describe(_both(by_person[one], by_person[other]))
        for one, other in combinations(sorted(by_person), 2)
        if by_person[one].keys() & by_person[other].keys()
    ]
    adjudicating = tx.scalar(_ADJUDICATING.bindparams(round=number, overlap=consensus.overlap))
    header = {"round": number, "consensus": asdict(consensus), "adjudicating": adjudicating}
    return header | _describe(counts) | {"pairs": pairs}


def as_text(report: Mapping[str, Any]) -> str:
    """A round's agreement for people to read in a terminal."""
    if not report["decided_twice"]:
        return f"Round {report['round']}: no candidate was decided by two people yet"
    lines = [f"Round {report['round']}: {_sentence(report)}"]
    if report["adjudicating"]:
        lines.append(
            f"  {report['adjudicating']} wait for an adjudicator (access engineer or more, at the same desk)"
        )
    lines += [f"  {' and '.join(pair['reviewers'])}: {_sentence(pair)}" for pair in report["pairs"]]
    return "\n".join(lines)


def _both(one: Mapping[Hashable, bool], other: Mapping[Hashable, bool]) -> Counts:
    shared = sorted(one.keys() & other.keys(), key=str)
    return count_verdicts([(item, verdicts[item]) for item in shared for verdicts in (one, other)])


def _describe(counts: Counts) -> dict[str, Any]:
    twice = counts[counts.sum(axis=1) >= 2]
    return {
        "decided_twice": len(twice),
        "agreed": float((twice.min(axis=1) == 0).mean()) if len(twice) else None,
        "alpha": with_interval(krippendorff_alpha, counts).__dict__,
        "ac1": with_interval(gwet_ac1, counts).__dict__,
    }


def _sentence(report: Mapping[str, Any]) -> str:
    coefficients = ", ".join(
        f"{label} {_format_coefficient(report[name])}" for name, label in (("alpha", "alpha"), ("ac1", "AC1"))
    )
    return f"{report['decided_twice']} decided by two or more, {report['agreed']:.0%} alike; {coefficients}"


def _format_coefficient(one: Mapping[str, float | None]) -> str:
    if one["value"] is None:
        return "–"
    interval = f" (95 % {one['low']:.2f} to {one['high']:.2f})" if one["low"] is not None else ""
    return f"{one['value']:.2f}{interval}"


_VERDICTS = sa.text(f"""
    select distinct on (d.candidate_id, d.reviewer_id) d.candidate_id, v.name, d.verdict = 'accept' as accept
    from decisions d join candidates c on c.id = d.candidate_id join reviewers v on v.id = d.reviewer_id
    where c.round_id = :round and v.kind = '{PERSON}' and not d.final and {STANDS}
    order by d.candidate_id, d.reviewer_id, d.id""")

_ADJUDICATING = sa.text("""
    select count(*) from candidates
    where round_id = :round and state in ('waiting', 'showing') and decided >= :overlap and decided > 1""")
