"""Random data and topologies for the loader, and the sequence that all topologies must give."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from curation.datasets.manifest import Manifest, Part
from curation.domain import Kind, LayerRole, Sample, Split
from curation.images.codec import encode_layer, pixel_hash
from curation.object_store import FolderStore
from training.data.loader import LayerBatch, LayerLoader, aspect_buckets, open_loader

BATCHES = 7
SIZE = 16


@dataclass(frozen=True)
class Case:
    """One stream: the data, the weights, and whether it is sorted into buckets."""

    snapshot: str
    roles: tuple[LayerRole, ...]
    batch_size: int
    seed: int
    weighted: bool
    bucketed: bool

    def open(self, store: FolderStore, **topology: int) -> LayerLoader:
        """Open the stream in a topology."""
        return open_loader(
            store,
            self.snapshot,
            Split.train,
            size=SIZE,
            batch_size=self.batch_size,
            roles=self.roles,
            weight=lambda sample: int(sample.id[:2], 16) % 4 / 2 if self.weighted else 1.0,
            buckets=aspect_buckets(SIZE, self.batch_size, step=4) if self.bucketed else None,
            seed=self.seed,
            max_unreadable_share=1.0,
            **topology,
        )


def make_case(store: FolderStore, rng: np.random.Generator) -> Case:
    """Store a snapshot of random sizes with some hostile rows, and choose the other settings."""
    pair = bool(rng.integers(2))
    roles = (LayerRole.foreground, LayerRole.background) if pair else (LayerRole.foreground,)
    samples = []
    for index in range(int(rng.integers(24, 60))):
        height, width = rng.integers(4, 24, 2)
        layers = {}
        for role in roles:
            rgba = rng.integers(0, 256, (height, width, 4), np.uint8)
            # One in eight images is missing, not an image, empty, or truncated.
            fault = int(rng.integers(32))
            data = encode_layer(rgba)
            if fault == 0:
                layers[role] = hashlib.sha256(rgba.tobytes()).hexdigest()
            else:
                hostile = {1: b"not an image", 2: data[: len(data) // 2], 3: b""}.get(fault, data)
                layers[role] = store.put(hostile)
        provenance = ("CC0-1.0", "test", Split.train, 0, pixel_hash(rgba))
        name = hashlib.sha256(f"{index}{rng.integers(1 << 40)}".encode()).hexdigest()
        samples.append(
            Sample(name, Kind.pair if pair else Kind.single, f"noise {index}", *provenance, layers)
        )
    samples.sort(key=lambda sample: sample.id)
    lines = "".join(sample.line() + "\n" for sample in samples).encode()
    snapshot = store.put(Manifest((Part("", store.put(lines), len(samples)),), {}).bytes())
    batch_size, seed = int(rng.integers(1, 10)), int(rng.integers(1 << 30))
    return Case(snapshot, roles, batch_size, seed, bool(rng.integers(2)), bool(rng.integers(2)))


def hash_rows(batch: LayerBatch) -> list[str]:
    """Return a hash of each row: its sample, captions, size and pixels."""
    rows = []
    for row, sample in enumerate(batch.sample_ids):
        digest = hashlib.sha256(sample.encode())
        digest.update(batch.size_conditions[row].numpy().tobytes())
        for role, tensor in batch.layers.items():
            digest.update(f"{role} {tuple(tensor.shape[1:])} {batch.captions[role][row]}".encode())
            digest.update(tensor[row].numpy().tobytes())
        rows.append(digest.hexdigest())
    return rows


def rows_in_one_rank(case: Case, store: FolderStore) -> list[str]:
    """Return the rows of the stream in one rank with one thread."""
    loader = case.open(store, images=BATCHES * case.batch_size, threads=1)
    return [row for batch in loader for row in hash_rows(batch)]


def rows_in_random_topologies(
    case: Case, store: FolderStore, rng: np.random.Generator
) -> Iterator[str]:
    """Yield the rows of the stream, stopped and resumed in other topologies at random draws."""
    total, seen = BATCHES * case.batch_size, 0
    while seen < total:
        stop = int(rng.integers(seen + 1, total + 1))
        ranks = int(rng.integers(1, 6))
        loaders = [
            iter(
                case.open(
                    store,
                    rank=rank,
                    world_size=ranks,
                    images_seen=seen,
                    images=stop,
                    threads=int(rng.integers(1, 4)),
                )
            )
            for rank in range(ranks)
        ]
        for batches in zip(*loaders, strict=True):
            assert len({batch.number for batch in batches}) == 1
            for batch in batches:
                yield from hash_rows(batch)
            seen = batches[0].images_seen
