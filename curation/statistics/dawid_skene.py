"""The model of Dawid and Skene: estimates true labels and reviewer skills from verdicts."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

Item = TypeVar("Item", bound=Hashable)

PRIOR_VERDICTS: Final = 4.0
"""Weight of the prior of a reviewer's skill, as a number of verdicts."""
PRIOR_SKILL: Final = 0.8
"""Mean of that prior; a reviewer with three verdicts neither dominates nor is ignored."""
MAX_STEPS: Final = 500
TOLERANCE: Final = 1e-7
"""EM ends when no posterior changes by more than this."""


class Skill(NamedTuple):
    """The shares of sound items that a reviewer accepts and of unsound ones they reject."""

    accepts_sound: float = PRIOR_SKILL
    rejects_unsound: float = PRIOR_SKILL


class Vote(NamedTuple, Generic[Item]):
    """The verdict of a reviewer on an item."""

    item: Item
    reviewer: int
    accept: bool


@dataclass(frozen=True)
class Skills:
    """The share of sound items, and the skills by reviewer; unknown reviewers have the prior."""

    sound: float = 0.5
    of: Mapping[int, Skill] = field(default_factory=dict)

    def probability(self, votes: Sequence[tuple[int, bool]]) -> float:
        """Return the probability that an item with these (reviewer, accepted) verdicts is sound."""
        # Bayes' rule in log odds: the verdicts are independent given the truth.
        odds = np.log(self.sound) - np.log1p(-self.sound)
        for reviewer, accept in votes:
            skill = self.of.get(reviewer, Skill())
            if accept:
                odds += np.log(skill.accepts_sound) - np.log1p(-skill.rejects_unsound)
            else:
                odds += np.log1p(-skill.accepts_sound) - np.log(skill.rejects_unsound)
        return float(1 / (1 + np.exp(-odds)))


@dataclass(frozen=True)
class DawidSkeneFit(Generic[Item]):
    """The result of EM: skills, each item's probability of being sound, and the number of votes."""

    skills: Skills
    probability: Mapping[Item, float]
    votes: int


def fit_skills(
    votes: Sequence[Vote[Item]], known: Mapping[Item, bool] | None = None
) -> DawidSkeneFit[Item]:
    """Fit skills and true labels to verdicts by EM.

    A. P. Dawid and A. M. Skene, "Maximum likelihood estimation of observer error-rates using the EM
    algorithm" (Applied Statistics 28, 1979), for two classes, initialized by the majority. A prior
    of PRIOR_VERDICTS verdicts per class and reviewer (maximum a posteriori) keeps skills away from
    0 and 1.

    Args:
        votes: The verdicts.
        known: Items with a known label (gold); they only contribute to the skills.

    Returns:
        The skills, and the probabilities of the items that are not known.
    """
    known = known or {}
    items = list(dict.fromkeys(vote.item for vote in votes))
    people = list(dict.fromkeys(vote.reviewer for vote in votes))
    if not items:
        return DawidSkeneFit(Skills(), {}, 0)

    # Votes as arrays: item index, reviewer index, and verdict.
    rows = {item: i for i, item in enumerate(items)}
    columns = {reviewer: j for j, reviewer in enumerate(people)}
    i = np.array([rows[vote.item] for vote in votes])
    j = np.array([columns[vote.reviewer] for vote in votes])
    accept = np.array([vote.accept for vote in votes], np.float64)
    free = np.array([item not in known for item in items])
    fixed = np.array([float(known.get(item, False)) for item in items])

    def total(weights: NDArray[np.float64], by: NDArray[np.intp], size: int) -> NDArray[np.float64]:
        return np.bincount(by, weights, size).astype(np.float64)

    # Initialize the labels by the share of accepts, then alternate M and E steps.
    share = total(accept, i, len(items)) / total(np.ones(len(i)), i, len(items))
    sound = np.where(free, share, fixed)
    for _ in range(MAX_STEPS):
        # M step: prevalence and skills given the labels.
        prior = (sound[free].sum() + 1) / (free.sum() + 2)
        right_accept = _share(
            total(accept * sound[i], j, len(people)), total(sound[i], j, len(people))
        )
        wrong = 1 - sound[i]
        right_reject = _share(
            total((1 - accept) * wrong, j, len(people)), total(wrong, j, len(people))
        )
        # E step: labels given the skills.
        log_odds = np.where(
            accept > 0,
            np.log(right_accept[j]) - np.log1p(-right_reject[j]),
            np.log1p(-right_accept[j]) - np.log(right_reject[j]),
        )
        odds = np.log(prior) - np.log1p(-prior) + total(log_odds, i, len(items))
        updated = np.where(free, 1 / (1 + np.exp(-odds)), fixed)
        done = np.abs(updated - sound).max() < TOLERANCE
        sound = updated
        if done:
            break
    skills = {
        reviewer: Skill(float(right_accept[k]), float(right_reject[k]))
        for k, reviewer in enumerate(people)
    }
    probability = {item: float(sound[k]) for k, item in enumerate(items) if free[k]}
    return DawidSkeneFit(Skills(float(prior), skills), probability, len(votes))


def _share(right: NDArray[np.float64], verdicts: NDArray[np.float64]) -> NDArray[np.float64]:
    return (right + PRIOR_VERDICTS * PRIOR_SKILL) / (verdicts + PRIOR_VERDICTS)
