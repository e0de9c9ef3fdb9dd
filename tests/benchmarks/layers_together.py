"""Measure time and peak memory of 2, 3 and 5 layers generated together and apart."""

from __future__ import annotations

import argparse
import multiprocessing
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from training.denoiser.builtin import BuiltinDenoiser
from training.denoiser.denoiser import Conditions, Denoiser
from training.denoiser.stable_diffusion import StableDiffusion
from training.layers.model import LayeredDenoiser, new_layered_denoiser
from training.presets.preset import Preset
from training.presets.presets import find_preset
from training.pretrained.architectures import build_part
from training.pretrained.families import find_family

WAYS = ("joint", "joint, texts too", "apart", "one at a time", "one layer, no adapters")
WORDS = 77


def main() -> None:
    """Print a row for every count of layers and way of drawing; memory on a processor is measured in a process each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="tiny", help="tiny, sd15 or sdxl; weights are random")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--layers", type=int, nargs="*", default=[2, 3, 5])
    parser.add_argument("--images", type=int, default=1, help="images per batch")
    parser.add_argument(
        "--steps", type=int, default=4, help="denoising steps that are timed; an image takes 25"
    )
    given = parser.parse_args()
    device = torch.cuda.get_device_name() if given.device == "cuda" else "processor"
    print(
        f"preset {given.preset}, {device}, batches of {given.images}, guidance; an image of 25 steps"
    )
    seconds_of = "s per image" if given.device == "cuda" else "CPU-s"
    print(f"{'layers':>6}  {'way':<24} {seconds_of:>12} {'peak MiB':>9} {'above the weights':>18}")
    for layers in given.layers:
        for way in WAYS:
            if given.preset == "tiny" and way == "joint, texts too":
                continue  # its transformer attends to no text
            seconds, peak, weights = (
                _apart(given, layers, way) if device == "processor" else measure(given, layers, way)
            )
            print(
                f"{layers:>6}  {way:<24} {seconds:12.3f} {peak:9.0f} {peak - weights:18.0f}",
                flush=True,
            )


def _apart(given: argparse.Namespace, layers: int, way: str) -> tuple[float, float, float]:
    """`measure` in a process of its own, whose memory is its own."""
    with multiprocessing.get_context("fork").Pool(1) as pool:
        return pool.apply(measure, (given, layers, way))


@torch.no_grad()
def measure(given: argparse.Namespace, layers: int, way: str) -> tuple[float, float, float]:
    """Return the seconds (CPU-seconds without a GPU) of an image of 25 steps, the peak MiB, and those of the weights."""
    device = torch.device(given.device)
    preset = find_preset(given.preset, {"joint_text_attention": str(way == "joint, texts too")})
    torch.manual_seed(0)
    layered = build(preset, device)
    roles = ["foreground"] * (layers - 1) + ["background"]
    side, count = (
        preset.image_size // preset.stride,
        2 * given.images,
    )  # with the prompt and without
    shape = (preset.latent_channels, side, side)
    weights = _held(device)
    _restart(device)

    def step() -> None:
        if way in {"one at a time", "one layer, no adapters"}:
            rows, times = (
                torch.randn(count, *shape, device=device),
                layers if way == "one at a time" else 1,
            )
            for role in roles[:times]:
                conditions, time_B = (
                    _told(layered.denoiser, count, device),
                    torch.full((count,), 500, device=device),
                )
                if way == "one at a time":
                    layered.predict(rows, time_B, conditions, [role])
                else:
                    layered.denoiser.predict(rows, time_B, conditions)
            return
        rows = torch.randn(count * layers, *shape, device=device)
        time_B = torch.full((len(rows),), 500, device=device)
        layered.predict(
            rows, time_B, _told(layered.denoiser, len(rows), device), roles, joined=way != "apart"
        )

    step()
    _wait(device)
    clock = (
        time.perf_counter if device.type == "cuda" else time.process_time
    )  # which others' work does not lengthen
    begun = clock()
    for _ in range(given.steps):
        step()
    _wait(device)
    seconds = (clock() - begun) / given.steps * 25 / given.images
    peak = _most(device)
    return seconds, peak / 2**20, weights / 2**20


def build(preset: Preset, device: torch.device) -> LayeredDenoiser:
    """Random weights of the right sizes, made on the device; on a GPU in half precision."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    with torch.device(device):
        denoiser: Denoiser = BuiltinDenoiser(preset) if preset.family is None else _Outline(preset)
        layered = new_layered_denoiser(preset, denoiser)
    return layered.to(dtype).eval()


class _Outline(StableDiffusion):
    """A UNet of the family's sizes, without the texts' encoders."""

    def __init__(self, preset: Preset) -> None:
        nn.Module.__init__(self)
        self.preset, self.family = preset, find_family(preset.family or "")
        self.unet: Any = build_part(replace(preset, model=None), "unet")
        self.kind, self.adapter, self.texts = "weights", {}, nn.ModuleList()


def _told(denoiser: Denoiser, rows: int, device: torch.device) -> Conditions:
    if isinstance(denoiser, BuiltinDenoiser):
        return denoiser.encode(["a red circle"] * rows)
    assert isinstance(denoiser, _Outline)
    config = denoiser.unet.config
    states_BLD = torch.randn(rows, WORDS, config["cross_attention_dim"], device=device)
    if not denoiser.family.sizes:
        return Conditions(states_BLD)
    pooled = config["projection_class_embeddings_input_dim"] - 6 * config["addition_time_embed_dim"]
    sizes_B6 = torch.full((rows, 6), 1024.0, device=device)
    return Conditions(
        states_BLD, pooled_BP=torch.randn(rows, pooled, device=device), sizes_B6=sizes_B6
    )


def _held(device: torch.device) -> int:
    return torch.cuda.memory_allocated() if device.type == "cuda" else _status("VmRSS")


def _most(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated() if device.type == "cuda" else _status("VmHWM")


def _restart(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def _status(field: str) -> int:
    fields = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields[field].split()[0]) * 1024


if __name__ == "__main__":
    main()
