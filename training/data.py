"""A snapshot as tensors: letterboxed layers, and the order in which a training sees them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from curation.domain import LayerRole, Sample, Split
from curation.errors import Refused
from curation.layers import decode_layer
from curation.manifest import read_samples
from curation.ports import RGBA, ObjectStore


class Pictures(Dataset[Tensor]):
    """The foregrounds of samples as 4 x S x S straight RGBA in [0, 1], decoded when asked for, or once and for all."""

    def __init__(self, store: ObjectStore, samples: Sequence[Sample], size: int, *, in_memory: bool) -> None:
        self.store, self.samples, self.size = store, list(samples), size
        self._kept: NDArray[np.uint8] | None = None
        if in_memory:
            shape = (len(self.samples), size, size, 4)
            self._kept = np.empty(shape, np.uint8)
            for place in range(len(self.samples)):
                self._kept[place] = self._decode(place)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, place: int) -> Tensor:
        pixels = self._decode(place) if self._kept is None else self._kept[place]
        return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255.0

    def take(self, places: Sequence[int]) -> Tensor:
        """These pictures as one tensor, B x 4 x S x S."""
        return torch.stack([self[place] for place in places])

    @property
    def captions(self) -> list[str]:
        """The samples' own texts, in order."""
        return [sample.caption for sample in self.samples]

    def _decode(self, place: int) -> RGBA:
        return letterbox(decode_layer(self.store.get(self.samples[place].layers[LayerRole.foreground])), self.size)


def load_split(store: ObjectStore, snapshot: str, split: Split, size: int, *, in_memory: bool = True) -> Pictures:
    """The samples of a split that have a foreground, in the order of their ids. Raises NotFound, Corrupt, Refused."""
    samples = [s for s in read_samples(store, snapshot) if s.split == split and LayerRole.foreground in s.layers]
    if not samples:
        hint = "a split holds about 5 % of the samples at least; import more" if split == Split.heldout else ""
        raise Refused(f"snapshot {snapshot[:12]} has no {split.value} samples", hint)
    return Pictures(store, samples, size, in_memory=in_memory)


def letterbox(rgba: RGBA, size: int) -> RGBA:
    """The whole picture in the middle of a transparent square of that side, H x W x 4 to size x size x 4 uint8.

    Colours are weighted by alpha while they shrink, so that what alpha hides never bleeds into what is seen.
    """
    height, width = rgba.shape[:2]
    ratio = size / max(height, width)
    new_height, new_width = max(1, round(height * ratio)), max(1, round(width * ratio))
    pixels = rgba.astype(np.float32) / 255.0
    pixels[..., :3] *= pixels[..., 3:]
    how = cv2.INTER_AREA if ratio < 1 else cv2.INTER_LINEAR
    small = np.asarray(cv2.resize(pixels, (new_width, new_height), interpolation=how))
    alpha = small[..., 3:]
    small[..., :3] = np.divide(small[..., :3], alpha, out=np.zeros_like(small[..., :3]), where=alpha > 0)
    square = np.zeros((size, size, 4), np.uint8)
    top, left = (size - new_height) // 2, (size - new_width) // 2
    square[top : top + new_height, left : left + new_width] = np.rint(small.clip(0, 1) * 255)
    return square


@dataclass(frozen=True)
class DrawOrder:
    """An endless order of samples in which the new ones come `new_weight` times as often.

    Every pass over the set draws each sample the whole part of its weight, and the rest by systematic sampling, then
    shuffles. The n-th draw depends on the seed and n alone, so a training that resumes sees what it would have seen.
    """

    is_new: tuple[bool, ...]
    new_weight: float
    seed: int

    def places(self, start: int, count: int) -> list[int]:
        """The draws number start to start + count - 1."""
        length = self._length
        drawn: list[int] = []
        for lap in range(start // length, (start + count - 1) // length + 1):
            begin = max(0, start - lap * length)
            drawn.extend(self._lap(lap)[begin : start + count - lap * length])
        return drawn

    @property
    def _length(self) -> int:
        return max(1, round(float(self._weights.sum())))

    @property
    def _weights(self) -> NDArray[np.float64]:
        return np.where(self.is_new, self.new_weight, 1.0)

    def _lap(self, lap: int) -> list[int]:
        rng = np.random.default_rng([self.seed, lap])
        ends = np.cumsum(self._weights)
        ticks = (np.arange(self._length) + rng.random()) * (ends[-1] / self._length)
        drawn = np.searchsorted(ends, ticks, side="right").clip(max=len(ends) - 1)
        return [int(place) for place in rng.permutation(drawn)]


def draw_order(store: ObjectStore, pictures: Pictures, previous: str | None, new_weight: float, seed: int) -> DrawOrder:
    """The order for a split: new is what the previous snapshot lacks; without one, nothing is."""
    known = {sample.id for sample in read_samples(store, previous)} if previous else None
    is_new = tuple(known is not None and sample.id not in known for sample in pictures.samples)
    return DrawOrder(is_new, new_weight, seed)


def batches(order: DrawOrder, seen: int, total: int, batch: int) -> Iterator[list[int]]:
    """The places of each batch from the image number `seen` up to `total`; the last batch may be smaller."""
    while seen < total:
        count = min(batch, total - seen)
        yield order.places(seen, count)
        seen += count
