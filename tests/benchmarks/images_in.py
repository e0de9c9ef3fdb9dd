"""Measure an import beside a plain Pillow loop over the same files, and the rate of measuring layers."""

from __future__ import annotations

import argparse
import io
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from curation.adapters import embedded_postgres
from curation.db import schema
from curation.db.engine import Database
from curation.images import perceptual_hash
from curation.ingest import seed_import
from curation.object_store import FolderStore
from curation.screening import signals
from curation.synthetic.dataset import draw_seed_set


def main() -> None:
    """Print images a second: Pillow alone, the whole import with one and two workers, and screening."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--folder", type=Path, help="images with alpha; drawn shapes when not given"
    )
    parser.add_argument("--count", type=int, default=600)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="layerloop-bench-") as home:
        folder = given.folder or Path(home) / "seeds"
        if given.folder is None:
            draw_seed_set(folder, given.count)
        files = [path for path in sorted(folder.rglob("*")) if path.suffix in {".png", ".webp"}][
            : given.count
        ]
        plain = _pillow(files)
        print(f"{'Pillow: decode, encode WebP':<34} {plain:8.1f} images/s", flush=True)
        for workers in (1, 2):
            rate = _import(Path(home) / f"house-{workers}", folder, workers)
            print(
                f"{f'import, {workers} worker(s)':<34} {rate:8.1f} images/s   {rate / plain:.2f} x Pillow",
                flush=True,
            )
        for side in (64, 256, 512):
            print(
                f"{f'screening at {side} px':<34} {_screen(files[:150], side):8.1f} images/s",
                flush=True,
            )


def _pillow(files: list[Path]) -> float:
    """Return what a person's own script does: open, convert, save as the lossless WebP that we store."""
    begun = time.perf_counter()
    for path in files:
        with Image.open(path) as image:
            image.convert("RGBA").save(
                io.BytesIO(), "WEBP", lossless=True, exact=True, quality=0, method=0
            )
    return len(files) / (time.perf_counter() - begun)


def _import(home: Path, folder: Path, workers: int) -> float:
    database = Database(embedded_postgres.start_server(home / "postgres"))
    try:
        schema.migrate(database)
        output = seed_import.import_seeds(
            database, FolderStore(home / "objects"), folder, workers=workers
        )
        return output.files / output.seconds
    finally:
        database.close()
        embedded_postgres.stop_server(home / "postgres")


def _screen(files: list[Path], side: int) -> float:
    images = [np.asarray(Image.open(path).convert("RGBA").resize((side, side))) for path in files]
    begun = time.perf_counter()
    for rgba in images:
        signals.compute_signals(rgba)
        perceptual_hash.fingerprint(rgba)
    return len(images) / (time.perf_counter() - begun)


if __name__ == "__main__":
    main()
