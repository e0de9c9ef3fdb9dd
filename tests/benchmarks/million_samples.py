"""Measure a snapshot of a million samples: freeze, compare, verify its manifest, open it as a dataset and a loader.

    python -m tests.benchmarks.million_samples [--database postgresql://...] [--samples 1000000] [--json FILE]

The rows, parts and manifests are real; the samples share 2,000 images. Each step runs in a process of its own. The
program prints its seconds, its CPU seconds and its peak memory, and fails if a step needs more than 2 GiB.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from curation.datasets import snapshots
from curation.datasets.holdout import fingerprint_layers
from curation.datasets.samples import StoredLayer, record_layers
from curation.db.engine import Database, Transaction
from curation.domain import Kind, LayerRole, Sample, Split, content_id
from curation.exports.diff import compare_snapshots
from curation.exports.verify import verify_snapshot
from curation.images.codec import encode_layer, pixel_hash
from curation.object_store import FolderStore
from tests.benchmarks.review_queue import _database, _server
from tests.support.factories import image

IMAGES = 2_000
HELDOUT = IMAGES // 20
"""Number of images whose samples are held out."""
PER_COPY = 50_000
LIMIT = 2 * 2**30
"""Largest peak memory of a step in bytes."""

Step = Callable[[str, str, tuple[str, ...]], str]


def main() -> None:
    """Print one line a step."""
    options = _options()
    found: dict[str, dict[str, float]] = {}
    with (
        _server(options.database) as server,
        _database(server) as address,
        tempfile.TemporaryDirectory(prefix="layerloop-bench-") as folder,
    ):

        def measure(name: str, step: Step, *arguments: str) -> str:
            result, figures = _in_process(step, address, folder, arguments)
            found[name] = figures
            cells = f"{figures['seconds']:8.1f} s {figures['cpu_seconds']:8.1f} s of CPU"
            print(f"{name:44}{cells}{figures['peak_bytes'] / 2**20:8,.0f} MiB", flush=True)
            return result

        count = options.samples
        print(f"{count:,} samples, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
        measure("rows added", add_rows, "0", str(count))
        measure("fingerprints of images", fingerprint)
        first = measure("freeze", freeze)
        measure("10 withdrawn, 1,000 rows added", change_few, str(count))
        second = measure("freeze after that", freeze)
        measure("diff of 1,000 added and 10 removed", compare, first, second)
        measure("verify manifest and parts", verify, second)
        measure("open as a dataset, read one image", open_dataset, second)
        measure("open as a loader, read one batch", open_loader, second)
        measure("every caption changed", change_all)
        third = measure("freeze after that, all parts new", freeze)
        measure("diff of every caption", compare, second, third)
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")
    above = [name for name, figures in found.items() if figures["peak_bytes"] > LIMIT]
    if above:
        sys.exit(f"above {LIMIT // 2**30} GiB: {', '.join(above)}")


def add_rows(address: str, folder: str, arguments: tuple[str, ...]) -> str:
    """Add images and samples by COPY; they are as the import adds them."""
    first, count = map(int, arguments)
    with closing(Database(address)) as database:
        with database.transaction() as tx:
            stored = _store_images(FolderStore(Path(folder)))
            record_layers(tx, stored)
        for start in range(first, first + count, PER_COPY):
            with database.transaction() as tx:
                _copy(tx, _samples(stored, range(start, min(start + PER_COPY, first + count))))
        # As autovacuum does after about a minute.
        with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as raw:
            raw.exec_driver_sql("vacuum analyze samples, sample_layers, layers")
    return ""


def fingerprint(address: str, folder: str, _: tuple[str, ...]) -> str:
    """Compute the fingerprints of the images, as `snapshot freeze` does at first."""
    with closing(Database(address)) as database:
        added = fingerprint_layers(database, FolderStore(Path(folder)))
    assert added == IMAGES, added
    return ""


def freeze(address: str, folder: str, _: tuple[str, ...]) -> str:
    """Freeze all samples; return the id."""
    with closing(Database(address)) as database:
        store = FolderStore(Path(folder))
        return snapshots.freeze_snapshot(database, store, tag=None, actor="benchmark").id


def change_few(address: str, folder: str, arguments: tuple[str, ...]) -> str:
    """Withdraw 10 samples and add 1,000."""
    withdrawing = (
        "update samples set withdrawn_at = now() "
        "where id in (select id from samples order by id limit 10)"
    )
    with closing(Database(address)) as database, database.transaction() as tx:
        tx.execute(sa.text(withdrawing))
    return add_rows(address, folder, (arguments[0], "1000"))


def change_all(address: str, _folder: str, _: tuple[str, ...]) -> str:
    """Change the caption of every sample."""
    statement = "update samples set line = replace(line, 'a red circle', 'one red circle')"
    with closing(Database(address)) as database, database.transaction() as tx:
        tx.execute(sa.text(statement))
    return ""


def compare(_: str, folder: str, arguments: tuple[str, ...]) -> str:
    """Compare two snapshots, and check the numbers."""
    diff = compare_snapshots(FolderStore(Path(folder)), *arguments)
    numbers = len(diff.added), len(diff.removed), len(diff.changed)
    assert numbers[:2] == (1_000, 10) or (numbers[:2] == (0, 0) and numbers[2] > 1_000), numbers
    return ""


def verify(_: str, folder: str, arguments: tuple[str, ...]) -> str:
    """Verify the manifest and all parts."""
    damage = verify_snapshot(FolderStore(Path(folder)), arguments[0], manifest_only=True)
    assert not damage, damage[:3]
    return ""


def open_dataset(_: str, folder: str, arguments: tuple[str, ...]) -> str:
    """Open the training split as a map-style dataset, and read one image."""
    import layerloop

    snapshot = layerloop.open_snapshot(arguments[0], store=FolderStore(Path(folder)))
    dataset = snapshot.dataset("train", size=32)
    assert len(dataset) == snapshot.counts["split"]["train"]
    assert dataset[len(dataset) // 2].shape == (4, 32, 32)
    return ""


def open_loader(_: str, folder: str, arguments: tuple[str, ...]) -> str:
    """Open the training split as a loader, and read one batch."""
    import layerloop

    snapshot = layerloop.open_snapshot(arguments[0], store=FolderStore(Path(folder)))
    batch = next(iter(snapshot.loader("train", size=32, batch_size=16, threads=2)))
    assert batch.layers["foreground"].shape == (16, 4, 32, 32)
    return ""


def _in_process(
    step: Step, address: str, folder: str, arguments: tuple[str, ...]
) -> tuple[str, dict[str, float]]:
    """Run a step in a new process; return its result and its figures."""
    started = time.perf_counter()
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        result, cpu, peak = pool.apply(_run, (step, address, folder, arguments))
    seconds = time.perf_counter() - started
    return result, {"seconds": seconds, "cpu_seconds": cpu, "peak_bytes": peak}


def _run(
    step: Step, address: str, folder: str, arguments: tuple[str, ...]
) -> tuple[str, float, int]:
    result = step(address, folder, arguments)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return result, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024


def _store_images(store: FolderStore) -> list[StoredLayer]:
    stored = []
    for seed in range(IMAGES):
        rgba = image(seed)
        data = encode_layer(rgba)
        stored.append(StoredLayer(store.put(data), 32, 24, len(data), pixel_hash(rgba)))
    return stored


def _samples(stored: list[StoredLayer], numbers: range) -> Iterator[Sample]:
    """Yield samples that differ in the hash of their visible pixels and share the images."""
    for number in numbers:
        visible = hashlib.sha256(f"visible {number}".encode()).hexdigest()
        place = number % IMAGES
        yield Sample(
            id=content_id("sample", visible).hex,
            kind=Kind.single,
            caption=f"a red circle on the left of a blue square, number {number}",
            licence=("CC0-1.0", "CC-BY-4.0", "MIT")[number % 3],
            source=f"folder {number % 40}/{number}.png",
            split=Split.heldout if place < HELDOUT else Split.train,
            round=0,
            visible=visible,
            layers={LayerRole.foreground: stored[place].sha256},
        )


def _copy(tx: Transaction, made: Iterator[Sample]) -> None:
    """Insert samples and their layers; their texts have no characters that COPY escapes."""
    rows, layer_rows = io.StringIO(), io.StringIO()
    for one in made:
        cells = (one.id, one.kind, one.visible, one.split, str(one.round), one.line())
        rows.write("\t".join(cells) + "\n")
        layer_rows.write(f"{one.id}\tforeground\t{one.layers[LayerRole.foreground]}\n")
    cursor: Any = tx.connection.connection.cursor()
    rows.seek(0)
    layer_rows.seek(0)
    cursor.copy_expert("copy samples (id, kind, visible, split, round, line) from stdin", rows)
    cursor.copy_expert("copy sample_layers (sample_id, role, sha256) from stdin", layer_rows)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--database", help="a PostgreSQL to use in place of an embedded one")
    parser.add_argument("--samples", type=int, default=1_000_000)
    parser.add_argument("--json", type=Path, help="file for the figures")
    return parser.parse_args()


if __name__ == "__main__":
    main()
