"""Measure filling, scanning and reading the latent cache beside one npz file per image, Arrow, and LMDB if installed."""

from __future__ import annotations

import argparse
import importlib.util
import os
import random
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from curation.domain import LayerRole, Split
from curation.images.codec import encode_layer
from curation.object_store import FolderStore
from training.data.dataset import LayerDataset, prefetch
from training.data.splits import open_split
from training.data.tensor_cache import ENTRIES_PER_SHARD, ShardedTensorCache, cache_key
from training.denoiser.cache import LatentCache
from training.denoiser.cache_identity import latent_identity
from training.presets.presets import find_preset
from training.transparency.autoencoder import fit_autoencoder
from training.transparency.codec import adjusted_posterior
from training.transparency.networks import Transparency
from training.transparency.padding import over_gray

READS = 2_000


def main() -> None:
    """Print the rates."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--entries", type=int, default=65_000, help="of the scan; entries are of 4 x 8 x 8"
    )
    parser.add_argument(
        "--large", type=int, default=1_000, help="of the reads; entries are SDXL's, 4 x 128 x 128"
    )
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="layerloop-bench-") as folder:
        print_filling(Path(folder) / "filling")
        print_scans(Path(folder) / "scan", given.entries)
        print_reads(Path(folder) / "reads", given.large)
        print_decoding(Path(folder) / "decoding")


def timed(work: Callable[[], object]) -> float:
    """Seconds of the wall."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def rate(name: str, count: int, seconds: float, unit: str = "entries/s") -> None:
    """One line."""
    print(f"{name:<64} {count / seconds:10,.0f} {unit}", flush=True)


def print_filling(folder: Path) -> None:
    """Pictures a second through decoding, padding and encoding, with preset tiny; and what a second start costs."""
    from tests.training.conftest import freeze

    store = FolderStore(folder / "objects")
    preset = find_preset("tiny")
    images = open_split(
        store, freeze(store, range(1_250)), Split.train, preset.image_size, in_memory=False
    )
    rgba = images.load_batch(range(64))
    autoencoder, encoder = (
        fit_autoencoder(preset, over_gray(rgba[:, :3], rgba[:, 3:])),
        Transparency(preset).encoder,
    )
    identity = latent_identity(preset, autoencoder, encoder.requires_grad_(False))
    for name in ("filling, tiny at 64 px", "  again, nothing to do"):
        cache = LatentCache.open(folder / "cache", identity)
        encode = partial(adjusted_posterior, autoencoder, encoder)
        rate(
            name,
            len(images),
            timed(partial(cache.fill, images, encode, lambda progress: None)),
            "pictures/s",
        )


def print_scans(folder: Path, count: int) -> None:
    """To learn which of so many entries are there."""
    keys = [cache_key(number) for number in range(count)]
    row = torch.randn(ENTRIES_PER_SHARD, 4, 8, 8)
    shards = ShardedTensorCache(folder / "shards")
    for start in range(0, count, ENTRIES_PER_SHARD):
        some = keys[start : start + ENTRIES_PER_SHARD]
        shards.put(some, halves(row, len(some)))
    files = folder / "npz"
    files.mkdir(parents=True)
    array = row[0].numpy()
    for key in keys:
        np.savez(files / f"{key.hex()}.npz", mean=array, std=array)

    def ours() -> None:
        fresh = ShardedTensorCache(folder / "shards")
        assert all(key in fresh for key in keys)

    def per_file() -> None:
        for key in keys:
            with np.load(files / f"{key.hex()}.npz") as held:
                assert held["mean"].shape == (4, 8, 8)

    print(f"{f'scan of {count:,} entries: shards':<64} {timed(ours):10.2f} s", flush=True)
    print(
        f"{'  npz, names alone':<64} {timed(lambda: {entry.name for entry in os.scandir(files)}):10.2f} s",
        flush=True,
    )
    print(
        f"{'  npz, opened and checked for their sizes':<64} {timed(per_file):10.2f} s", flush=True
    )


def print_reads(folder: Path, count: int) -> None:
    """Entries of SDXL's size (mean and deviation, fp16, 256 KiB) in random order, from files that were just written."""
    keys = [cache_key(number) for number in range(count)]
    rng = random.Random(0)
    wanted = [rng.randrange(count) for _ in range(READS)]
    values = torch.randn(ENTRIES_PER_SHARD, 4, 128, 128).half()
    shards = ShardedTensorCache(folder / "shards")
    runs = [keys[start : start + ENTRIES_PER_SHARD] for start in range(0, count, ENTRIES_PER_SHARD)]
    rate(
        "writing, SDXL's size: shards",
        count,
        timed(lambda: [shards.put(r, halves(values, len(r))) for r in runs]),
    )
    fresh = ShardedTensorCache(folder / "shards")
    batches = [[keys[place] for place in wanted[start : start + 8]] for start in range(0, READS, 8)]
    rate(
        "random reads in batches of 8: shards, first pass (sums checked)",
        READS,
        timed(lambda: [fresh.get(b) for b in batches]),
    )
    rate("  shards, second pass", READS, timed(lambda: [fresh.get(b) for b in batches]))
    for name, others in (("npz", npz), ("arrow (datasets)", arrow), ("lmdb", lmdb)):
        others(name, folder, values[0].numpy(), keys, wanted)


