"""Train a checkpoint of medium size on a folder of RGBA images; print its settings and metrics and write a grid."""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch

from curation.domain import Checkpoint, Progress, TrainingRequest
from curation.object_store import FolderStore
from tests.benchmarks.offset_ablation import SEEDS, freeze_folder
from training.train import train


def main() -> None:
    """Train, print the metrics and write the sample grid."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="medium")
    parser.add_argument("--images", type=Path, default=SEEDS, help="a folder of RGBA files")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="a number of the preset"
    )
    parser.add_argument("--grids", type=Path, default=Path(), help="a folder for the sample grid")
    given = parser.parse_args()
    if not given.images.is_dir():
        print(f"skipped: there is no folder {given.images} of RGBA images (--images)")
        return
    changes = dict(cell.split("=", 1) for cell in given.set)
    with tempfile.TemporaryDirectory(prefix="layerloop-bench-") as name:
        store = FolderStore(Path(name) / "objects")
        request = TrainingRequest(
            "whole", given.preset, freeze_folder(store, given.images), None, None, 0, 0, changes
        )
        begun = time.perf_counter()
        checkpoint = train(request, store, Path(name) / "run", _Teller())
        _show(checkpoint, store, given.grids / f"{given.preset}.png", time.perf_counter() - begun)


class _Teller:
    """Prints a line for every tenth part of a stage."""

    def __init__(self) -> None:
        self.told: set[tuple[str, int]] = set()
        self.begun = time.perf_counter()

    def __call__(self, progress: Progress) -> None:
        """Perhaps this one."""
        tenth = progress.stage, 10 * progress.done // max(1, progress.total)
        if progress.metrics and tenth not in self.told:
            self.told.add(tenth)
            print(
                round(time.perf_counter() - self.begun),
                "s:",
                progress.stage,
                progress.done,
                {n: round(v, 4) for n, v in progress.metrics.items()},
                flush=True,
            )


def _show(checkpoint: Checkpoint, store: FolderStore, grid: Path, seconds: float) -> None:
    most = torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else 0
    chip = torch.cuda.get_device_name() if torch.cuda.is_available() else "processor"
    print(f"{chip}, {seconds:.0f} s, {most:.1f} GiB, {json.dumps(dict(checkpoint.changes))}")
    print(
        json.dumps({name: round(value, 4) for name, value in checkpoint.evaluation.items()}),
        flush=True,
    )
    if checkpoint.sample_grid:
        grid.parent.mkdir(parents=True, exist_ok=True)
        grid.write_bytes(store.get(checkpoint.sample_grid))


if __name__ == "__main__":
    main()
