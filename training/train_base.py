"""The training of the base model: a text-conditioned denoiser of adjusted latents, which draws transparent layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import AdamW, Optimizer

from curation.domain import Progress, Split, TrainingOrder
from curation.ports import ObjectStore, Report
from training.backbone import Backbone
from training.data import Pictures, draw_order, load_split
from training.denoiser import Denoiser, noise_schedule, open_denoiser
from training.generate import draw_layers
from training.pace import average, rate_at
from training.presets import Preset
from training.runs import RunFolder, generator_at, pack, unpack
from training.sheets import draw_sheet
from training.transparency import Transparency, adjust, pad_colours

STAGE = "base"
SHEET = 8  # captions on a sample sheet
VALIDATED = (99, 299, 499, 699, 899)  # noise levels at which the held-out loss is taken


def train_base(
    order: TrainingOrder,
    preset: Preset,
    store: ObjectStore,
    folder: Path,
    report: Report,
    backbone: Backbone,
    transparency: Transparency,
    start: Mapping[str, Tensor] | None,
) -> dict[str, Tensor]:
    """Train (section 3.2) on the snapshot's train split, from `start` or afresh; the averaged weights at the end.

    Run again with the same folder it goes on from the last saved state, and ends with the bits of a straight run.
    Pictures are not mirrored: letters and captions that say "left" would lie. Whatever `report` raises stops the
    training; what was saved stays. Raises Refused where `start` does not fit the preset.
    """
    pictures = load_split(store, order.snapshot, Split.train, preset.image_size, in_memory=preset.in_memory)
    draws = draw_order(store, pictures, order.previous, preset.new_weight, order.seed)
    total = order.images or preset.base_images
    latents = AdjustedLatents(pictures, preset, backbone, transparency)
    schedule = noise_schedule(preset)
    levels = schedule.alphas_cumprod

    torch.manual_seed(order.seed)
    if start is None:
        denoiser = Denoiser(preset)
        denoiser.measure(latents.take(draws.places(0, min(2048, len(pictures)))))
    else:  # with the parent's centre and spread, so that it goes on in the units it knows
        denoiser = open_denoiser(preset, start).train().requires_grad_(True)
    averaged = deepcopy(denoiser).eval().requires_grad_(False)
    optimiser = AdamW(denoiser.parameters(), lr=preset.base_lr, betas=(0.9, 0.99), weight_decay=0.01)
    parts: dict[str, nn.Module | Optimizer] = {"denoiser": denoiser, "averaged": averaged, "optimiser": optimiser}
    run = RunFolder(folder, STAGE)
    seen = 0
    if state := run.load():
        unpack(parts, state)
        seen = state.images
    report(Progress(STAGE, seen, total))

    with closing(run.log(seen)) as log:
        while seen < total:
            rng = generator_at(order.seed, STAGE, seen)
            places = draws.places(seen, min(preset.base_batch, total - seen))
            clean_BCHW = denoiser.normalise(latents.take(places))
            dropped_B = torch.rand(len(places), generator=rng) < preset.caption_dropout
            texts = ["" if drop else pictures.captions[place] for place, drop in zip(places, dropped_B, strict=True)]

            # x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) noise
            time_B = torch.randint(len(levels), (len(places),), generator=rng)
            noise_BCHW = torch.randn(clean_BCHW.shape, generator=rng)
            noisy_BCHW = schedule.add_noise(clean_BCHW, noise_BCHW, time_B)
            predicted_BCHW = denoiser(noisy_BCHW, time_B, texts)
            wanted_BCHW = _target(preset, schedule, clean_BCHW, noise_BCHW, time_B)
            error_B = (predicted_BCHW - wanted_BCHW).square().mean((1, 2, 3))
            loss = (loss_weight(preset, levels[time_B]) * error_B).mean()

            for group in optimiser.param_groups:
                group["lr"] = preset.base_lr * rate_at(seen, total, preset.base_batch, preset)
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            clip_grad_norm_(denoiser.parameters(), 1.0)
            optimiser.step()
            average(averaged, denoiser, preset.ema_decay, seen, preset.base_batch)

            before, seen = seen, seen + len(places)
            figures = {"denoising": float(loss.detach()), "error": float(error_B.detach().mean())}
            for name, value in figures.items():
                log.add_scalar(f"loss/{name}", value, seen)
            if before // preset.sheet_images != seen // preset.sheet_images or seen >= total:
                captions = _few_captions(pictures)
                layers = draw_layers(
                    averaged, backbone, transparency.decoder, preset, captions, list(range(len(captions)))
                )
                run.write_sheet(seen, draw_sheet([layers], [captions]))
            if before // preset.save_images != seen // preset.save_images or seen >= total:
                run.save(seen, *pack(parts))
            report(Progress(STAGE, seen, total, figures))
    return {name: tensor.detach().clone() for name, tensor in averaged.state_dict().items()}


class AdjustedLatents:
    """The adjusted latents of pictures, unscaled; kept in memory where the preset keeps the pictures there.

    The backbone and the offset encoder are frozen here, so a picture's latent never changes; only the noise does.
    """

    def __init__(
        self, pictures: Pictures, preset: Preset, backbone: Backbone, transparency: Transparency, batch: int = 64
    ) -> None:
        self.pictures, self.backbone, self.transparency = pictures, backbone, transparency
        self._kept: Tensor | None = None
        if preset.in_memory:
            starts = range(0, len(pictures), batch)
            self._kept = torch.cat([self._encode(range(s, min(s + batch, len(pictures)))) for s in starts])

    def take(self, places: Sequence[int]) -> Tensor:
        """The latents of these pictures, B x C x h x w."""
        return self._encode(places) if self._kept is None else self._kept[list(places)]

    @torch.no_grad()
    def _encode(self, places: Sequence[int]) -> Tensor:
        rgba_B4HW = self.pictures.take(places)
        return adjust(self.backbone, self.transparency.encoder, rgba_B4HW[:, 3:], pad_colours(rgba_B4HW))


@torch.no_grad()
def validation_loss(
    tensors: Mapping[str, Tensor],
    preset: Preset,
    backbone: Backbone,
    transparency: Transparency,
    pictures: Pictures,
) -> float:
    """The mean squared error of what the base predicts (noise, or v) on pictures it never saw; lower is better.

    At five fixed noise levels, unweighted, with the same noise for a picture every time, in normalised latents:
    figures of checkpoints of one lineage can be compared, since they share backbone, centre and spread.
    """
    denoiser = open_denoiser(preset, tensors)
    schedule = noise_schedule(preset)
    latents = AdjustedLatents(pictures, preset, backbone, transparency)
    errors = []
    for start in range(0, len(pictures), preset.base_batch):
        places = range(start, min(start + preset.base_batch, len(pictures)))
        clean_BCHW = denoiser.normalise(latents.take(places))
        texts = [pictures.captions[place] for place in places]
        for level in VALIDATED:
            time_B = torch.full((len(places),), level)
            # Each picture has noise of its own, whatever batch it stands in.
            noise_BCHW = torch.stack(
                [torch.randn(clean_BCHW.shape[1:], generator=generator_at(level, "validation", p)) for p in places]
            )
            predicted_BCHW = denoiser(schedule.add_noise(clean_BCHW, noise_BCHW, time_B), time_B, texts)
            wanted_BCHW = _target(preset, schedule, clean_BCHW, noise_BCHW, time_B)
            errors.append((predicted_BCHW - wanted_BCHW).square().mean((1, 2, 3)))
    return float(torch.cat(errors).double().mean())


def loss_weight(preset: Preset, level_B: Tensor) -> Tensor:
    """The weight of each example by its noise level abar: 1, or min-SNR (Hang et al., 2023, arXiv 2303.09556).

    With snr = abar / (1 - abar) and gamma: min(snr, gamma) / snr for noise, min(snr, gamma) / (snr + 1) for v.
    """
    if not preset.snr_gamma:
        return torch.ones_like(level_B)
    snr_B = level_B / (1 - level_B)
    least_B = snr_B.clamp(max=preset.snr_gamma)
    return least_B / (snr_B + 1) if preset.prediction == "v_prediction" else least_B / snr_B


def _target(preset: Preset, schedule: Any, clean_BCHW: Tensor, noise_BCHW: Tensor, time_B: Tensor) -> Tensor:
    """The noise itself, or v = sqrt(abar) noise - sqrt(1 - abar) x_0 (Salimans and Ho, 2022)."""
    if preset.prediction == "epsilon":
        return noise_BCHW
    velocity: Tensor = schedule.get_velocity(clean_BCHW, noise_BCHW, time_B)
    return velocity


def _few_captions(pictures: Pictures) -> list[str]:
    """The first different captions of the split, at most a sheet's row."""
    return list(dict.fromkeys(pictures.captions))[:SHEET]
