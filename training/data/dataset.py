"""A snapshot's layers as letterboxed tensors."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.data import Dataset

from curation.domain import LayerRole, Sample
from curation.errors import Corrupt, NotFound
from curation.images.codec import decode_layer
from curation.object_store import ObjectReader
from curation.ports import RGBA
from training.data.buckets import BucketConfig, Size, size_conditions
from training.data.letterbox import LetterboxArea, letterbox, letterbox_area, to_tensor

MAX_UNREADABLE_SHARE = 0.01
"""Largest share of unreadable images before training stops; one is always tolerated."""


T = TypeVar("T")


class LayerDataset(Dataset[Tensor]):
    """Layers of samples as 4 x H x W straight RGBA in [0, 1], decoded on access or all at once.

    Unreadable images are recorded in `unreadable`. With `in_memory` they are left out from the
    start; otherwise the next readable image of the same size replaces them, deterministically, so
    that training continues and a resumed training sees the same images. A share of them above
    MAX_UNREADABLE_SHARE raises Corrupt.
    """

    def __init__(
        self,
        store: ObjectReader,
        samples: Sequence[Sample],
        size: int,
        *,
        in_memory: bool,
        buckets: BucketConfig | None = None,
        roles: Sequence[LayerRole] | None = None,
        max_unreadable_share: float = MAX_UNREADABLE_SHARE,
    ) -> None:
        """Open a dataset.

        Args:
            store: Where the images are stored.
            samples: The samples, one per index.
            size: Height and width of all images in pixels if there are no buckets.
            in_memory: Whether to decode all images now and keep them.
            buckets: Image sizes to sort the images into; None letterboxes all to size x size.
            roles: The layer of each sample; by default its foreground.
            max_unreadable_share: Share of unreadable images above which Corrupt is raised.
        """
        self.store, self.samples, self.size = store, list(samples), size
        self.roles = list(roles or [LayerRole.foreground] * len(self.samples))
        self.unreadable: dict[str, str] = {}  # error message by sample id
        self._max_unreadable = max(1, int(len(self.samples) * max_unreadable_share))
        self._broken: set[int] = set()
        self._decoded: list[RGBA] | None = None
        self._boxes: dict[str, LetterboxArea] = {}  # by sha256, of the images decoded so far
        self._assign_buckets(buckets)
        if in_memory:
            self._decode_all()

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Tensor:
        """Return one image, 4 x H x W. Raises Corrupt, NotFound."""
        pixels = self._decode(index) if self._decoded is None else self._decoded[index]
        return to_tensor(pixels)

    def load_batch(self, indices: Sequence[int]) -> Tensor:
        """Return images of one size as a batch, B x 4 x H x W. Raises Corrupt, NotFound."""
        return torch.stack([self[index] for index in indices])

    def read_or_replace(self, index: int) -> tuple[int, Tensor]:
        """Return the index and pixels of an image or its replacement. Raises Corrupt."""
        while True:
            (replacement,) = self.readable_indices([index])
            try:
                return replacement, self[replacement]
            except (Corrupt, NotFound) as error:
                self.mark_unreadable(replacement, error)

    def readable_indices(self, indices: Sequence[int]) -> list[int]:
        """Replace unreadable images by the next readable ones of their size. Raises Corrupt."""
        return [
            self._replacement_of(index) if index in self._broken else index for index in indices
        ]

    def mark_unreadable(self, index: int, error: Corrupt | NotFound) -> None:
        """Record that an image is unreadable. Raises Corrupt if too many are."""
        sample, image = self.samples[index], self.sha256_of(index)
        for other in range(len(self.samples)):  # samples may share an image
            if self.sha256_of(other) == image:
                self._broken.add(other)
                self.unreadable[self.samples[other].id] = error.message
        if len(self.unreadable) > self._max_unreadable:
            raise Corrupt(
                f"{len(self.unreadable)} of {len(self.samples)} images cannot be read; "
                f"for example sample {sample.id[:12]}: {error.message}",
                "run 'layerloop doctor' and restore the objects that it lists",
            ) from error

    @property
    def captions(self) -> list[str]:
        """Captions of all images, by index."""
        return [self.caption_of(index) for index in range(len(self))]

    def caption_of(self, index: int) -> str:
        """Return the caption of the layer or of its sample; empty if it was only a file name.

        A file name such as "IMG" describes nothing, and training on it would weaken the model's
        knowledge of real words. Images without a caption train the unconditional prediction, as
        dropped captions do. Descriptive file names become captions by --captions-from-names.
        """
        return self.samples[index].caption_for(self.roles[index])

    def sha256_of(self, index: int) -> str:
        """Return the sha256 of an image's stored file."""
        return self.samples[index].layers[self.roles[index]]

    def inside_masks(self, indices: Sequence[int]) -> Tensor:
        """Return masks of the image area, B x 1 x H x W bool: False in the letterbox margins."""
        return torch.stack([self._inside(index) for index in indices])

    def _inside(self, index: int) -> Tensor:
        height, width = self.shapes[index]
        top, left, box_height, box_width = self._boxes.get(
            self.sha256_of(index), (0, 0, height, width)
        )
        inside_1HW = torch.zeros(1, height, width, dtype=torch.bool)
        inside_1HW[:, top : top + box_height, left : left + box_width] = True
        return inside_1HW

    def is_readable(self, index: int) -> bool:
        """Return whether an image is not known to be unreadable."""
        return index not in self._broken

    def size_conditions(self, indices: Sequence[int]) -> Tensor:
        """Return SDXL's size conditioning of these images, B x 6 (see `size_conditions`)."""
        return size_conditions(
            [self.original_sizes[index] for index in indices],
            [self.shapes[index] for index in indices],
        )

    def _assign_buckets(self, buckets: BucketConfig | None) -> None:
        """Assign each image to a bucket, and leave out images whose size cannot be read."""
        self.original_sizes: list[Size] = [(self.size, self.size)] * len(self.samples)
        self.shapes: list[Size] = list(self.original_sizes)
        if buckets is None:
            return
        # Read all sizes first: the buckets depend on how many images each would get.
        objects = [self.sha256_of(index) for index in range(len(self.samples))]
        originals, broken = buckets.read_sizes(self.store, objects)
        for index, sha256 in enumerate(objects):
            if sha256 in broken:
                self.mark_unreadable(index, Corrupt(broken[sha256]))
        self._leave_out(self._broken)
        self.original_sizes = [originals[sha256] for sha256 in objects if sha256 not in broken]
        self.shapes = buckets.assign(self.original_sizes)

    def _decode_all(self) -> None:
        """Decode all images, and leave out those that cannot be decoded."""
        decoded: list[RGBA | None] = [None] * len(self.samples)
        for index in range(len(self.samples)):
            try:
                decoded[index] = self._decode(index)
            except (Corrupt, NotFound) as error:
                self.mark_unreadable(index, error)
        self._leave_out({index for index, pixels in enumerate(decoded) if pixels is None})
        self._decoded = [pixels for pixels in decoded if pixels is not None]

    def _leave_out(self, broken: Collection[int]) -> None:
        # All lists have the same indices, so the same entries are removed from each.
        parallel: tuple[list[Any], ...] = (
            self.samples,
            self.roles,
            self.original_sizes,
            self.shapes,
        )
        for values in parallel:
            values[:] = [value for index, value in enumerate(values) if index not in broken]
        self._broken.clear()

    def _replacement_of(self, index: int) -> int:
        # The next readable image of the size, wrapping around: independent of the access order.
        for replacement in (*range(index + 1, len(self.samples)), *range(index)):
            if self.shapes[replacement] == self.shapes[index] and replacement not in self._broken:
                return int(replacement)
        height, width = self.shapes[index]
        raise Corrupt(f"no image of size {height} x {width} can be read", "run 'layerloop doctor'")

    def _decode(self, index: int) -> RGBA:
        rgba = decode_layer(self.store.get(self.sha256_of(index)))
        self._boxes[self.sha256_of(index)] = letterbox_area(rgba.shape[:2], self.shapes[index])
        return letterbox(rgba, self.shapes[index])


def prefetch(
    read: Callable[[int], T], batches: Iterable[Sequence[int]], workers: int, ahead: int = 2
) -> Generator[list[T]]:
    """Read batches of samples with threads while the previous batch is in use.

    Decoding, resizing and hashing release the GIL.

    Args:
        read: Reads the sample at an index.
        batches: The indices of each batch.
        workers: Number of threads.
        ahead: Number of batches read before they are requested.

    Yields:
        The samples of each batch, in order. An exception of `read` is raised in place of its batch.
    """
    waiting: deque[list[Future[T]]] = deque()
    pool = ThreadPoolExecutor(max(1, workers), "decode")
    try:
        for indices in batches:
            waiting.append([pool.submit(read, index) for index in indices])
            if len(waiting) > ahead:
                yield [future.result() for future in waiting.popleft()]
        while waiting:
            yield [future.result() for future in waiting.popleft()]
    finally:
        pool.shutdown(cancel_futures=True)
