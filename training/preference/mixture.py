"""The sampler of preference training: snapshot samples, accepts and rejects in fixed shares."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from training.data.sampler import WeightedSampler


@dataclass(frozen=True)
class WeightedIndices:
    """Indices that are drawn in proportion to their weights, from a sampler of their own."""

    indices: Sequence[int]
    sampler: WeightedSampler

    @staticmethod
    def of(indices: Sequence[int], weights: Sequence[float], seed: int) -> WeightedIndices:
        """Build a group; weights are scaled to a mean of 1, so that an epoch has every index.

        Args:
            indices: The indices.
            weights: Their weights, of which at least one is positive.
            seed: RNG seed of the order.
        """
        mean = sum(weights) / len(weights)
        return WeightedIndices(
            indices, WeightedSampler(tuple(weight / mean for weight in weights), seed)
        )

    def draw(self, number: int) -> int:
        """Return the index of a draw."""
        return self.indices[self.sampler.indices(number, 1)[0]]


@dataclass(frozen=True)
class TwoGroups:
    """An endless sampler that takes a fixed share of its draws from one group, evenly spread.

    Among any n draws from the first on, floor(n x share) are of the first group. Draw n depends
    only on n and the groups, so that a resumed training sees the same images.
    """

    first: WeightedIndices
    second: WeightedIndices | TwoGroups
    share: float  # of the first group, in [0, 1)

    @property
    def epoch_length(self) -> int:
        """Number of draws in which every index is drawn about once."""
        second = (
            self.second.epoch_length
            if isinstance(self.second, TwoGroups)
            else len(self.second.indices)
        )
        return len(self.first.indices) + second

    def indices(self, start: int, count: int) -> list[int]:
        """Return the indices of draws start .. start + count - 1."""
        return [self.draw(number) for number in range(start, start + count)]

    def draw(self, number: int) -> int:
        """Return the index of a draw."""
        before = math.floor(number * self.share)
        if math.floor((number + 1) * self.share) > before:
            return self.first.draw(before)
        return self.second.draw(number - before)
