"""Dawid and Skene: what is true of each candidate, and how often each reviewer says so, learnt from verdicts alone."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

Item = TypeVar("Item", bound=Hashable)

PRIOR_LOOKS: Final = 4.0
"""What is believed of a reviewer before anything is known, as so many looks ..."""
PRIOR_RIGHT: Final = 0.8
"""... of which this share was right: enough that one with three verdicts neither rules nor is ignored."""
MOST_STEPS: Final = 500
CLOSE_ENOUGH: Final = 1e-7
"""The EM ends when no posterior moves by more."""


class Skill(NamedTuple):
    """How often a reviewer accepts what is sound, and rejects what is not; both in (0, 1)."""

    accepts_sound: float = PRIOR_RIGHT
    rejects_unsound: float = PRIOR_RIGHT


class Vote(NamedTuple, Generic[Item]):
    """One reviewer's verdict on one item."""

    item: Item
    reviewer: int
    accept: bool


@dataclass(frozen=True)
class Skills:
    """The share of sound items, and the reviewers' skills; who is not known counts as any newcomer."""

    sound: float = 0.5
    of: Mapping[int, Skill] = field(default_factory=dict)

    def probability(self, votes: Sequence[tuple[int, bool]]) -> float:
        """The probability that an item with these verdicts (reviewer, accepted) is sound, by Bayes' rule."""
        odds = np.log(self.sound) - np.log1p(-self.sound)
        for reviewer, accept in votes:
            right = self.of.get(reviewer, Skill())
            if accept:
                odds += np.log(right.accepts_sound) - np.log1p(-right.rejects_unsound)
            else:
                odds += np.log1p(-right.accepts_sound) - np.log(right.rejects_unsound)
        return float(1 / (1 + np.exp(-odds)))


@dataclass(frozen=True)
class Fit(Generic[Item]):
    """What the EM found: skills, each item's probability to be sound, and from how many votes."""

    skills: Skills
    probability: Mapping[Item, float]
    votes: int


def fit_skills(votes: Sequence[Vote[Item]], known: Mapping[Item, bool] | None = None) -> Fit[Item]:
    """Fit skills and truths to verdicts; `known` are items whose truth is known (gold), which only teach the skills.

    A. P. Dawid and A. M. Skene, "Maximum likelihood estimation of observer error-rates using the EM algorithm"
    (Applied Statistics 28, 1979), for two classes, started from the majority, with PRIOR_LOOKS for each class and
    reviewer (the maximum a posteriori instead of the likelihood), so that nobody is held for certain.
    """
    known = known or {}
    items = list(dict.fromkeys(vote.item for vote in votes))
    people = list(dict.fromkeys(vote.reviewer for vote in votes))
    if not items:
        return Fit(Skills(), {}, 0)
    place = {item: i for i, item in enumerate(items)}
    seat = {reviewer: j for j, reviewer in enumerate(people)}
    i = np.array([place[vote.item] for vote in votes])
    j = np.array([seat[vote.reviewer] for vote in votes])
    accept = np.array([vote.accept for vote in votes], np.float64)
    free = np.array([item not in known for item in items])
    fixed = np.array([float(known.get(item, False)) for item in items])

    def total(weights: NDArray[np.float64], by: NDArray[np.intp], size: int) -> NDArray[np.float64]:
        return np.bincount(by, weights, size).astype(np.float64)

    share = total(accept, i, len(items)) / total(np.ones(len(i)), i, len(items))
    sound = np.where(free, share, fixed)
    for _ in range(MOST_STEPS):
        prior = (sound[free].sum() + 1) / (free.sum() + 2)
        right_accept = _share(
            total(accept * sound[i], j, len(people)), total(sound[i], j, len(people))
        )
        wrong = 1 - sound[i]
        right_reject = _share(
            total((1 - accept) * wrong, j, len(people)), total(wrong, j, len(people))
        )
        told = np.where(
            accept > 0,
            np.log(right_accept[j]) - np.log1p(-right_reject[j]),
            np.log1p(-right_accept[j]) - np.log(right_reject[j]),
        )
        odds = np.log(prior) - np.log1p(-prior) + total(told, i, len(items))
        moved = np.where(free, 1 / (1 + np.exp(-odds)), fixed)
        done = np.abs(moved - sound).max() < CLOSE_ENOUGH
        sound = moved
        if done:
            break
    found = {
        one: Skill(float(right_accept[k]), float(right_reject[k])) for k, one in enumerate(people)
    }
    probability = {item: float(sound[k]) for k, item in enumerate(items) if free[k]}
    return Fit(Skills(float(prior), found), probability, len(votes))


def _share(right: NDArray[np.float64], looks: NDArray[np.float64]) -> NDArray[np.float64]:
    return (right + PRIOR_LOOKS * PRIOR_RIGHT) / (looks + PRIOR_LOOKS)
