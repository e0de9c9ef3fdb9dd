"""What packing a snapshot would write, without writing it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from curation.exports.packs.folder import PackFolder
from curation.exports.packs.plan import (
    PackRow,
    known_shards,
    make_plan,
    samples_of,
    wanted_rows,
)
from curation.exports.packs.tar import BLOCK, padded
from curation.object_store import ObjectReader

READ_LAYERS = 64
"""Layers that are read to estimate the others, where a store does not tell their sizes."""


@dataclass(frozen=True)
class PackEstimate:
    """What packing would write.

    Attributes:
        samples: Samples of the snapshot.
        missing: Samples and decided candidates to write.
        removed: Rows of the shards that the snapshot does not have.
        bytes: Bytes of the new tars.
        is_exact: Whether the bytes are counted, or estimated from some layers.
    """

    samples: int
    missing: int
    removed: int
    bytes: int
    is_exact: bool


def estimate_pack(source: ObjectReader, snapshot: str, folder: PackFolder) -> PackEstimate:
    """Return what packing a snapshot would write.

    Args:
        source: Store of the snapshot.
        snapshot: Full id of the snapshot.
        folder: The folder of the pack.

    Raises:
        NotFound: The snapshot or a layer is not in the store.
        Corrupt: An object is damaged.
    """
    rows = wanted_rows(source, snapshot)
    plan = make_plan(rows, known_shards(folder))
    layers = [name for row in plan.missing for name in row.layers.values()]
    texts = sum(_text_bytes(row) for row in plan.missing)
    size: Callable[[str], int] | None = getattr(source, "size", None)
    if size:
        images = sum(BLOCK + padded(size(name)) for name in layers)
    else:
        images = _estimate(source, layers)
    total = texts + images
    removed = sum(len(shard.removed) for shard in plan.kept)
    return PackEstimate(samples_of(rows), len(plan.missing), removed, total, size is not None)


def _text_bytes(row: PackRow) -> int:
    """Return the bytes of caption and line in a tar."""
    texts = (row.caption, row.line)
    return sum(BLOCK + padded(len(text.encode())) for text in texts)


def _estimate(source: ObjectReader, layers: Sequence[str]) -> int:
    step = max(1, len(layers) // READ_LAYERS)
    read = [BLOCK + padded(len(source.get(name))) for name in layers[::step]]
    return sum(read) * len(layers) // len(read) if read else 0
