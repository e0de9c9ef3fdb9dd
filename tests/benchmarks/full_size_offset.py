"""Measure images per second of training the released networks (104 M and 1.2 M weights) at 512 px around SDXL's VAE.

Ours as it runs, reading and padding included, and the public modules in a plain loop of the same losses. Meant for a
GPU; --tiny tries the same steps on a small autoencoder anywhere, and --reference names a checkout of
lllyasviel/LayerDiffuse_DiffusersCLI, which is not ours.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from curation.domain import Split, TrainingRequest
from curation.object_store import FolderStore
from tests.benchmarks.training_rate import StageTimer, freeze_shapes
from tests.training.pretrained import make_vae
from training.data.splits import open_split
from training.presets.preset import Preset
from training.presets.presets import find_preset
from training.pretrained.architectures import CONFIGS
from training.transparency.autoencoder import Autoencoder, fit_autoencoder
from training.transparency.train import train_transparency

STEPS, WARM = 30, 10
PUBLIC_STEPS, PUBLIC_WARM = 12, 4
PICTURES = 64


def main() -> None:
    """Print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reference", type=Path)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--tiny", action="store_true")
    given = parser.parse_args()
    if not torch.cuda.is_available() and not given.tiny:
        print("skipped: there is no GPU (--tiny tries the same with a small autoencoder)")
        return
    kind: Any = AutoencoderKL
    with tempfile.TemporaryDirectory(prefix="layerloop-bench-") as name:
        folder = Path(name)
        with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
            vae: Any = make_vae() if given.tiny else kind(**CONFIGS["sdxl"]["vae"])
        vae.save_pretrained(folder / "vae")
        store = FolderStore(folder / "objects")
        snapshot = freeze_shapes(store, folder / "seeds", PICTURES)
        preset = _preset(folder / "vae", 64 if given.tiny else 512, given.batch)
        chip = torch.cuda.get_device_name() if torch.cuda.is_available() else "processor"
        print(
            f"{chip}: {preset.image_size} px, batch {given.batch}, bf16, without a discriminator",
            flush=True,
        )
        autoencoder = fit_autoencoder(preset, torch.empty(0))
        ticks = StageTimer("transparency")
        request = TrainingRequest(
            "transparency", "sdxl", snapshot, None, None, 0, STEPS * given.batch
        )
        train_transparency(request, preset, store, folder / "run", ticks, autoencoder, None)
        most = torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else 0
        print(
            f"ours, reading and padding included: {ticks.rate(WARM * given.batch):.2f} images/s, {most:.1f} GiB"
        )
        if given.reference:
            sys.path.insert(0, str(given.reference.resolve()))
            planes_B4HW = torch.stack(
                [
                    open_split(store, snapshot, Split.train, preset.image_size).read_or_replace(
                        index
                    )[1]
                    for index in range(given.batch)
                ]
            )
            for padding in (True, False):
                rate = _rate_public(preset, autoencoder, planes_B4HW, padding=padding)
                output = "padding included" if padding else "padded before"
                print(
                    f"the public modules in a plain loop, {output}: {rate:.2f} images/s", flush=True
                )


def _preset(model: Path, side: int, batch: int) -> Preset:
    changes = {
        "model": str(model), "image_size": str(side), "precision": "bf16", "buckets": "no", "transparency_ema": "0",
        "gradient_checkpointing": "no", "transparency_batch": str(batch), "discriminator_weight": "0",
        "checkpoint_every_images": str(10**9), "sample_every_images": str(10**9), "decoder_views": "1",
    }  # fmt: skip
    return find_preset("sdxl", changes)


def _rate_public(
    preset: Preset, autoencoder: Autoencoder, rgba_B4HW: Tensor, *, padding: bool
) -> float:
    """Images a second of a plain loop: offset scale 300, reconstruction and identity, AdamW."""
    from lib_layerdiffuse.vae import (  # type: ignore[import-not-found]
        LatentTransparencyOffsetEncoder,
        UNet1024,
        pad_rgb,
    )

    device = "cuda" if torch.cuda.is_available() else "cpu"
    batch = len(rgba_B4HW)

    def pad() -> Tensor:
        planes = (rgba_B4HW.permute(0, 2, 3, 1) * 255).round().byte().numpy()
        return torch.stack(
            [torch.from_numpy(pad_rgb(plane)).float().permute(2, 0, 1) for plane in planes]
        ).to(device)

    autoencoder.to(device)
    encoder, decoder = (
        LatentTransparencyOffsetEncoder().to(device),
        UNet1024(in_channels=3, out_channels=4).to(device),
    )
    optimizer = torch.optim.AdamW([*encoder.parameters(), *decoder.parameters()], 1e-5)
    padded_B3HW, times = pad(), []
    for _ in range(PUBLIC_STEPS):
        color_B3HW = pad() if padding else padded_B3HW
        alpha_B1HW = rgba_B4HW[:, 3:].to(device)
        keep_B111 = (torch.rand(batch, 1, 1, 1, device=device) >= preset.offset_dropout).float()
        with torch.autocast(device, torch.bfloat16):
            grey_B3HW = (color_B3HW * 2 - 1) * alpha_B1HW
            with torch.no_grad():
                mean_BCHW, std_BCHW = autoencoder.encode(grey_B3HW)
            wanted_B4HW = torch.cat([alpha_B1HW, color_B3HW], dim=1)
            latent_BCHW = mean_BCHW + std_BCHW * encoder(wanted_B4HW) * 300 * keep_B111
            image_B3HW = autoencoder.decode(latent_BCHW)
            again_B4HW = decoder((image_B3HW * 0.5 + 0.5).clip(0, 1), latent_BCHW)
            loss = (again_B4HW - wanted_B4HW).square().mean() + (
                image_B3HW - grey_B3HW
            ).square().mean()
        torch.autograd.backward(loss)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter())
    return (PUBLIC_STEPS - PUBLIC_WARM) * batch / (times[-1] - times[PUBLIC_WARM - 1])


if __name__ == "__main__":
    main()
