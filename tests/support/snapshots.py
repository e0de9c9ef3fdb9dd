"""Snapshots in a store without a database: drawn layers, frozen as an instance would freeze them."""

from __future__ import annotations

from collections import Counter

import numpy as np

from curation.datasets.manifest import Manifest, Part, prefix_length
from curation.datasets.samples import NewSample, StoredLayer
from curation.domain import Kind, LayerRole, Sample, Split
from curation.images.codec import encode_layer, pixel_hash
from curation.ports import ObjectStore


def make_sample(store: ObjectStore, index: int, caption: str = "") -> Sample:
    """Return a sample of noise: every third is a pair, every seventh is held out."""
    rng = np.random.default_rng(index)
    is_pair = index % 3 == 0
    roles = tuple(LayerRole) if is_pair else (LayerRole.foreground,)
    layers = {role: _layer(store, rng, opaque=role is not LayerRole.foreground) for role in roles}
    return NewSample(
        kind=Kind.pair if is_pair else Kind.single,
        caption=caption or f"caption {index}, ünï \u2028 “x”",
        licence=("MIT", "CC0-1.0")[index % 2],
        source="drawn",
        round=index % 4,
        layers=layers,
        split=Split.train if index % 7 else Split.heldout,
        texts={LayerRole.foreground: f"foreground {index}"} if is_pair else {},
    ).to_sample()


def make_snapshot(
    store: ObjectStore, samples: list[Sample], withheld: list[str] | None = None
) -> str:
    """Write a snapshot of samples into a store; return its ID."""
    digits = prefix_length(len(samples))
    groups: dict[str, list[Sample]] = {}
    for sample in sorted(samples, key=lambda sample: sample.id):
        groups.setdefault(sample.id[:digits], []).append(sample)
    parts = tuple(
        Part(prefix, store.put("".join(f"{s.line()}\n" for s in group).encode()), len(group))
        for prefix, group in groups.items()
    )
    counts = {
        name: dict(Counter(str(getattr(sample, name)) for sample in samples))
        for name in ("kind", "licence", "split", "round")
    }
    listed = store.put("".join(f"{id_}\n" for id_ in withheld).encode()) if withheld else ""
    manifest = Manifest(parts, counts, listed)
    store.put(manifest.bytes())
    return manifest.id


def _layer(store: ObjectStore, rng: np.random.Generator, *, opaque: bool) -> StoredLayer:
    rgba = rng.integers(0, 256, (20, 24, 4), dtype=np.uint8)
    rgba[..., 3] = 255 if opaque else rgba[..., 3]
    if not opaque:
        rgba[:6, :, 3] = 0  # hidden colors
    data = encode_layer(rgba)
    return StoredLayer(store.put(data), 24, 20, len(data), pixel_hash(rgba))
