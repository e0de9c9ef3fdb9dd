"""The loader of layer batches: the same batches for any number of ranks, workers and resumes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from curation.domain import LayerRole, Sample, Split
from curation.errors import Corrupt, NotFound, Refused
from curation.object_store import ObjectReader
from training.data.buckets import BucketConfig, BucketSampler, Sampler, make_bucket_table
from training.data.dataset import LayerDataset, prefetch
from training.data.layer_set_dataset import LayerSetDataset
from training.data.sampler import WeightedSampler
from training.data.splits import read_split

AHEAD_BATCHES = 2
"""Batches that threads read before they are requested."""


@dataclass(frozen=True)
class LayerBatch:
    """The rows of one global batch that belong to one rank.

    Attributes:
        number: Number of the global batch, from 0.
        images_seen: Draws up to and including this global batch, over all ranks: where to resume.
        sample_ids: Ids of the samples. An unreadable sample is replaced by another.
        layers: Straight RGBA in [0, 1] by role, each B x 4 x H x W, aligned with each other.
        captions: The text of each layer by role; empty where only a file name is known.
        size_conditions: SDXL's size conditioning in pixels, B x 6.
    """

    number: int
    images_seen: int
    sample_ids: list[str]
    layers: Mapping[str, Tensor]
    captions: Mapping[str, list[str]]
    size_conditions: Tensor

    def __len__(self) -> int:
        return len(self.sample_ids)


class LayerLoader(IterableDataset[LayerBatch]):
    """An endless stream of batches that depends on the seed and the batch number only.

    Batch k is the same to the bit for any number of ranks, threads and worker processes, and
    after a resume from any of them: concatenated in rank order, the rows of all ranks are the
    global batch. All images of a batch have one size.

    Iterate it directly: threads read ahead. Or give it to
    `torch.utils.data.DataLoader(loader, batch_size=None, num_workers=n)`, whose worker processes
    share the batches; then save `batch.images_seen`, since the worker processes, not this object,
    advance.
    """

    def __init__(
        self,
        layer_sets: LayerSetDataset,
        sampler: Sampler,
        batch_size: int,
        *,
        rank: int = 0,
        world_size: int = 1,
        images_seen: int = 0,
        images: int | None = None,
        threads: int = 4,
    ) -> None:
        """Open a loader.

        Args:
            layer_sets: The samples, one layer set per index.
            sampler: The order of indices; runs of `batch_size` draws have one image size.
            batch_size: Images in a global batch, over all ranks.
            rank: Number of this rank, from 0.
            world_size: Number of ranks.
            images_seen: Draws to skip. In the middle of a batch, its remaining rows come first.
            images: Draws after which the stream ends; None is endless.
            threads: Threads that read and decode; 1 or more.

        Raises:
            ValueError: A number is out of its range.
        """
        if not 0 <= rank < world_size:
            raise ValueError(f"rank {rank} is not in 0 .. {world_size - 1}")
        if batch_size < 1 or threads < 1 or images_seen < 0:
            raise ValueError("batch_size and threads must be positive, images_seen not negative")
        self._layer_sets, self._sampler = layer_sets, sampler
        self.batch_size, self.threads = batch_size, threads
        self.rank, self.world_size = rank, world_size
        self.images_seen, self._images = images_seen, images

    @property
    def samples(self) -> Sequence[Sample]:
        """The samples that the loader draws from."""
        return self._layer_sets.samples

    @property
    def epoch_length(self) -> int:
        """Number of draws in one epoch: the sum of the weights, rounded."""
        return self._sampler.epoch_length

    @property
    def unreadable(self) -> Mapping[str, str]:
        """Error messages by id of the samples that this process could not read so far."""
        return self._layer_sets.layers.unreadable

    def state_dict(self) -> dict[str, int]:
        """Return the position of the stream, for any other number of ranks and workers."""
        return {"images_seen": self.images_seen}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Continue from a position that `state_dict` returned, in any topology."""
        self.images_seen = int(state["images_seen"])

    def batch_indices(self, number: int) -> list[int]:
        """Return the indices of a global batch into `samples`, before any replacement."""
        return self._draws(number, 0)

    def __iter__(self) -> Iterator[LayerBatch]:
        """Yield the batches of this rank, from `images_seen`.

        Raises:
            Corrupt: Too many images cannot be read.
        """
        # Worker processes of a DataLoader take turns, in the order in which it collects them.
        worker = get_worker_info()
        first, step = (worker.id, worker.num_workers) if worker else (0, 1)
        begin = self.images_seen
        numbers, shards = itertools.tee(
            (number, self._shard(number, begin))
            for number in self._numbers(begin // self.batch_size + first, step)
        )
        rows = prefetch(self._read, (shard for _, shard in shards), self.threads, AHEAD_BATCHES)
        with closing(rows):
            for (number, _), read in zip(numbers, rows, strict=True):
                self.images_seen = self._end(number)
                yield self._collate(number, read)

    def _numbers(self, first: int, step: int) -> Iterator[int]:
        """Yield the numbers of the batches, up to the end of the stream."""
        for number in itertools.count(first, step):
            if self._images is not None and number * self.batch_size >= self._images:
                return
            yield number

    def _end(self, number: int) -> int:
        """Return the number of draws at the end of a batch."""
        end = (number + 1) * self.batch_size
        return end if self._images is None else min(end, self._images)

    def _draws(self, number: int, begin: int) -> list[int]:
        """Return the indices of a global batch, without the draws before `begin`."""
        start = max(begin, number * self.batch_size)
        return self._sampler.indices(start, self._end(number) - start)

    def _shard(self, number: int, begin: int) -> list[int]:
        """Return the indices of this rank: an equal contiguous part of the global batch."""
        draws = self._draws(number, begin)
        start, end = (len(draws) * part // self.world_size for part in (self.rank, self.rank + 1))
        return draws[start:end]

    def _read(self, index: int) -> tuple[int, list[Tensor]]:
        """Return the index and the layers of a layer set or its replacement. Raises Corrupt."""
        layers = self._layer_sets.layers
        while True:
            (stand_in,) = self._layer_sets.readable_indices([index])
            pixels: list[Tensor] = []
            for row in self._layer_sets.layer_indices[stand_in]:
                try:
                    pixels.append(layers[row])
                except (Corrupt, NotFound) as error:
                    layers.mark_unreadable(row, error)
                    break
            else:
                return stand_in, pixels

    def _collate(self, number: int, read: Sequence[tuple[int, list[Tensor]]]) -> LayerBatch:
        """Stack the rows of a batch by role."""
        sets, layers = self._layer_sets, self._layer_sets.layers
        roles = sets.roles[0]
        indices = [index for index, _ in read]
        texts = [sets.captions(index) for index in indices]
        # A rank has no rows where a batch is smaller than the number of ranks.
        empty = torch.zeros(0, 4, 0, 0)
        return LayerBatch(
            number,
            self._end(number),
            [sets.samples[index].id for index in indices],
            {
                str(role): torch.stack([pixels[position] for _, pixels in read]) if read else empty
                for position, role in enumerate(roles)
            },
            {str(role): [text[position] for text in texts] for position, role in enumerate(roles)},
            layers.size_conditions([sets.layer_indices[index][0] for index in indices]).view(-1, 6),
        )


def open_loader(
    store: ObjectReader,
    snapshot: str,
    split: Split,
    *,
    size: int,
    batch_size: int,
    roles: Sequence[LayerRole] = (LayerRole.foreground,),
    weight: Callable[[Sample], float] = lambda _: 1.0,
    buckets: BucketConfig | None = None,
    seed: int = 0,
    max_unreadable_share: float = 0.01,
    rank: int = 0,
    world_size: int = 1,
    images_seen: int = 0,
    images: int | None = None,
    threads: int = 4,
) -> LayerLoader:
    """Open a loader over the samples of a split that have all roles.

    Args:
        store: Where the snapshot is stored.
        snapshot: Id of the snapshot.
        split: Training or held-out samples.
        size: Height and width in pixels; with buckets, of the square bucket.
        batch_size: Images in a global batch.
        roles: Layers of each sample, returned aligned with each other.
        weight: How often a sample is drawn per epoch, 0 or more; 0 leaves it out.
        buckets: Image sizes to sort the samples into; None letterboxes all to size x size.
        seed: RNG seed of the order.
        max_unreadable_share: Share of unreadable images above which Corrupt is raised, in [0, 1].
        rank: Number of this rank, from 0.
        world_size: Number of ranks.
        images_seen: Draws to skip.
        images: Draws after which the stream ends; None is endless.
        threads: Threads that read and decode.

    Raises:
        NotFound: The snapshot is not in the store.
        Corrupt: It cannot be read, or too many of its images cannot.
        Refused: No sample has all roles and a positive weight.
        ValueError: A weight is negative or not finite, or a number is out of its range.
    """
    # Choose the samples, and leave out those that are never drawn.
    complete = [
        sample
        for sample in read_split(store, snapshot, split)
        if all(role in sample.layers for role in roles)
    ]
    weights = {sample.id: float(weight(sample)) for sample in complete}
    for sample_id, value in weights.items():
        if not math.isfinite(value) or value < 0:
            raise ValueError(f"the weight of sample {sample_id[:12]} is {value}")
    chosen = [sample for sample in complete if weights[sample.id]]
    if not chosen:
        raise Refused(
            f"no {split.value} sample of snapshot {snapshot[:12]} has {' and '.join(roles)} "
            "and a positive weight"
        )
    # All layers are one dataset, which is grouped by sample again.
    owners = [sample for sample in chosen for _ in roles]
    layers = LayerDataset(
        store,
        owners,
        size,
        in_memory=False,
        buckets=buckets,
        roles=list(roles) * len(chosen),
        max_unreadable_share=max_unreadable_share,
    )
    sets = LayerSetDataset(layers, tuple(roles), with_single_foregrounds=False)
    sampler: Sampler = WeightedSampler(tuple(weights[sample.id] for sample in sets.samples), seed)
    if buckets is not None:
        sampler = BucketSampler(sampler, sets.keys, batch_size)
    return LayerLoader(
        sets,
        sampler,
        batch_size,
        rank=rank,
        world_size=world_size,
        images_seen=images_seen,
        images=images,
        threads=threads,
    )


def aspect_buckets(
    size: int, batch_size: int, *, step: int = 64, max_ratio: float = 2.0
) -> BucketConfig:
    """Return buckets of about size x size pixels for every aspect ratio up to a limit.

    Args:
        size: Height and width of the square bucket in pixels.
        batch_size: Images in a global batch; buckets with fewer images are merged.
        step: Heights and widths are multiples of this many pixels.
        max_ratio: Largest ratio of the longer to the shorter side, 1 or more.
    """
    return BucketConfig(make_bucket_table(size, step, max_ratio), batch_size)
