"""Measure images per second of fine-tuning an SDXL UNet of full size at 1,024 px with cached latents and texts.

Meant for a GPU; --tiny tries the same steps with a small model anywhere. The share of the chip's peak counts what the
model has to compute, forwards and backwards, and neither what checkpointing computes again nor the optimiser's step.
"""

from __future__ import annotations

import argparse
import gc
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from curation.domain import TrainingRequest
from curation.errors import Refused
from curation.object_store import FolderStore
from tests.benchmarks.training_rate import StageTimer, freeze_shapes
from tests.training.pretrained import write_sdxl
from training.denoiser.finetuned_weights import add_adapter
from training.denoiser.train import train_base
from training.presets.preset import Preset
from training.presets.presets import find_preset
from training.pretrained.architectures import CONFIGS, build_part
from training.transparency.autoencoder import fit_autoencoder
from training.transparency.networks import Transparency

DENSE_BF16 = {"H100": 989e12, "H200": 989e12, "A100": 312e12}
"""Operations a second, by the makers' data sheets."""

STEPS, WARM = 30, 10  # a GPU is read every tenth step
PICTURES = 16
CASES: dict[str, dict[str, str]] = {
    "all weights": {"adapter_rank": "0"},
    "all weights, compiled": {"adapter_rank": "0", "torch_compile": "yes"},
    "all weights, checkpointing": {"adapter_rank": "0", "gradient_checkpointing": "yes"},
    "LoRA of rank 256": {"adapter_rank": "256"},
    "LoRA of rank 256, compiled": {"adapter_rank": "256", "torch_compile": "yes"},
}


def main() -> None:
    """Print a line for each case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--case", action="append", choices=list(CASES), help="several may be given; else all"
    )
    parser.add_argument("--batch", type=int, default=8, help="halved until it fits")
    parser.add_argument("--tiny", action="store_true")
    given = parser.parse_args()
    if not torch.cuda.is_available() and not given.tiny:
        print("skipped: there is no GPU (--tiny tries the same with a small model)")
        return
    chip = torch.cuda.get_device_name() if torch.cuda.is_available() else "processor"
    peak = next((peak for name, peak in DENSE_BF16.items() if name in chip), None)
    side = 64 if given.tiny else 1024
    with tempfile.TemporaryDirectory(prefix="layerloop-bench-") as name:
        model = _write_model(Path(name) / "model", tiny=given.tiny)
        print(f"{chip}: SDXL's UNet at {side} px, bf16", flush=True)
        for case in given.case or CASES:
            changes = {"model": str(model), "image_size": str(side), **CASES[case]}
            batch, rate, memory = _fitting(changes, given.batch, Path(name))
            work = count_work(_preset(changes, batch))
            output = f"{rate:.2f} images/s, {rate * work / 1e12:.1f} TFLOP/s"
            output += f", {rate * work / peak:.1%} of the peak" if peak else ""
            print(f"{case}, batch {batch}: {output}, {memory / 2**30:.1f} GiB", flush=True)


def count_work(preset: Preset) -> float:
    """Floating-point operations of a picture's step, forwards and backwards, counted on tensors without numbers."""
    with torch.device("meta"):
        unet: Any = build_part(preset, "unet")
        if preset.adapter_rank:
            unet.requires_grad_(requires_grad=False)
            add_adapter(unet, preset.adapter_rank, preset.adapter_rank)
        side = preset.image_size // preset.stride
        pooled = (
            unet.config.projection_class_embeddings_input_dim
            - 6 * unet.config.addition_time_embed_dim
        )
        more = {"text_embeds": torch.empty(1, pooled), "time_ids": torch.empty(1, 6)}
        states_BLD = torch.empty(1, 77, unet.config.cross_attention_dim)
        with FlopCounterMode(display=False) as counter:
            out = unet(
                torch.empty(1, 4, side, side), torch.empty(1), states_BLD, added_cond_kwargs=more
            )[0]
            torch.autograd.backward(out.sum())
    return float(counter.get_total_flops())


def _write_model(folder: Path, *, tiny: bool) -> Path:
    """Made where there is a GPU on it, and in half precision, which is how such files come."""
    if tiny:
        return write_sdxl(folder)
    known = CONFIGS["sdxl"]["unet"]
    unet = {
        name: value
        for name, value in known.items()
        if not name.endswith(("block_types", "block_out_channels"))
    }
    device = torch.device("cuda")
    with device, _halves():
        return write_sdxl(
            folder, known["block_out_channels"], texts=(768, 1280), norm_num_groups=32, **unet
        )


@contextmanager
def _halves() -> Iterator[None]:
    torch.set_default_dtype(torch.float16)
    yield
    torch.set_default_dtype(torch.float32)


def _preset(changes: dict[str, str], batch: int) -> Preset:
    plain = {
        "base_batch": str(batch), "precision": "bf16", "buckets": "no", "ema_decay": "0", "in_memory": "yes",
        "gradient_checkpointing": "no", "draw_steps": "1", "sample_every_images": str(10**9), "checkpoint_every_images": str(10**9),
    }  # fmt: skip
    return find_preset("sdxl", plain | changes)


def _fitting(changes: dict[str, str], batch: int, folder: Path) -> tuple[int, float, int]:
    """Return the largest batch of that, its half and so on that fits, its images a second, and the bytes held at once."""
    while True:
        try:
            return batch, *_measure(_preset(changes, batch), folder)
        except Refused as error:
            if batch == 1:
                raise
            print(f"batch {batch}: {str(error)[:100]}", flush=True)
            batch //= 2
        gc.collect()
        torch.cuda.empty_cache()


class _Enough(Exception):
    """Raised when the last step to be timed is done: neither sheet nor saved state is of interest."""


def _measure(preset: Preset, folder: Path) -> tuple[float, int]:
    store = FolderStore(folder / "objects")
    snapshot = freeze_shapes(store, folder / "seeds", PICTURES)
    total = (STEPS + 1) * preset.base_batch
    ticks = StageTimer("base")

    def report(progress: object) -> None:
        ticks(progress)  # type: ignore[arg-type]
        if ticks.seen and ticks.seen[-1][1] >= STEPS * preset.base_batch:
            raise _Enough

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    autoencoder = fit_autoencoder(preset, torch.empty(0))
    networks = Transparency(preset).eval().requires_grad_(requires_grad=False)
    request = TrainingRequest("base", "sdxl", snapshot, None, None, 0, total)
    with tempfile.TemporaryDirectory(dir=folder) as run:
        try:
            train_base(
                request, preset, store, Path(run) / "run", report, autoencoder, networks, None
            )
        except _Enough:
            return ticks.rate(
                WARM * preset.base_batch
            ), torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    raise AssertionError("the training ended before it was timed")


if __name__ == "__main__":
    main()
