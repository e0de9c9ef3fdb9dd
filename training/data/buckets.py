"""Aspect-ratio buckets: image sizes of about equal area, and a sampler with one size per batch."""

from __future__ import annotations

import io
import math
from array import array
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from PIL import Image
from torch import Tensor

from curation.errors import Corrupt, NotFound
from curation.object_store import ObjectReader
from training.data.tensor_cache import ShardedTensorCache, cache_key
from training.presets.preset import Preset

Size = tuple[int, int]
"""Height and width in pixels."""

SIZES_PER_WRITE = 4_096
"""Images whose sizes are written to the cache at a time: the work that a kill can lose."""


def make_bucket_table(side: int, step: int, ratio: float) -> tuple[Size, ...]:
    """Return all bucket sizes within an aspect ratio, widest first.

    For each height this is the widest size of at most side x side pixels, so that the square
    bucket needs the most memory. The square itself is always included.

    Args:
        side: Height and width of the square bucket in pixels.
        step: Heights and widths are multiples of this many pixels.
        ratio: Largest ratio of the longer to the shorter side, 1 or more.

    Returns:
        (height, width) pairs in pixels, sorted.
    """
    sizes = {(side, side)}
    for short in range(step, side + 1, step):
        long = side * side // short // step * step
        if long <= ratio * short:
            sizes |= {(short, long), (long, short)}
    return tuple(sorted(sizes))


def nearest_bucket(original: Size, table: Sequence[Size]) -> Size:
    """Return the bucket with the nearest log aspect ratio; of equals, the one with more pixels."""
    log_ratio = math.log(original[0] / original[1])
    return min(
        table, key=lambda size: (abs(math.log(size[0] / size[1]) - log_ratio), -size[0] * size[1])
    )


def assign_buckets(originals: Sequence[Size], table: Sequence[Size], min_images: int) -> list[Size]:
    """Return the bucket of each image so that no bucket has fewer than `min_images` images.

    Images of a rare bucket move to the nearest bucket that has enough, rarest bucket first. The
    squarest bucket is exempt. Images are padded with transparency and never cropped: transparent
    margins look like the rest of the image's surroundings, whereas cropped subjects would teach
    the model to crop, which is a reason for rejection in review.

    Args:
        originals: (height, width) of each image in pixels.
        table: Bucket sizes, as `make_bucket_table` returns them.
        min_images: Smallest number of images in a bucket.
    """
    # The squarest bucket is the fallback: it is never dropped, so the loop ends.
    squarest = min(table, key=lambda size: abs(math.log(size[0] / size[1])))
    remaining = list(table)
    while True:
        shapes = [nearest_bucket(original, remaining) for original in originals]
        counts = Counter(shapes)
        rare = [size for size in remaining if size != squarest and counts[size] < min_images]
        if not rare:
            return shapes
        # Drop all empty buckets at once, but only one that has images: its images may fill up
        # the next one.
        empty = [size for size in rare if not counts[size]]
        dropped = set(empty or [min(rare, key=lambda size: (counts[size], size))])
        remaining = [size for size in remaining if size not in dropped]


def read_sizes(
    store: ObjectReader, sha256s: Sequence[str], folder: Path | None = None, workers: int = 4
) -> tuple[dict[str, Size], dict[str, str]]:
    """Read the sizes of stored images from their headers, with several threads.

    Sizes are cached in `folder`: they never change, since objects are named by their content.

    Args:
        store: Where the images are stored.
        sha256s: The images' sha256.
        folder: The cache folder; None caches in memory only.
        workers: Number of reading threads.

    Returns:
        (height, width) in pixels by sha256, and an error message by sha256 for each image that
        could not be read.
    """
    cache = ShardedTensorCache(folder)
    keys = {sha256: cache_key("size", sha256) for sha256 in dict.fromkeys(sha256s)}
    unknown = [sha256 for sha256, key in keys.items() if key not in cache]
    broken: dict[str, str] = {}
    with ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(unknown), SIZES_PER_WRITE):
            # Read one block of headers; an error takes the place of a size.
            block = unknown[start : start + SIZES_PER_WRITE]
            read = dict(
                zip(block, pool.map(lambda sha256: _read_size(store, sha256), block), strict=True)
            )
            sizes = {sha256: size for sha256, size in read.items() if not isinstance(size, str)}
            broken |= {sha256: error for sha256, error in read.items() if isinstance(error, str)}
            if sizes:
                cache.put(
                    [keys[sha256] for sha256 in sizes], {"size": torch.tensor(list(sizes.values()))}
                )
    # Answer from the cache, which now has the size of every readable image.
    readable = [sha256 for sha256 in keys if sha256 not in broken]
    rows = cache.get([keys[sha256] for sha256 in readable])["size"].tolist() if readable else []
    return {
        sha256: (height, width) for sha256, (height, width) in zip(readable, rows, strict=True)
    }, broken


