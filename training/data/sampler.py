"""The order in which a training sees its pictures: endless, weighted, and known for every number of a draw."""

from __future__ import annotations

from collections.abc import Sequence
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
    """An endless order of pictures in which each comes as often as its weight says.

    Every pass over the set draws each picture the whole part of its weight, and the rest by systematic sampling, then
    shuffles. The n-th draw depends on the seed and n alone, so a training that resumes sees what it would have seen.
    """

    weights: tuple[float, ...]
    seed: int
    _laps: dict[int, list[int]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def places(self, start: int, count: int) -> list[int]:
        """The draws number start to start + count - 1."""
        length = self.length
        drawn: list[int] = []
        for lap in range(start // length, (start + count - 1) // length + 1):
            begin = max(0, start - lap * length)
            drawn.extend(self._lap(lap)[begin : start + count - lap * length])
        return drawn

    @cached_property
    def length(self) -> int:
        """The draws of one pass."""
        return max(1, round(float(self._weights.sum())))

    @cached_property
    def _weights(self) -> NDArray[np.float64]:
        return np.array(self.weights, np.float64)

    def _lap(self, lap: int) -> list[int]:
        if lap not in self._laps:
            rng = np.random.default_rng([self.seed, lap])
            ends = np.cumsum(self._weights)
            ticks = (np.arange(self.length) + rng.random()) * (ends[-1] / self.length)
            drawn = np.searchsorted(ends, ticks, side="right").clip(max=len(ends) - 1)
            self._laps.clear()  # steps walk forwards: one pass at a time is needed, and made once
            self._laps[lap] = [int(place) for place in rng.permutation(drawn)]
        return self._laps[lap]


def draw_order(
    store: ObjectStore,
    pictures: LayerDataset,
    previous: str | None,
    new_weight: float,
    seed: int,
    *,
    opaque: float = 1.0,
) -> WeightedSampler:
    """The order for a split: a foreground counts 1, another layer, which is opaque, `opaque`, and more if it is new."""
    news = weigh_new(store, pictures.samples, previous, new_weight)
    weights = (
        new * (1 if role == LayerRole.foreground else opaque)
        for new, role in zip(news, pictures.roles, strict=True)
    )
    return WeightedSampler(tuple(weights), seed)


def weigh_new(
    store: ObjectStore, samples: Sequence[Sample], previous: str | None, new_weight: float
) -> list[float]:
    """`new_weight` for what the previous snapshot lacks, 1 for the rest; without a previous one nothing is new."""
    known = {sample.id for sample in read_samples(store, previous)} if previous else None
    return [
        new_weight if known is not None and sample.id not in known else 1.0 for sample in samples
    ]
