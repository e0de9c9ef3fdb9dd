"""A snapshot as tensors: letterboxed layers, and the order in which a training sees them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any, TypeVar

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from curation.datasets.manifest import read_samples, read_withheld
from curation.domain import LayerRole, Sample, Split
from curation.errors import Corrupt, NotFound, Refused
from curation.images.codec import decode_layer
from curation.ports import RGBA, ObjectStore
from training.data.buckets import Buckets, Size, size_conditions

BROKEN_SHARE = 0.01
"""More pictures than this share that cannot be read are no accident, and stop a training; one is always borne."""

Box = tuple[int, int, int, int]
"""Top, left, height and width in pixels."""

T = TypeVar("T")


class LayerDataset(Dataset[Tensor]):
    """Layers of samples as 4 x H x W straight RGBA in [0, 1], decoded when asked for, or once and for all.

    A picture that cannot be read is set aside and named in `aside`. In memory it is left out from the beginning; else
    the next one of its shape that can be read stands in for it, whoever asks and whenever, so that a training goes on
    and a resumed one sees the same. Too many of them raise Corrupt.
    """

    def __init__(
        self,
        store: ObjectStore,
        samples: Sequence[Sample],
        size: int,
        *,
        in_memory: bool,
        buckets: Buckets | None = None,
        roles: Sequence[LayerRole] | None = None,
    ) -> None:
        """roles: which layer of each sample; by default its foreground. Without buckets all shapes are size x size."""
        self.store, self.samples, self.size = store, list(samples), size
        self.roles = list(roles or [LayerRole.foreground] * len(self.samples))
        self.aside: dict[str, str] = {}  # what is wrong, by the sample's id
        self._borne = max(1, int(len(self.samples) * BROKEN_SHARE))
        self._broken: set[int] = set()
        self._kept: list[RGBA] | None = None
        self._boxes: dict[str, Box] = {}  # by the stored image, of all that were decoded
        self._sort(buckets)
        if in_memory:
            self._keep()

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, place: int) -> Tensor:
        """One picture. Raises Corrupt, NotFound."""
        pixels = self._decode(place) if self._kept is None else self._kept[place]
        return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255.0

    def take(self, places: Sequence[int]) -> Tensor:
        """These pictures, all of one shape, as one tensor, B x 4 x H x W. Raises Corrupt, NotFound."""
        return torch.stack([self[place] for place in places])

    def read(self, place: int) -> tuple[int, Tensor]:
        """A picture, or the one that stands in for it: its place, and its pixels. Raises Corrupt where none is left."""
        while True:
            (stand_in,) = self.sound([place])
            try:
                return stand_in, self[stand_in]
            except (Corrupt, NotFound) as error:
                self.set_aside(stand_in, error)

    def sound(self, places: Sequence[int]) -> list[int]:
        """The places, with those known to be broken replaced by the next of their shape. Raises Corrupt."""
        return [self._stand_in(place) if place in self._broken else place for place in places]

    def set_aside(self, place: int, error: Corrupt | NotFound) -> None:
        """Remember that a picture cannot be read. Raises Corrupt where it is one too many."""
        sample, image = self.samples[place], self.object_of(place)
        for other in range(len(self.samples)):  # samples may share an image
            if self.object_of(other) == image:
                self._broken.add(other)
                self.aside[self.samples[other].id] = error.message
        if len(self.aside) > self._borne:
            raise Corrupt(
                f"{len(self.aside)} of {len(self.samples)} pictures cannot be read; "
                f"sample {sample.id[:12]} is one: {error.message}",
                "run 'layerloop doctor', and restore the objects it names",
            ) from error

    @property
    def captions(self) -> list[str]:
        """The texts of all pictures, in order."""
        return [self.caption_of(place) for place in range(len(self))]

    def caption_of(self, place: int) -> str:
        """The text of the layer itself, or its sample's; empty where that was only made from a file name.

        A name such as "IMG" says nothing, and a model that learns it pays with what it knows of real words; the empty
        text teaches what pictures look like, as the texts dropped for guidance do. Whoever names files by what they
        show imports them with --captions-from-names, which makes the names captions.
        """
        return self.samples[place].text_of(self.roles[place])

    def object_of(self, place: int) -> str:
        """The sha256 of a picture's stored image."""
        return self.samples[place].layers[self.roles[place]]

    def inside(self, places: Sequence[int]) -> Tensor:
        """Return where these images are, B x 1 x H x W bool: False in the margins that letterboxing added."""
        return torch.stack([self._inside(place) for place in places])

    def _inside(self, place: int) -> Tensor:
        height, width = self.shapes[place]
        top, left, box_height, box_width = self._boxes.get(
            self.object_of(place), (0, 0, height, width)
        )
        inside_1HW = torch.zeros(1, height, width, dtype=torch.bool)
        inside_1HW[:, top : top + box_height, left : left + box_width] = True
        return inside_1HW

    def is_sound(self, place: int) -> bool:
        """Whether nothing is known to be wrong with a picture."""
        return place not in self._broken

    def sizes(self, places: Sequence[int]) -> Tensor:
        """SDXL's size conditioning of these pictures, B x 6 (training.data.buckets.size_conditions)."""
        return size_conditions(
            [self.originals[place] for place in places], [self.shapes[place] for place in places]
        )

    def _sort(self, buckets: Buckets | None) -> None:
        """Give each picture its shape, and leave out those whose size cannot be read."""
        self.originals: list[Size] = [(self.size, self.size)] * len(self.samples)
        self.shapes: list[Size] = list(self.originals)
        if buckets is None:
            return
        objects = [self.object_of(place) for place in range(len(self.samples))]
        originals, broken = buckets.measure(self.store, objects)
        for place, sha256 in enumerate(objects):
            if sha256 in broken:
                self.set_aside(place, Corrupt(broken[sha256]))
        self._leave_out(self._broken)
        self.originals = [originals[sha256] for sha256 in objects if sha256 not in broken]
        self.shapes = buckets.sort(self.originals)

    def _keep(self) -> None:
        """Decode all, and leave out those that cannot be."""
        kept: list[RGBA | None] = [None] * len(self.samples)
        for place in range(len(self.samples)):
            try:
                kept[place] = self._decode(place)
            except (Corrupt, NotFound) as error:
                self.set_aside(place, error)
        self._leave_out({place for place, pixels in enumerate(kept) if pixels is None})
        self._kept = [pixels for pixels in kept if pixels is not None]

    def _leave_out(self, broken: Collection[int]) -> None:
        parallel: tuple[list[Any], ...] = (self.samples, self.roles, self.originals, self.shapes)
        for known in parallel:
            known[:] = [each for place, each in enumerate(known) if place not in broken]
        self._broken.clear()

    def _stand_in(self, place: int) -> int:
        for stand_in in (*range(place + 1, len(self.samples)), *range(place)):
            if self.shapes[stand_in] == self.shapes[place] and stand_in not in self._broken:
                return int(stand_in)
        raise Corrupt(
            f"no picture of the shape {self.shapes[place]} can be read", "run 'layerloop doctor'"
        )

    def _decode(self, place: int) -> RGBA:
        rgba = decode_layer(self.store.get(self.object_of(place)))
        self._boxes[self.object_of(place)] = letterbox_of(rgba.shape[:2], self.shapes[place])
        return letterbox(rgba, self.shapes[place])