def size_conditions(originals: Sequence[Size], shapes: Sequence[Size]) -> Tensor:
    """Return SDXL's size conditioning (Podell et al., 2023, section 2.2) in pixels, B x 6.

    The columns are original height and width, crop top and left, target height and width. Crop
    top and left are 0, since images are padded and not cropped.
    """
    return torch.tensor(
        [[*original, 0, 0, *shape] for original, shape in zip(originals, shapes, strict=True)],
        dtype=torch.float32,
    )


@dataclass(frozen=True)
class BucketConfig:
    """Bucket sizes, the smallest number of images in one, and the folder of cached image sizes."""

    table: tuple[Size, ...]
    min_images: int
    folder: Path | None = None

    def read_sizes(
        self, store: ObjectReader, sha256s: Sequence[str]
    ) -> tuple[dict[str, Size], dict[str, str]]:
        """Read the sizes of stored images, as `read_sizes` does."""
        return read_sizes(store, sha256s, self.folder)

    def assign(self, originals: Sequence[Size]) -> list[Size]:
        """Return the bucket of each image size, as `assign_buckets` does."""
        return assign_buckets(originals, self.table, self.min_images)


def bucket_config(preset: Preset, batch_size: int, folder: Path | None) -> BucketConfig | None:
    """Return the buckets of a preset for a global batch size, or None if it has none."""
    if not preset.buckets:
        return None
    return BucketConfig(
        make_bucket_table(preset.image_size, preset.bucket_step, preset.bucket_ratio),
        batch_size,
        folder,
    )


class Sampler(Protocol):
    """An endless sequence of sample indices."""

    @property
    def epoch_length(self) -> int:
        """Number of draws in one epoch."""

    def indices(self, start: int, count: int) -> list[int]:
        """Return the sample indices of draws start .. start + count - 1."""


class BucketSampler:
    """A sampler that regroups draws so that each run of `batch_size` draws has one image size.

    The draws of the inner sampler are collected in one bin per size; a full bin becomes a batch.
    No draw is lost or repeated, and at most `batch_size` - 1 draws of a size wait at any time. A
    draw depends only on its number, the inner sampler and `batch_size`, so that a resumed training
    sees the same images.
    """

    def __init__(self, sampler: Sampler, shapes: Sequence[Hashable], batch_size: int) -> None:
        """Group the draws of `sampler` by `shapes`: the size or other key of each index."""
        self._sampler, self._shapes, self.batch = sampler, list(shapes), batch_size
        self._bins: dict[Hashable, list[int]] = {}
        self._walked = 0
        self._sorted = array("i")  # kept, since a batch depends on all draws before it

    @property
    def epoch_length(self) -> int:
        """Number of draws in an epoch, on average."""
        return self._sampler.epoch_length

    def indices(self, start: int, count: int) -> list[int]:
        """Return draws start .. start + count - 1: of one size if they lie within one batch."""
        while len(self._sorted) < start + count:
            # Distribute one more epoch of the inner sampler over the bins.
            for index in self._sampler.indices(self._walked, self.epoch_length):
                waiting = self._bins.setdefault(self._shapes[index], [])
                waiting.append(index)
                if len(waiting) == self.batch:
                    self._sorted.extend(waiting)
                    waiting.clear()
            self._walked += self.epoch_length
        return self._sorted[start : start + count].tolist()


def count_buckets(shapes: Iterable[Size]) -> Mapping[str, int]:
    """Return the number of images per size for a log: "832x1216" is 832 pixels high."""
    counts = Counter(shapes)
    return {f"{height}x{width}": counts[height, width] for height, width in sorted(counts)}


def _read_size(store: ObjectReader, sha256: str) -> Size | str:
    try:
        data = store.get(sha256)
    except (Corrupt, NotFound) as error:
        return error.message
    try:  # opening reads the header only; the pixels are not decoded
        with Image.open(io.BytesIO(data), formats=["WEBP", "PNG"]) as image:
            return image.height, image.width
    except (OSError, ValueError, SyntaxError) as error:
        return f"not a readable image: {error}"
