"""The sampler of preference training: snapshot samples, accepts and rejects in fixed shares."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

from training.data.buckets import BucketSampler, Sampler
from training.data.sampler import WeightedSampler
from training.preference.labels import Label, pair_labels
from training.presets.preset import Preset


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


@dataclass(frozen=True)
class Mixture:
    """The groups of images that a stage draws: single images for KTO, two of a shape for DPO.

    Attributes:
        groups: The images of each index of the sampler.
        sampler: The sampler of groups.
        shapes: The shape of each group.
    """

    groups: list[tuple[int, ...]]
    sampler: TwoGroups
    shapes: list[Hashable]

    def in_buckets(self, step: int) -> Sampler:
        """Return the sampler with one shape per step; the shares then hold on average only."""
        return BucketSampler(self.sampler, self.shapes, step)


def mix_singles(
    real: Mapping[int, float],
    labels: Mapping[int, Label],
    shapes: Sequence[Hashable],
    preset: Preset,
    seed: int,
) -> Mixture:
    """Mix real samples, accepts and rejects.

    Args:
        real: Weights of real samples by image; where there are none, all draws are decided.
        labels: Labels of decided candidates by image.
        shapes: The shape of each image.
        preset: Has `real_share` and `desirable_share`.
        seed: RNG seed of the order.
    """
    accepts, rejects = (
        WeightedIndices.of(
            [image for image, label in labels.items() if label.desirable == desirable],
            [label.weight for label in labels.values() if label.desirable == desirable],
            seed,
        )
        for desirable in (True, False)
    )
    decided = TwoGroups(accepts, rejects, preset.desirable_share)
    sampler = (
        TwoGroups(WeightedIndices.of([*real], [*real.values()], seed), decided, preset.real_share)
        if real
        else decided
    )
    return Mixture([(image,) for image in range(len(shapes))], sampler, list(shapes))


def mix_pairs(
    real: Mapping[int, float],
    labels: Mapping[int, Label],
    shapes: Sequence[Hashable],
    preset: Preset,
    seed: int,
) -> Mixture:
    """Mix twos of real samples with pairs of an accept and a reject of one prompt.

    Args:
        real: Weights of real samples by image; where there are none, all draws are pairs.
        labels: Labels of decided candidates by image.
        shapes: The shape of each image; the two of a group have the same.
        preset: Has `real_share`.
        seed: RNG seed of the order.

    Raises:
        Refused: No prompt has an accept and a reject.
    """
    image_of = {label.record.id: image for image, label in labels.items()}
    pairs = [
        ((image_of[chosen], image_of[rejected]), weight)
        for chosen, rejected, weight in pair_labels([labels[image] for image in sorted(labels)])
        if shapes[image_of[chosen]] == shapes[image_of[rejected]]
    ]
    # A real sample and the one half the list further on, among those of its shape.
    twos = []
    for shape in dict.fromkeys(shapes[image] for image in real):
        alike = [image for image in real if shapes[image] == shape]
        shifted = alike[len(alike) // 2 :] + alike[: len(alike) // 2]
        twos += [(two, real[two[0]]) for two in zip(alike, shifted, strict=True)]
    groups = [group for group, _ in (*twos, *pairs)]
    decided = WeightedIndices.of(
        range(len(twos), len(groups)), [weight for _, weight in pairs], seed
    )
    first = (
        WeightedIndices.of(range(len(twos)), [weight for _, weight in twos], seed)
        if twos
        else decided
    )
    sampler = TwoGroups(first, decided, preset.real_share if twos else 0.0)
    return Mixture([*groups], sampler, [shapes[group[0]] for group in groups])
