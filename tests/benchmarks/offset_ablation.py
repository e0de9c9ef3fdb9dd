"""Compare the paper's recipe of latent transparency, ours, and every step between, on the same images in the same order."""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from curation.datasets.manifest import Manifest, Part
from curation.domain import (
    Checkpoint,
    Kind,
    LayerRole,
    Progress,
    Sample,
    TrainingRequest,
    assign_split,
)
from curation.images.codec import encode_layer, pixel_hash
from curation.object_store import FolderStore
from training.presets.presets import find_preset
from training.train import train

PLAIN = {
    "decoder_residual": "no",
    "decoder_unfold": "no",
    "transparency_ema": "0",
    "cooldown": "0",
    "error": "square",
    "reconstruction_weight": "1",
    "identity_weight": "1",
    "blend_weight": "0",
    "discriminator_weight": "0.01",
    "discriminator_start": "0",
    "discriminator_adaptive": "no",
    "edge_weight": "0",
    "perceptual": "",
    "solid_share": "0",
}
"""The paper's recipe (section 3.1): squared errors, a PatchGAN from the start, a constant rate, the last weights."""

CELLS: dict[str, tuple[str, ...]] = {
    "residual": ("decoder_residual",),
    "unfold": ("decoder_unfold",),
    "average + cool-down": ("transparency_ema", "cooldown"),
    "blend loss": ("blend_weight", "blend_background"),
    "decibels": ("error", "reconstruction_weight", "identity_weight"),
    "no discriminator": ("discriminator_weight",),
}
"""What the default changes, cell by cell: put on alone, and taken off alone."""

OTHERS: dict[str, Mapping[str, str]] = {
    "adaptive discriminator": {"discriminator_weight": "0.01", "discriminator_adaptive": "yes"},
    "random solids": {"solid_share": "0.3"},
    "edges": {"edge_weight": "1"},
    "charbonnier": {"error": "charbonnier"},
    "natural backgrounds": {"blend_background": "natural"},
}
"""What the default leaves off, put on alone."""

PAIR_METRICS = ("psnr", "ssim", "alpha_sad", "alpha_mse", "identity_psnr", "identity_harm_db")
SEEDS = Path(__file__).parents[3] / "shared" / "seed_rgba"


def main() -> None:
    """Print the table, each row once it is measured, and write a sample grid for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--images", type=int, default=2_000)
    parser.add_argument("--folder", type=Path, default=SEEDS, help="a folder of RGBA files")
    parser.add_argument(
        "--rows", default="plain,default", help="names with commas between them, or 'all'"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="ROW:NAME=VALUE", help="a row of your own"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--grids", type=Path, help="a folder for the sample grids")
    given = parser.parse_args()
    if not given.folder.is_dir():
        print(f"skipped: there is no folder {given.folder} of RGBA images (--folder)")
        return
    rows = _rows(given.preset, given.images)
    for row, changes in _own(given.set).items():
        rows[row] = changes
    chosen = list(rows) if given.rows == "all" else given.rows.split(",")
    with tempfile.TemporaryDirectory(prefix="layerloop-bench-") as folder:
        store = FolderStore(Path(folder) / "objects")
        snapshot = freeze_folder(store, given.folder)
        print(
            f"| {given.preset}, {given.images:,} images, seed {given.seed} | CPU-s | {' | '.join(PAIR_METRICS)} |"
        )
        print("|---" * (len(PAIR_METRICS) + 2) + "|", flush=True)
        for row in chosen:
            changes = {**rows[row], "threads": "1"}
            request = TrainingRequest(
                "transparency",
                given.preset,
                snapshot,
                None,
                None,
                given.seed,
                given.images,
                changes,
            )
            checkpoint, seconds = _timed(request, store, Path(folder) / str(request.id))
            metrics = " | ".join(f"{checkpoint.evaluation[name]:.4g}" for name in PAIR_METRICS)
            print(f"| {row} | {seconds:.0f} | {metrics} |", flush=True)
            if given.grids and checkpoint.sample_grid:
                given.grids.mkdir(parents=True, exist_ok=True)
                (given.grids / f"{given.preset}-{row}.png").write_bytes(
                    store.get(checkpoint.sample_grid)
                )


def _rows(preset: str, images: int) -> dict[str, Mapping[str, str]]:
    """Every row by name: what it changes of the preset."""
    default = {
        name: str(getattr(find_preset(preset), name)) for cell in CELLS.values() for name in cell
    }
    plain = {**PLAIN, "transparency_lr": "1e-3"}  # of 1e-3 and 2e-3 the better one
    rows: dict[str, Mapping[str, str]] = {"plain": plain, "default": {}}
    rows |= {f"plain at {rate}": {**plain, "transparency_lr": rate} for rate in ("2e-3", "1e-5")}
    for cell, names in CELLS.items():
        rows[f"plain + {cell}"] = {**plain, **{name: default[name] for name in names}}
        rows[f"default - {cell}"] = {name: PLAIN[name] for name in names if name in PLAIN}
    late = {"discriminator_weight": "0.01", "discriminator_start": str(images // 2)}
    return rows | {
        f"default + {cell}": changes
        for cell, changes in (OTHERS | {"late discriminator": late}).items()
    }


def _own(given: list[str]) -> dict[str, dict[str, str]]:
    """Rows from the command line."""
    rows: dict[str, dict[str, str]] = {}
    for text in given:
        row, change = text.split(":", 1)
        name, value = change.split("=", 1)
        rows.setdefault(row, {})[name] = value
    return rows


def _timed(request: TrainingRequest, store: FolderStore, folder: Path) -> tuple[Checkpoint, float]:
    """Return the CPU-seconds of a training's images, without the autoencoder and evaluation."""
    ticks: list[float] = []

    def report(progress: Progress) -> None:
        if progress.stage == "transparency":
            ticks.append(time.process_time())

    checkpoint = train(request, store, folder, report)
    return checkpoint, ticks[-1] - ticks[0]


def freeze_folder(store: FolderStore, folder: Path) -> str:
    """Return a snapshot of a folder's RGBA images made without a database, as a trainer may; copies are taken once."""
    captions = {}
    if (folder / "metadata.jsonl").is_file():
        lines = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
        captions = {line["file_name"]: line["text"] for line in lines}
    samples: dict[str, Sample] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix not in {".webp", ".png"}:
            continue
        rgba = np.asarray(Image.open(path).convert("RGBA"))
        visible = pixel_hash(rgba)
        layers = {LayerRole.foreground: store.put(encode_layer(rgba))}
        known = (
            captions.get(str(path.relative_to(folder)), ""),
            "unknown",
            "benchmark",
            assign_split(visible),
        )
        samples[visible] = Sample(visible[:32], Kind.single, *known, 0, visible, layers)
    text = "".join(samples[visible].line() + "\n" for visible in sorted(samples))
    return store.put(Manifest((Part("", store.put(text.encode()), len(samples)),), {}).bytes())


if __name__ == "__main__":
    main()
