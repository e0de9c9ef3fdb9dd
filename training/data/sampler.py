"""The training sampler: endless, weighted, and with random access to any draw."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from curation.datasets.manifest import read_samples
from curation.domain import LayerRole, Sample
from curation.ports import ObjectStore
from training.data.dataset import LayerDataset


@dataclass(frozen=True)
class WeightedSampler:
    """An endless sampler in which images appear in proportion to their weights.

    Each epoch contains an image floor(weight) times, the remainder is chosen by systematic
    sampling, and the epoch is shuffled. Draw n depends only on the seed and n, so that a resumed
    training sees the same images.
    """

    weights: tuple[float, ...]
    seed: int
    _epochs: dict[int, list[int]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def indices(self, start: int, count: int) -> list[int]:
        """Return the sample indices of draws start .. start + count - 1."""
        length = self.epoch_length
        draws: list[int] = []
        for epoch in range(start // length, (start + count - 1) // length + 1):
            begin = max(0, start - epoch * length)
            draws.extend(self._epoch(epoch)[begin : start + count - epoch * length])
        return draws

    @cached_property
    def epoch_length(self) -> int:
        """Number of draws in one epoch."""
        return max(1, round(float(self._weights.sum())))

    @cached_property
    def _weights(self) -> NDArray[np.float64]:
        return np.array(self.weights, np.float64)

    def _epoch(self, epoch: int) -> list[int]:
        if epoch not in self._epochs:
            # Systematic sampling: equidistant ticks with one random offset over the summed weights.
            rng = np.random.default_rng([self.seed, epoch])
            cumulative = np.cumsum(self._weights)
            ticks = (np.arange(self.epoch_length) + rng.random()) * (
                cumulative[-1] / self.epoch_length
            )
            sampled = np.searchsorted(cumulative, ticks, side="right").clip(max=len(cumulative) - 1)
            # Steps only move forward, so one epoch at a time is kept.
            self._epochs.clear()
            self._epochs[epoch] = [int(index) for index in rng.permutation(sampled)]
        return self._epochs[epoch]


def build_sampler(
    store: ObjectStore,
    images: LayerDataset,
    previous: str | None,
    new_sample_weight: float,
    seed: int,
    *,
    opaque_weight: float = 1.0,
    real_share: float = 0.0,
    caption_weight: Callable[[str], float] | None = None,
) -> WeightedSampler:
    """Return the sampler of a split.

    Args:
        store: Where snapshots are stored.
        images: The images to sample from.
        previous: Id of the previous snapshot; None if there is none.
        new_sample_weight: Weight factor of samples that the previous snapshot does not have.
        seed: RNG seed of the order.
        opaque_weight: Weight of layers other than foregrounds, which are opaque; foregrounds
            weigh 1.
        real_share: Least share of draws that are imported seeds.
        caption_weight: Weight factor of a caption; by default 1.
    """
    news = new_sample_weights(store, images.samples, previous, new_sample_weight)
    weights = [
        new
        * (1 if role == LayerRole.foreground else opaque_weight)
        * (caption_weight(caption) if caption_weight else 1)
        for new, role, caption in zip(news, images.roles, images.captions, strict=True)
    ]
    return WeightedSampler(tuple(with_real_share(weights, images.samples, real_share)), seed)


def with_real_share(
    weights: Sequence[float], samples: Sequence[Sample], real_share: float
) -> list[float]:
    """Return weights in which imported seeds are at least a share of the sum.

    Only the seeds' weights change, and only where their share is smaller; then they are drawn more
    than once in an epoch. Each epoch has the share but for one draw, and a batch has it on average.

    Args:
        weights: Weight of each sample.
        samples: The samples; those of round 0 are seeds.
        real_share: Least share of the seeds, 0 <= share < 1.
    """
    is_seed = [sample.round == 0 for sample in samples]
    seeds = sum(weight for weight, seed in zip(weights, is_seed, strict=True) if seed)
    others = sum(weight for weight, seed in zip(weights, is_seed, strict=True) if not seed)
    if not seeds or seeds >= real_share * (seeds + others):
        return list(weights)
    factor = real_share / (1 - real_share) * others / seeds
    return [w * factor if seed else w for w, seed in zip(weights, is_seed, strict=True)]


def new_sample_weights(
    store: ObjectStore, samples: Sequence[Sample], previous: str | None, new_sample_weight: float
) -> list[float]:
    """Return each sample's weight: `new_sample_weight` if the previous snapshot lacks it, else 1.

    Args:
        store: Where snapshots are stored.
        samples: The samples.
        previous: Id of the previous snapshot; None if there is none, and no sample is new.
        new_sample_weight: Weight of new samples.
    """
    known_ids = {sample.id for sample in read_samples(store, previous)} if previous else None
    return [
        new_sample_weight if known_ids is not None and sample.id not in known_ids else 1.0
        for sample in samples
    ]