def halves(values: torch.Tensor, count: int) -> dict[str, torch.Tensor]:
    """Return an entry's two tensors."""
    return {"mean": values[:count], "std": values[:count].clone()}


def npz(name: str, folder: Path, array: np.ndarray, keys: list[bytes], wanted: list[int]) -> None:
    """Return a compressed-less file a image, as kohya's scripts keep them."""
    (folder / "npz").mkdir()
    files = [folder / "npz" / f"{key.hex()}.npz" for key in keys]
    rate(
        f"  writing, {name}",
        len(keys),
        timed(lambda: [np.savez(file, mean=array, std=array) for file in files]),
    )

    def read(place: int) -> list[torch.Tensor]:
        with np.load(files[place]) as held:
            return [torch.from_numpy(held["mean"]), torch.from_numpy(held["std"])]

    rate(
        f"  {name}",
        READS,
        timed(
            lambda: [
                torch.stack([read(p)[0] for p in wanted[s : s + 8]]) for s in range(0, READS, 8)
            ]
        ),
    )


def arrow(name: str, folder: Path, array: np.ndarray, keys: list[bytes], wanted: list[int]) -> None:
    """Rows of a dataset of Hugging Face on disk, as diffusers' full SDXL script keeps them."""
    if importlib.util.find_spec("datasets") is None:
        print(f"  {name} is not installed")
        return
    from datasets import Array3D, Dataset, Features, load_from_disk

    features = Features({column: Array3D(array.shape, "float16") for column in ("mean", "std")})

    def write() -> None:
        made = Dataset.from_generator(
            lambda: ({"mean": array, "std": array} for _ in keys),
            features=features,
            cache_dir=str(folder / "made"),
        )
        made.save_to_disk(str(folder / "arrow"))

    rate(f"  writing, {name}", len(keys), timed(write))
    rows = load_from_disk(str(folder / "arrow")).with_format("torch")
    rate(
        f"  {name}",
        READS,
        timed(lambda: [rows[wanted[start : start + 8]] for start in range(0, READS, 8)]),
    )


def lmdb(name: str, folder: Path, array: np.ndarray, keys: list[bytes], wanted: list[int]) -> None:
    """One B-tree in one file, one writer at a time."""
    if importlib.util.find_spec("lmdb") is None:
        print(f"  {name} is not installed")
        return
    import lmdb as library

    with library.open(str(folder / "lmdb"), map_size=1 << 40) as opened:

        def write() -> None:
            for start in range(0, len(keys), ENTRIES_PER_SHARD):
                with opened.begin(write=True) as transaction:
                    for key in keys[start : start + ENTRIES_PER_SHARD]:
                        transaction.put(key, array.tobytes() * 2)

        def read(place: int) -> torch.Tensor:
            with opened.begin(buffers=True) as transaction:
                data = np.frombuffer(transaction.get(keys[place]), np.float16)
                return torch.from_numpy(data.reshape(2, *array.shape).copy())

        rate(f"  writing, {name}", len(keys), timed(write))
        rate(
            f"  {name}",
            READS,
            timed(
                lambda: [
                    torch.stack([read(p) for p in wanted[s : s + 8]]) for s in range(0, READS, 8)
                ]
            ),
        )


def print_decoding(folder: Path) -> None:
    """Pictures of 1,024 px through decoding and letterboxing, by threads that read ahead."""
    from dataclasses import replace

    from tests.training.conftest import freeze

    store = FolderStore(folder)
    sample = open_split(store, freeze(store, range(3)), Split.train, 64, in_memory=False).samples[0]
    samples = []
    for seed in range(24):
        rng = np.random.default_rng(seed)
        noise = np.zeros((1200, 900, 4), np.uint8)
        small = rng.integers(0, 256, (75, 57, 4), np.uint8)
        noise[...] = np.kron(small, np.ones((16, 16, 1), np.uint8))[:1200, :900]
        samples.append(
            replace(sample, layers={LayerRole.foreground: store.put(encode_layer(noise))})
        )
    images = LayerDataset(store, samples, 1024, in_memory=False)
    rate(
        "decoding at 1,024 px, in the loop",
        24,
        timed(lambda: [images[place] for place in range(24)]),
        "pictures/s",
    )
    for workers in (1, 2, 4):
        batches = [range(start, start + 4) for start in range(0, 24, 4)]
        work = partial(lambda count: list(prefetch(images.read, batches, count)), workers)  # noqa: B023
        rate(
            f"  {workers} thread{'s' * (workers > 1)} reading ahead", 24, timed(work), "pictures/s"
        )


if __name__ == "__main__":
    main()
