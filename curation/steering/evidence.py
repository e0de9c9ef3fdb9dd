"""Evidence about arms and prompts: discounted accepts and rejects, and the reasons of rejects."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from curation.statistics.intervals import wilson


class Interval(NamedTuple):
    """A share with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass
class Evidence:
    """Decisions about one arm, one prompt, or all prompts.

    Attributes:
        accepts: Effective number of accepts: weighted and discounted, so that it need not be an
            integer.
        rejects: Effective number of rejects.
        decisions: Number of decided candidates, neither weighted nor discounted.
        automatic: How many of them the rule reviewer decided.
        reasons: Number of reject reasons by reason.
    """

    accepts: float = 0.0
    rejects: float = 0.0
    decisions: int = 0
    automatic: int = 0
    reasons: Counter[str] = field(default_factory=Counter)

    def add(self, other: Evidence, discount: float = 1.0) -> None:
        """Add other evidence.

        Args:
            other: The other evidence.
            discount: What one of its decisions counts.
        """
        self.accepts += discount * other.accepts
        self.rejects += discount * other.rejects
        self.decisions += other.decisions
        self.automatic += other.automatic
        self.reasons.update(other.reasons)

    @property
    def size(self) -> float:
        """Effective number of decisions."""
        return self.accepts + self.rejects

    def acceptance(self) -> Interval | None:
        """Return the share of accepts with its interval; None without decisions."""
        if self.size <= 0:
            return None
        share = self.accepts / self.size
        return Interval(share, *wilson(share, self.size))


def weighted_evidence(
    weight: float, accepted: float, squared: float, decisions: int, automatic: int
) -> Evidence:
    """Return the evidence of weighted decisions of one round.

    Unequal weights reduce the effective number of decisions to (sum w)^2 / sum w^2 (Kish, 1965).

    Args:
        weight: The sum of the weights.
        accepted: The sum of the weights, each times the probability that the candidate is good.
        squared: The sum of the squared weights.
        decisions: The number of decisions.
        automatic: The number of decisions of the rule reviewer.
    """
    if weight <= 0 or squared <= 0:
        return Evidence()
    size = weight**2 / squared
    share = min(max(accepted / weight, 0.0), 1.0)
    return Evidence(size * share, size * (1 - share), decisions, automatic)


def discounted(rounds: Iterable[Mapping[str, Evidence]], half_life: float) -> dict[str, Evidence]:
    """Add the evidence of rounds, the newest first.

    A decision of the newest round counts 1, one of `half_life` rounds before counts 1/2: the
    checkpoint changes from round to round, so old decisions are about another one.

    Args:
        rounds: The evidence of each round by name.
        half_life: Number of rounds after which a decision counts half.
    """
    total: dict[str, Evidence] = {}
    for age, found in enumerate(rounds):
        for name, evidence in found.items():
            total.setdefault(name, Evidence()).add(evidence, 0.5 ** (age / half_life))
    return total


def evidence_to_list(evidence: Evidence) -> list[Any]:
    """Return evidence as JSON data."""
    return [
        round(evidence.accepts, 4),
        round(evidence.rejects, 4),
        evidence.decisions,
        evidence.automatic,
        dict(evidence.reasons),
    ]


def read_evidence(row: list[Any]) -> Evidence:
    """Return the inverse of `evidence_to_list`."""
    accepts, rejects, decisions, automatic, reasons = row
    return Evidence(accepts, rejects, decisions, automatic, Counter(reasons))