def load_split(
    store: ObjectStore,
    snapshot: str,
    split: Split,
    size: int,
    *,
    in_memory: bool = True,
    buckets: Buckets | None = None,
    roles: Collection[LayerRole] = (LayerRole.foreground,),
) -> LayerDataset:
    """These layers of the samples of a split that have a foreground, in the order of ids.

    Raises NotFound, Corrupt, Refused.
    """
    samples = read_split(store, snapshot, split)
    layers = [(sample, role) for sample in samples for role in roles if role in sample.layers]
    owners, owned = [sample for sample, _ in layers], [role for _, role in layers]
    return LayerDataset(store, owners, size, in_memory=in_memory, buckets=buckets, roles=owned)


def read_split(store: ObjectStore, snapshot: str, split: Split) -> list[Sample]:
    """Read the samples of a split that have a foreground, in the order of their ids.

    From the training split those are left out that share a layer with a held-out sample: the withheld ones of the
    snapshot (curation.datasets.holdout), and, of snapshots that list none, those with the same foreground or
    blended image.

    Raises:
        NotFound: The snapshot is not in the store.
        Corrupt: It cannot be read.
        Refused: The split is empty.
    """
    samples = list(read_samples(store, snapshot))
    chosen = [
        sample
        for sample in samples
        if sample.split == split and LayerRole.foreground in sample.layers
    ]
    if split == Split.train:
        withheld = read_withheld(store, snapshot)
        heldout = {
            image
            for sample in samples
            if sample.split == Split.heldout
            for image in _subjects(sample)
        }
        chosen = [
            one for one in chosen if one.id not in withheld and heldout.isdisjoint(_subjects(one))
        ]
    if not chosen:
        hint = (
            "a split holds about 5 % of the samples at least; import more"
            if split == Split.heldout
            else ""
        )
        raise Refused(f"snapshot {snapshot[:12]} has no {split.value} samples", hint)
    return chosen


