"""The training of latent transparency: encoder and decoder around a backbone that stays as it is."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from copy import deepcopy
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import AdamW, Optimizer

from curation.domain import Progress, Split, TrainingOrder
from curation.ports import ObjectStore, Report
from training.backbone import Backbone
from training.data import draw_order, load_split
from training.losses import (
    PatchDiscriminator,
    blend_loss,
    discriminator_loss,
    fooling_loss,
    identity_loss,
    reconstruction_loss,
)
from training.pace import average, rate_at
from training.parts import open_transparency
from training.presets import Preset
from training.runs import RunFolder, generator_at, pack, unpack
from training.sheets import draw_sheet, reconstruction_rows
from training.transparency import Transparency, adjust, on_grey, pad_colours

STAGE = "transparency"


def train_transparency(
    order: TrainingOrder,
    preset: Preset,
    store: ObjectStore,
    folder: Path,
    report: Report,
    backbone: Backbone,
    start: Mapping[str, Tensor] | None,
) -> dict[str, Tensor]:
    """Train (section 3.1) on the snapshot's train split, from `start` or afresh; the averaged weights at the end.

    Run again with the same folder it goes on from the last saved state, and ends with the bits of a straight run.
    Whatever `report` raises stops the training; what was saved stays. Raises Refused where `start` does not fit.
    """
    pictures = load_split(store, order.snapshot, Split.train, preset.image_size, in_memory=preset.in_memory)
    draws = draw_order(store, pictures, order.previous, preset.new_weight, order.seed)
    total = order.images or preset.transparency_images

    torch.manual_seed(order.seed)
    networks = Transparency(preset) if start is None else open_transparency(preset, start).train().requires_grad_(True)
    averaged = deepcopy(networks).requires_grad_(False)
    judge = PatchDiscriminator(preset.discriminator_width)
    optimiser = AdamW(networks.parameters(), lr=preset.transparency_lr, betas=(0.9, 0.99))
    judge_optimiser = AdamW(judge.parameters(), lr=preset.transparency_lr, betas=(0.5, 0.9))
    parts: dict[str, nn.Module | Optimizer] = {
        "networks": networks,
        "averaged": averaged,
        "optimiser": optimiser,
        "judge": judge,
        "judge_optimiser": judge_optimiser,
    }
    run = RunFolder(folder, STAGE)
    seen = 0
    if state := run.load():
        unpack(parts, state)
        seen = state.images
    report(Progress(STAGE, seen, total))

    with closing(run.log(seen)) as log:
        while seen < total:
            rng = generator_at(order.seed, STAGE, seen)
            rgba_B4HW = pictures.take(draws.places(seen, min(preset.transparency_batch, total - seen)))
            rgba_B4HW = _flip_some(rgba_B4HW, rng)
            alpha_B1HW, padded_B3HW = rgba_B4HW[:, 3:], pad_colours(rgba_B4HW)

            # x_a = x + x_eps, with 30 % of the offsets dropped.
            keep_B = (torch.rand(len(rgba_B4HW), generator=rng) >= preset.offset_dropout).float()
            latent_BCHW = adjust(backbone, networks.encoder, alpha_B1HW, padded_B3HW, keep_B)
            decoded_B3HW = backbone.decode(latent_BCHW)
            alpha_hat_B1HW, colour_hat_B3HW = networks.decoder(decoded_B3HW, latent_BCHW)

            # L_vae = L_recon + L_identity + 0.01 L_disc
            drawn = (colour_hat_B3HW, alpha_hat_B1HW)
            losses = {
                "reconstruction": reconstruction_loss(padded_B3HW, alpha_B1HW, *drawn),
                "identity": identity_loss(on_grey(padded_B3HW, alpha_B1HW), decoded_B3HW),
            }
            loss = preset.reconstruction_weight * losses["reconstruction"] + preset.identity_weight * losses["identity"]
            if preset.blend_weight:
                losses["blend"] = blend_loss(padded_B3HW, alpha_B1HW, *drawn)
                loss = loss + preset.blend_weight * losses["blend"]
            judging = preset.discriminator_weight > 0 and seen >= preset.discriminator_start
            if judging:
                losses["fooling"] = fooling_loss(judge(alpha_hat_B1HW, colour_hat_B3HW))
                loss = loss + preset.discriminator_weight * losses["fooling"]

            for group in optimiser.param_groups:
                group["lr"] = preset.transparency_lr * rate_at(seen, total, preset.transparency_batch, preset)
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            clip_grad_norm_(networks.parameters(), 1.0)
            optimiser.step()
            average(averaged, networks, preset.transparency_ema, seen, preset.transparency_batch)
            if judging:
                real = judge(alpha_B1HW, padded_B3HW)
                losses["discriminator"] = discriminator_loss(
                    real, judge(alpha_hat_B1HW.detach(), colour_hat_B3HW.detach())
                )
                judge_optimiser.zero_grad()
                torch.autograd.backward(losses["discriminator"])
                judge_optimiser.step()

            before, seen = seen, seen + len(rgba_B4HW)
            figures = {name: float(value.detach()) for name, value in losses.items()}
            for name, value in figures.items():
                log.add_scalar(f"loss/{name}", value, seen)
            if _passed(before, seen, preset.sheet_images) or seen >= total:
                run.write_sheet(seen, draw_sheet(reconstruction_rows(backbone, averaged, rgba_B4HW[:8])))
            if _passed(before, seen, preset.save_images) or seen >= total:
                run.save(seen, *pack(parts))
            report(Progress(STAGE, seen, total, figures))
    return {name: tensor.detach().clone() for name, tensor in averaged.state_dict().items()}


def _flip_some(rgba_B4HW: Tensor, rng: torch.Generator) -> Tensor:
    flips = torch.rand(len(rgba_B4HW), generator=rng) < 0.5
    return torch.where(flips[:, None, None, None], rgba_B4HW.flip(3), rgba_B4HW)


def _passed(before: int, after: int, every: int) -> bool:
    return before // every != after // every
