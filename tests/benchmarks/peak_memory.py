"""Compare the peak memory that `train --dry-run` estimates with that of training steps on the CPU."""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import psutil

CASES: dict[str, tuple[str, str, dict[str, str]]] = {
    "micro, transparency, batch 512": ("micro", "transparency", {"transparency_batch": "512"}),
    "tiny, transparency, batch 128": ("tiny", "transparency", {"transparency_batch": "128"}),
    "micro, base, batch 2048": ("micro", "base", {"base_batch": "2048"}),
    "tiny, base, batch 256": ("tiny", "base", {"base_batch": "256"}),
    "tiny SDXL, LoRA, batch 16": ("sdxl", "base", {"base_batch": "16", "adapter_rank": "8"}),
    "tiny SDXL, LoRA, batch 64": ("sdxl", "base", {"base_batch": "64", "adapter_rank": "8"}),
    "tiny SDXL, all weights, batch 16": ("sdxl", "base", {"base_batch": "16", "adapter_rank": "0"}),
    "tiny SDXL, all weights, batch 64": ("sdxl", "base", {"base_batch": "64", "adapter_rank": "0"}),
    "tiny SDXL, all weights, checkpointing, batch 64": (
        "sdxl",
        "base",
        {"base_batch": "64", "adapter_rank": "0", "gradient_checkpointing": "true"},
    ),
    "tiny SDXL, all weights, accumulation, batch 16": (
        "sdxl",
        "base",
        {"base_batch": "16", "adapter_rank": "0", "accumulation": "2"},
    ),
}
TINY_SDXL = {
    "image_size": "256",
    "precision": "fp32",
    "gradient_checkpointing": "false",
    "buckets": "false",
    "in_memory": "true",
    "optimizer": "adamw",
    "draw_steps": "1",
}
PICTURES = 24  # that the snapshot has for training
CHANNELS = (64, 128)
"""Channels of the UNet, so that it weighs about as much as the activations of a small batch."""

HONEST = {
    "OMP_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "1",  # what is freed goes back to the system at once, so that resident is what lives
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_TRIM_THRESHOLD_": "65536",
}


def main() -> None:
    """Print both figures of every case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", default="", help="only cases with this in their name")
    given = parser.parse_args()
    print(f"{'case':<50} {'computed':>10} {'measured':>10}")
    for name in CASES:
        if given.case in name:
            computed, measured = compare(name)
            share = computed / measured - 1
            print(
                f"{name:<50} {computed / 2**20:6.0f} MiB {measured / 2**20:6.0f} MiB {share:+7.1%}",
                flush=True,
            )


def compare(name: str) -> tuple[int, int]:
    """Bytes computed and bytes measured."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.benchmarks.peak_memory", "--measure", name],
        env=os.environ | HONEST,
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        check=True,
    )
    output = json.loads(done.stdout.splitlines()[-1])
    return int(output["computed"]), int(output["measured"])


def measure(name: str) -> None:
    """Train three steps here, and print the case's figures."""
    preset, stage, changes = CASES[name]
    with tempfile.TemporaryDirectory(prefix="layerloop-memory-") as folder:
        if preset == "sdxl":
            from tests.training.pretrained import write_sdxl

            changes = (
                TINY_SDXL | {"model": str(write_sdxl(Path(folder) / "model", CHANNELS))} | changes
            )
        _train(
            Path(folder) / "warm", "micro", stage, {}, 8
        )  # what is loaded late is loaded, and threads are there
        gc.collect()
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        before = psutil.Process().memory_info().rss
        batch = int(changes[f"{stage}_batch"]) * int(changes.get("accumulation", "1"))
        measured = _train(Path(folder) / "run", preset, stage, changes, 3 * batch) - before
        from curation.domain import TrainingRequest
        from training.memory_estimate import estimate

        request = TrainingRequest(stage, preset, "0" * 64, None, None, 0, 0, changes)
        (computed,) = (row.peak for row in estimate(request, PICTURES) if row.stage == stage)
        print(json.dumps({"computed": computed, "measured": measured}))


def _train(folder: Path, name: str, stage: str, changes: dict[str, str], images: int) -> int:
    """Return the most bytes that were resident in the loop of a stage."""
    import torch

    from curation.domain import Progress, TrainingRequest
    from curation.object_store import FolderStore
    from tests.training.conftest import freeze
    from training.denoiser.train import train_base
    from training.presets.presets import find_preset
    from training.transparency.autoencoder import LinearAutoencoder, load_autoencoder
    from training.transparency.networks import Transparency
    from training.transparency.train import train_transparency

    preset = find_preset(name, changes | {"threads": "1"})
    store = FolderStore(folder / "objects")
    request = TrainingRequest(stage, name, freeze(store, range(30)), None, None, 0, images, changes)
    torch.set_num_threads(1)
    most = 0

    def report(progress: Progress) -> None:
        nonlocal most
        if progress.stage == stage and progress.done == 0:
            Path("/proc/self/clear_refs").write_text("5")
        if progress.stage == stage and not most and progress.done >= images:
            fields = dict(
                line.split(":") for line in Path("/proc/self/status").read_text().splitlines()
            )
            most = int(fields["VmHWM"].split()[0]) * 1024

    own = LinearAutoencoder(preset.stride, preset.latent_channels)
    autoencoder = (load_autoencoder(preset.model) if preset.model else own).requires_grad_(False)
    if stage == "transparency":
        train_transparency(request, preset, store, folder / "run", report, autoencoder, None)
    else:
        networks = Transparency(preset).eval().requires_grad_(False)
        train_base(request, preset, store, folder / "run", report, autoencoder, networks, None)
    return most


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[1] == "--measure":
        warnings.simplefilter("ignore")
        measure(sys.argv[2])
    else:
        main()
