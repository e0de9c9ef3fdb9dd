"""Compare snapshots with other formats: write, freeze, add, remove, open, and read with two processes.

    python -m tests.benchmarks.snapshot_formats --install
    ~/.cache/layerloop/snapshot-benchmarks/bin/python -m tests.benchmarks.snapshot_formats [--samples 20000]
        [--database postgresql://...] [--only "Layerloop pack" Lance] [--json FILE]

All write the same distinct images of 64 px (lossless WebP) with ids and captions, into an empty folder. Seconds are of
the wall clock; the seconds of CPU, which depend less on the load, are of this process, its children and PostgreSQL.
Readers are two processes that open the format by themselves; rates are samples per second of both. A format that is not
installed is named and left out.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import resource
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from curation.images.codec import decode_layer, encode_layer
from tests.benchmarks.review_queue import _database, _server
from tests.support.dataset_formats import FORMATS
from tests.support.snapshot_formats import SnapshotFormat

PEERS = Path.home() / ".cache" / "layerloop" / "snapshot-benchmarks"
PINS = (
    "webdataset==1.0.2", "datasets==5.2.0", "pylance==14.0.2", "mosaicml-streaming==0.13.0", "litdata==0.2.76",
    "grain==0.2.18", "dvc==3.67.1",
    # The others bring older versions, which `datasets` cannot use.
    "--no-deps huggingface-hub==2.4.0", "--no-deps transformers==5.23.0",
    "--no-deps tokenizers==0.23.3",
)  # fmt: skip
ADDED, REMOVED = 1_000, 10
BATCH = 64
DRAWS, DECODED = 8_000, 2_000
"""Random reads of stored bytes, and of decoded RGBA."""
WORKERS = 2
HIGHER_IS_BETTER = ("sequential", "random", "decoded")
TITLES = {
    "put": "put s", "freeze": "freeze s", "freeze cpu": "CPU s", "add": "add 1,000 s", "add cpu": "CPU s",
    "remove": "remove 10 s", "remove cpu": "CPU s", "open": "open s", "sequential": "sequential /s",
    "random": "random /s", "decoded": "decoded /s", "decoded cpu": "CPU ms each", "bytes": "MB",
    "added bytes": "MB added",
}  # fmt: skip

Figures = dict[str, float]


def main() -> None:
    """Measure every format, print the table, and write JSON."""
    options = _options()
    if options.install:
        install_peers()
        return
    print(f"{options.samples:,} samples, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    images = [draw_image(number) for number in range(options.samples + ADDED)]
    found: dict[str, Figures] = {}
    with _server(options.database) as server:
        for name in options.only or FORMATS:
            try:
                with _database(server) as address:
                    found[name] = best_of(options.repeats, name, images, address)
            except Exception as error:  # one that cannot be measured is named
                print(f"{name}: not measured: {type(error).__name__}: {error}"[:300], flush=True)
                continue
            print(name, json.dumps(found[name]), flush=True)
    print(table(found))
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")


def install_peers() -> None:
    """Make an environment with the pinned formats; it reads the packages of this one, with PyTorch."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(PEERS)], check=True)
    [packages] = (PEERS / "lib").glob("python*/site-packages")
    (packages / "layerloop.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = [sys.executable, "-m", "pip", "--python", str(PEERS / "bin" / "python"), "install"]
    for pin in PINS:
        if subprocess.run([*pip, "--quiet", *pin.split()], check=False).returncode:
            print(f"{pin} cannot be installed", flush=True)


def best_of(repeats: int, name: str, images: list[bytes], address: str) -> Figures:
    """Measure a format several times; return the smallest times and the largest rates."""
    measured = []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory(prefix="layerloop-bench-") as folder:
            measured.append(measure(FORMATS[name](Path(folder), address), images))
    return {
        key: (max if key in HIGHER_IS_BETTER else min)(one[key] for one in measured)
        for key in measured[0]
    }


def measure(one: SnapshotFormat, images: list[bytes]) -> Figures:
    """Take a format through its life in its folder."""
    found: Figures = {}
    base, more = images[:-ADDED], images[-ADDED:]
    seen: set[tuple[str, int, int]] = set()
    found |= timed("put", lambda: one.put(base), one)
    new_bytes(one.folder, seen)
    found |= timed("freeze", one.freeze, one)
    found["bytes"] = new_bytes(one.folder, seen)
    found |= timed("open", lambda: len(one.open()), one)
    size = len(one.open())
    assert size == len(base), size
    found |= read_rates(one, size)
    one.put(more)
    new_bytes(one.folder, seen)
    found |= timed("add", lambda: one.add(more), one)
    found["added bytes"] = new_bytes(one.folder, seen)
    assert len(one.open()) == len(images)
    one.discard(REMOVED)
    found |= timed("remove", lambda: one.remove(REMOVED), one)
    assert len(one.open()) == len(images) - REMOVED
    one.close()
    return found


def timed(name: str, do: Callable[[], object], one: SnapshotFormat) -> Figures:
    """Return the seconds of a call and those of CPU."""
    started, cpu = time.perf_counter(), cpu_seconds() + one.server_cpu_seconds()
    do()
    seconds = time.perf_counter() - started
    return {name: seconds, f"{name} cpu": cpu_seconds() + one.server_cpu_seconds() - cpu}


def read_rates(one: SnapshotFormat, size: int) -> Figures:
    """Return samples per second of two processes, and the milliseconds of CPU of one sample."""
    found: Figures = {}
    kinds = {"sequential": (size, False), "random": (DRAWS, False), "decoded": (DECODED, True)}
    spawning = multiprocessing.get_context("spawn")
    for kind, (count, decoded) in kinds.items():
        if kind == "random" and not one.is_random:
            continue
        order = np.random.default_rng(1).integers(0, size, count)
        indices = np.arange(size) if kind == "sequential" else order
        shares = [part.tolist() for part in np.array_split(indices, WORKERS)]
        tasks = [
            (type(one), one.folder, place, share, decoded) for place, share in enumerate(shares)
        ]
        barrier = spawning.Barrier(WORKERS)
        with spawning.Pool(WORKERS, _keep, (barrier,)) as pool:
            results = pool.map(read_share, tasks, chunksize=1)
        counted = sum(number for number, _, _ in results)
        found[kind] = counted / max(seconds for _, seconds, _ in results)
        found[f"{kind} cpu"] = 1_000 * sum(cpu for _, _, cpu in results) / counted
    return found


def _keep(barrier: Any) -> None:
    global _barrier
    _barrier = barrier


def read_share(
    task: tuple[type[SnapshotFormat], Path, int, list[int], bool],
) -> tuple[int, float, float]:
    """Read samples in a process of its own; return their number, seconds, and seconds of CPU."""
    kind, folder, worker, indices, decoded = task
    reader = kind(folder, "").open()
    if kind.is_random:
        list(reader.read(indices[:1]))
    _barrier.wait()
    started, cpu, count = time.perf_counter(), time.process_time(), 0
    for data in _stored(reader, indices, worker, decoded=decoded, random=kind.is_random):
        assert data[:4] == b"RIFF"
        if decoded:
            assert decode_layer(data).shape == (64, 64, 4)
        count += 1
    return count, time.perf_counter() - started, time.process_time() - cpu


def _stored(
    reader: Any, indices: list[int], worker: int, *, decoded: bool, random: bool
) -> Iterator[bytes]:
    """Yield stored bytes: the indices in batches, or without random access this worker's shards."""
    if not random:
        yield from itertools.islice(
            reader.iterate(worker, WORKERS), len(indices) if decoded else None
        )
        return
    for start in range(0, len(indices), BATCH):
        yield from reader.read(indices[start : start + BATCH])


def draw_image(number: int) -> bytes:
    """Return a lossless WebP of 64 px, different for every number."""
    rng = np.random.default_rng(number)
    small = rng.integers(0, 256, (5, 5, 4), dtype=np.uint8)
    smooth = Image.fromarray(small, "RGBA").resize((64, 64), Image.Resampling.BICUBIC)
    return encode_layer(np.asarray(smooth))


def new_bytes(folder: Path, seen: set[tuple[str, int, int]]) -> float:
    """Return the bytes of files that are new or changed since the last call."""
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            stat = os.lstat(path := os.path.join(root, name))
            key = (path, stat.st_ino, stat.st_mtime_ns)
            if key not in seen:
                seen.add(key)
                total += stat.st_size
    return float(total)


def cpu_seconds() -> float:
    """Return the seconds of CPU of this process and its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def table(found: dict[str, Figures]) -> str:
    """Return the figures as a table in Markdown, each with its ratio to the best of its column."""
    lines = ["| format | " + " | ".join(TITLES.values()) + " |", "|---" * (len(TITLES) + 1) + "|"]
    for name, figures in found.items():
        cells = []
        for key in TITLES:
            values = [other[key] for other in found.values() if other.get(key)]
            value = figures.get(key)
            if value is None or not values:
                cells.append("-")
                continue
            best = max(values) if key in HIGHER_IS_BETTER else min(values)
            ratio = max(value, best) / max(min(value, best), 1e-9)
            shown = value / 1e6 if key.endswith("bytes") else value
            text = f"{shown:,.0f}" if shown >= 100 else f"{shown:.3g}"
            cells.append(text if key.endswith("cpu") else f"{text} ({ratio:.2g}x)")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--install", action="store_true", help="make the environment of the others")
    parser.add_argument("--database", help="a PostgreSQL to use in place of an embedded one")
    parser.add_argument("--samples", type=int, default=20_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=list(FORMATS), help="formats to measure")
    parser.add_argument("--json", type=Path, help="file for the figures")
    return parser.parse_args()


if __name__ == "__main__":
    main()
