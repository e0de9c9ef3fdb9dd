"""Measure the time to freeze a snapshot of 100,000 samples, and then one with 100 more."""

from __future__ import annotations

import argparse
import hashlib
import tempfile
import time
from pathlib import Path

from curation.adapters import embedded_postgres
from curation.datasets import snapshots
from curation.datasets.samples import NewSample, StoredLayer, add_samples
from curation.db import schema
from curation.db.engine import Database
from curation.domain import Kind, LayerRole
from curation.object_store import FolderStore


def add(database: Database, store: FolderStore, first: int, count: int) -> None:
    """Add samples with small objects in place of layers: freezing asks for their sizes only."""
    for index in range(first, first + count):
        name = hashlib.sha256(_data(index)).hexdigest()
        path = store.folder / name[:2] / name[2:]
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(_data(index))  # as `put`, without its fsync
    for start in range(first, first + count, 5_000):
        with database.transaction() as tx:
            add_samples(tx, [_sample(i) for i in range(start, min(start + 5_000, first + count))])


def freeze(database: Database, store: FolderStore) -> tuple[str, float]:
    """Return the snapshot's id and the seconds it took."""
    begun = time.perf_counter()
    frozen = snapshots.freeze_snapshot(database, store, tag="benchmark", actor="benchmark")
    return frozen.id, time.perf_counter() - begun


def main() -> None:
    """Print one line a figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=100_000)
    count = parser.parse_args().samples
    with tempfile.TemporaryDirectory(prefix="layerloop-bench-") as folder:
        database = Database(embedded_postgres.start_server(Path(folder) / "postgres"))
        store = FolderStore(Path(folder) / "objects")
        try:
            schema.migrate(database)
            begun = time.perf_counter()
            add(database, store, 0, count)
            print(f"add {count} samples      {time.perf_counter() - begun:8.2f} s")
            first, seconds = freeze(database, store)
            print(f"freeze {count} samples   {seconds:8.2f} s")
            again, seconds = freeze(database, store)
            print(f"freeze again             {seconds:8.2f} s   same snapshot: {again == first}")
            add(database, store, count, 100)
            _, seconds = freeze(database, store)
            print(f"freeze with 100 more     {seconds:8.2f} s")
        finally:
            database.close()
            embedded_postgres.stop_server(Path(folder) / "postgres")


def _data(index: int) -> bytes:
    return f"layer {index}".encode()


def _sample(index: int) -> NewSample:
    sha = hashlib.sha256(_data(index)).hexdigest()
    visible = hashlib.sha256(f"visible {index}".encode()).hexdigest()
    layer = StoredLayer(sha, 64, 64, len(_data(index)), visible)
    return NewSample(
        Kind.single,
        f"a red circle number {index}",
        "CC0-1.0",
        "benchmark",
        1,
        {LayerRole.foreground: layer},
    )


if __name__ == "__main__":
    main()
