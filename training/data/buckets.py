"""Aspect buckets: pictures of about one area in a few shapes, and an order in which every batch has one shape."""

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
from curation.ports import ObjectStore
from training.data.tensor_cache import ShardedTensorCache, key_of
from training.presets.preset import Preset

Size = tuple[int, int]
"""Height and width in pixels."""

SIZES_WRITTEN = 4_096


def bucket_table(side: int, step: int, ratio: float) -> tuple[Size, ...]:
    """Every shape of multiples of `step` whose longer side is at most `ratio` times the shorter, widest first.

    For each height the widest shape of at most side x side pixels, so that the square asks for the most memory; the
    square itself is always there.
    """
    sizes = {(side, side)}
    for short in range(step, side + 1, step):
        long = side * side // short // step * step
        if long <= ratio * short:
            sizes |= {(short, long), (long, short)}
    return tuple(sorted(sizes))


def nearest_bucket(original: Size, table: Sequence[Size]) -> Size:
    """The shape that pads the least: nearest in the logarithm of height over width, the larger one of equals."""
    wanted = math.log(original[0] / original[1])
    return min(
        table, key=lambda size: (abs(math.log(size[0] / size[1]) - wanted), -size[0] * size[1])
    )


def sort_into_buckets(originals: Sequence[Size], table: Sequence[Size], least: int) -> list[Size]:
    """The shape of each picture; a shape other than the table's squarest holds at least `least` pictures.

    A picture of a rare shape goes to the nearest shape that has enough, rarest first. Nothing is ever cropped: what a
    shape has too much is padded with transparency, which says "nothing here" just as the rest of the picture's own
    surroundings do, whereas a cropped subject would teach the model to crop (a reason for rejection at the desk).
    """
    squarest = min(table, key=lambda size: abs(math.log(size[0] / size[1])))
    kept = list(table)
    while True:
        shapes = [nearest_bucket(original, kept) for original in originals]
        counts = Counter(shapes)
        rare = [size for size in kept if size != squarest and counts[size] < least]
        if not rare:
            return shapes
        empty = [size for size in rare if not counts[size]]
        dropped = set(empty or [min(rare, key=lambda size: (counts[size], size))])
        kept = [size for size in kept if size not in dropped]


def read_sizes(
    store: ObjectStore, objects: Sequence[str], folder: Path | None = None, workers: int = 4
) -> tuple[dict[str, Size], dict[str, str]]:
    """Heights and widths of stored images by their sha256, and what is wrong with those that have none.

    They are read from the images' headers, by several threads, and remembered in `folder`, where one is given: an
    image's size never changes, since its name is its content.
    """
    known = ShardedTensorCache(folder)
    keys = {sha256: key_of("size", sha256) for sha256 in dict.fromkeys(objects)}
    unknown = [sha256 for sha256, key in keys.items() if key not in known]
    broken: dict[str, str] = {}
    with ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(unknown), SIZES_WRITTEN):
            some = unknown[start : start + SIZES_WRITTEN]
            read = dict(
                zip(some, pool.map(lambda sha256: _read_size(store, sha256), some), strict=True)
            )
            sizes = {sha256: size for sha256, size in read.items() if not isinstance(size, str)}
            broken |= {sha256: said for sha256, said in read.items() if isinstance(said, str)}
            if sizes:
                known.put(
                    [keys[sha256] for sha256 in sizes], {"size": torch.tensor(list(sizes.values()))}
                )
    sound = [sha256 for sha256 in keys if sha256 not in broken]
    rows = known.get([keys[sha256] for sha256 in sound])["size"].tolist() if sound else []
    return {
        sha256: (height, width) for sha256, (height, width) in zip(sound, rows, strict=True)
    }, broken


def size_conditions(originals: Sequence[Size], shapes: Sequence[Size]) -> Tensor:
    """SDXL's conditioning (section 2.2): original height and width, crop top and left, target height and width.

    B x 6, pixels. Nothing is cropped here, so top and left are 0.
    """
    return torch.tensor(
        [[*was, 0, 0, *is_] for was, is_ in zip(originals, shapes, strict=True)],
        dtype=torch.float32,
    )


@dataclass(frozen=True)
class Buckets:
    """How pictures are sorted into shapes: which there are, how few pictures one may hold, and where sizes are kept."""

    table: tuple[Size, ...]
    least: int
    folder: Path | None = None

    def measure(
        self, store: ObjectStore, objects: Sequence[str]
    ) -> tuple[dict[str, Size], dict[str, str]]:
        """`read_sizes` of these images."""
        return read_sizes(store, objects, self.folder)

    def sort(self, originals: Sequence[Size]) -> list[Size]:
        """`sort_into_buckets` of these sizes."""
        return sort_into_buckets(originals, self.table, self.least)


def preset_buckets(preset: Preset, batch: int, folder: Path | None) -> Buckets | None:
    """The shapes that a preset asks for, or None for the square alone; `batch` is the images of one optimiser step."""
    if not preset.buckets:
        return None
    return Buckets(
        bucket_table(preset.image_size, preset.bucket_step, preset.bucket_ratio), batch, folder
    )


class Order(Protocol):
    """An endless order of draws, each the place of a sample."""

    @property
    def length(self) -> int:
        """How many draws a pass over the samples has."""

    def places(self, start: int, count: int) -> list[int]:
        """The draws number start to start + count - 1."""


class BucketOrder:
    """An order of draws re-sorted so that each `batch` of them, counted from the first, has one shape.

    The draws of the order within are dealt into one bin for each shape; a full bin is a batch. So nothing is lost or
    drawn twice: a draw waits until its bin is full, at most `batch` - 1 of a shape at any time. What stands at a
    number depends on the order within and on `batch` alone; a training that resumes sees what it would have seen.
    """

    def __init__(self, order: Order, shapes: Sequence[Hashable], batch: int) -> None:
        """`shapes` are those of all pictures, by place, or whatever else all of a batch are to have in common."""
        self._order, self._shapes, self.batch = order, list(shapes), batch
        self._bins: dict[Hashable, list[int]] = {}
        self._walked = 0
        self._sorted = array("i")  # kept, since a batch depends on all draws before it

    @property
    def length(self) -> int:
        """How many draws a pass over the samples has, on average."""
        return self._order.length

    def places(self, start: int, count: int) -> list[int]:
        """The draws number start to start + count - 1: of one shape, where they lie within one batch."""
        while len(self._sorted) < start + count:
            for place in self._order.places(self._walked, self.length):
                waiting = self._bins.setdefault(self._shapes[place], [])
                waiting.append(place)
                if len(waiting) == self.batch:
                    self._sorted.extend(waiting)
                    waiting.clear()
            self._walked += self.length
        return self._sorted[start : start + count].tolist()


def tally(shapes: Iterable[Size]) -> Mapping[str, int]:
    """How many pictures each shape has, as text for a log: "832x1216" is 832 high."""
    counts = Counter(shapes)
    return {f"{height}x{width}": counts[height, width] for height, width in sorted(counts)}


def _read_size(store: ObjectStore, sha256: str) -> Size | str:
    try:
        data = store.get(sha256)
    except (Corrupt, NotFound) as error:
        return error.message
    try:
        with Image.open(io.BytesIO(data), formats=["WEBP", "PNG"]) as image:
            return image.height, image.width
    except (OSError, ValueError, SyntaxError) as error:
        return f"no image: {error}"
