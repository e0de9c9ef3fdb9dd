"""Evaluation of score thresholds at an interim look, with proven bounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from curation.domain import Verdict
from curation.statistics import bounds

AutoVerdict = Literal[Verdict.reject, Verdict.accept]


@dataclass(frozen=True)
class InterimLook:
    """The result of one interim look.

    `proven` is the number of thresholds of GRID that are proven, the counts are those at the last
    of them. `lost`: acceptable candidates among the automatic rejects, of all acceptable ones (for
    accepts: bad ones among the automatic accepts, of all bad). `wrong`: the same errors, of all
    automatic decisions.
    """

    proven: int
    lost: bounds.BoundedCount
    wrong: bounds.BoundedCount


def evaluate_thresholds(
    probabilities: np.ndarray[Any, Any],
    accepted: np.ndarray[Any, Any],
    thresholds: Sequence[float],
    verdict: AutoVerdict,
    budget: float,
    level: float,
) -> InterimLook:
    """Test thresholds from the safest on.

    Args:
        probabilities: N scores of reviewed candidates.
        accepted: N verdicts.
        thresholds: The thresholds, safest first.
        verdict: Whether the gate would reject below or accept above a threshold.
        budget: The allowed error rate.
        level: The error level that this look may spend.
    """
    # An error is an acceptable candidate rejected, or a bad one accepted.
    reject = verdict is Verdict.reject
    is_error = accepted if reject else ~accepted
    decided_masks = [
        probabilities < threshold if reject else probabilities >= threshold
        for threshold in thresholds
    ]
    errors = [int(np.count_nonzero(mask & is_error)) for mask in decided_masks]
    sizes = [int(is_error.sum()) if reject else int(mask.sum()) for mask in decided_masks]
    # Skip thresholds beyond which there are too few candidates to prove anything.
    first = next(
        (index for index, n in enumerate(sizes) if n >= bounds.min_sample_size(budget, level)),
        len(sizes),
    )
    # Fixed-sequence testing: the first threshold that is not proven ends it.
    proven = first
    while proven < len(errors) and bounds.count_proven_thresholds(
        [errors[proven]], sizes[proven], budget, level
    ):
        proven += 1
    if proven == first:
        return InterimLook(0, bounds.exact_bounds(0, 0, level), bounds.exact_bounds(0, 0, level))
    last = proven - 1
    return InterimLook(
        proven,
        bounds.exact_bounds(errors[last], int(is_error.sum()), level),
        bounds.exact_bounds(errors[last], int(decided_masks[last].sum()), level),
    )