def heldout_images(store: ObjectStore, snapshot: str, size: int, count: int) -> LayerDataset:
    """Read the first held-out foregrounds, `count` at most, letterboxed into size x size; there may be none.

    They are the same in every training on the snapshot, so that sample sheets and validation can be compared.
    """
    samples = (
        sample
        for sample in read_samples(store, snapshot)
        if sample.split == Split.heldout and LayerRole.foreground in sample.layers
    )
    return LayerDataset(store, list(islice(samples, count)), size, in_memory=True)


def _subjects(sample: Sample) -> set[str]:
    """The stored images of a sample that show its subject; plain backgrounds are equal by accident."""
    return {image for role, image in sample.layers.items() if role is not LayerRole.background}


def prefetch(
    read: Callable[[int], T], batches: Iterable[Sequence[int]], workers: int, ahead: int = 2
) -> Generator[list[T]]:
    """What `read` gives for the places of each batch, in order, read by several threads while the batch before is used.

    Decoding, resizing and hashing let other threads run. `ahead` batches are read before they are asked for. Whatever
    `read` raises is raised here, where its batch would have come.
    """
    waiting: deque[list[Future[T]]] = deque()
    pool = ThreadPoolExecutor(max(1, workers), "decode")
    try:
        for places in batches:
            waiting.append([pool.submit(read, place) for place in places])
            if len(waiting) > ahead:
                yield [picture.result() for picture in waiting.popleft()]
        while waiting:
            yield [picture.result() for picture in waiting.popleft()]
    finally:
        pool.shutdown(cancel_futures=True)


def letterbox(rgba: RGBA, size: int | Size) -> RGBA:
    """The whole picture in the middle of a transparent shape, or a square of that side: H x W x 4 uint8.

    Colours are weighted by alpha while they shrink, so that what alpha hides never bleeds into what is seen.
    """
    shape = (size, size) if isinstance(size, int) else size
    top, left, new_height, new_width = letterbox_of(rgba.shape[:2], shape)
    pixels = rgba.astype(np.float32)
    pixels /= 255.0
    pixels *= _alpha_and_one(pixels[..., 3])
    smaller = new_height < rgba.shape[0] or new_width < rgba.shape[1]
    how = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
    small: NDArray[np.float32] = np.asarray(
        cv2.resize(pixels, (new_width, new_height), interpolation=how), np.float32
    )
    # Where alpha is 0 there is no colour to be divided by it.
    small /= _alpha_and_one(np.where(small[..., 3] > 0, small[..., 3], np.float32(1)))
    small.clip(0, 1, out=small)
    small *= 255
    whole = np.zeros((*shape, 4), np.uint8)
    whole[top : top + new_height, left : left + new_width] = np.rint(small, out=small)
    return whole


def letterbox_of(original: tuple[int, ...], shape: Size) -> Box:
    """Return where `letterbox` puts an image of `original` height and width: top, left, height, width in pixels."""
    (height, width), (full_height, full_width) = original, shape
    ratio = min(full_height / height, full_width / width)
    new_height, new_width = max(1, round(height * ratio)), max(1, round(width * ratio))
    return (full_height - new_height) // 2, (full_width - new_width) // 2, new_height, new_width


def _alpha_and_one(alpha: NDArray[np.float32]) -> NDArray[np.float32]:
    """What each channel is weighted by: colours by alpha, alpha by 1. One array of one layout is three times faster."""
    return np.asarray(cv2.merge([alpha, alpha, alpha, np.ones_like(alpha)]), np.float32)
