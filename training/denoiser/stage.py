"""The recipe of the base model: what is predicted from a noisy latent, how it is weighed, and what a step looks at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from training.data.dataset import LayerDataset
from training.denoiser.cache import ConditionsCache, LatentCache
from training.denoiser.denoiser import Denoiser
from training.denoiser.sampling import draw_layers
from training.engine.batch import Rows
from training.engine.optimizers import build_optimiser
from training.engine.resume import generator_at
from training.engine.schedule import LRSchedule
from training.engine.trainer import TrainingStage
from training.presets.preset import Preset
from training.pretrained.families import find_family
from training.sample_grid import draw_sheet
from training.transparency.autoencoder import Autoencoder
from training.transparency.networks import Transparency

SHEET = 8  # captions on a sample sheet
VALIDATED = (99, 299, 499, 699, 899)  # noise levels at which the held-out loss is taken


@dataclass(frozen=True)
class Heldout:
    """Held-out images that a training is validated on: adjusted latents, unscaled, and their captions."""

    latent_BCHW: Tensor
    captions: Sequence[str]


class DenoiserStage(TrainingStage):
    """To predict what was added to a latent, or v, under its picture's caption (section 3.2)."""

    stage = "base"

    def __init__(
        self,
        preset: Preset,
        denoiser: Denoiser,
        pictures: LayerDataset,
        latents: LatentCache,
        texts: ConditionsCache | None,
        backbone: Autoencoder,
        transparency: Transparency,
        heldout: Heldout | None = None,
    ) -> None:
        """texts: those of a frozen text encoder; None where the denoiser's own learns along."""
        super().__init__()
        self.heldout = heldout
        self.preset, self.denoiser, self.pictures, self.latents, self.texts = (
            preset,
            denoiser,
            pictures,
            latents,
            texts,
        )
        self.pace = LRSchedule(preset.base_images, preset.base_batch, preset.ema_decay)
        self.schedule = denoiser.schedule()
        self._beside = (
            backbone,
            transparency.decoder,
        )  # in a tuple: networks that never learn are none of its parts

    def build_optimisers(self) -> dict[str, Optimizer]:
        """AdamW with the weight decay that transformers want."""
        parameters = self.denoiser.trainable_parameters()
        betas = (self.preset.beta1, self.preset.beta2)
        return {
            "optimiser": build_optimiser(
                self.preset.optimiser, parameters, self.preset.base_lr, betas=betas
            )
        }

    def lay_out(self, places: Sequence[int], mine: Sequence[int], rng: torch.Generator) -> Rows:
        """Latents, noise, times, and captions, of which a share is dropped for classifier-free guidance."""
        preset, count = self.preset, len(places)
        chosen = self.pictures.sound([places[row] for row in mine])
        mean_BCHW, std_BCHW = self.latents.take(chosen)
        dropped = (torch.rand(count, generator=rng) < preset.caption_dropout)[mine]
        time_B = torch.randint(len(self.schedule.alphas_cumprod), (count,), generator=rng)[mine]
        noise_BCHW = torch.randn((count, *mean_BCHW.shape[1:]), generator=rng)[mine]
        if preset.noise_offset:
            # Equal over a channel's pixels, so that brightness is learnt too (Guttenberg, 2023, offset noise).
            equal_BC11 = torch.randn((count, mean_BCHW.shape[1], 1, 1), generator=rng)[mine]
            noise_BCHW = noise_BCHW + preset.noise_offset * equal_BC11
        if preset.posterior_noise:
            mean_BCHW = (
                mean_BCHW
                + std_BCHW * torch.randn((count, *mean_BCHW.shape[1:]), generator=rng)[mine]
            )
        captions = [
            "" if drop else self.pictures.caption_of(p)
            for p, drop in zip(chosen, dropped, strict=True)
        ]
        rows = {"latent": mean_BCHW, "noise": noise_BCHW, "time": time_B}
        if self.texts is None:
            return {**rows, "texts": captions}
        sizes_B6 = (
            self.pictures.sizes(chosen) if find_family(str(self.preset.family)).sizes else None
        )
        return {**rows, "conditions": replace(self.texts.take(captions), sizes_B6=sizes_B6)}

    def forward(self, rows: Rows, seen: int) -> tuple[Tensor, dict[str, Tensor]]:
        """x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) noise, and the squared error of what is predicted from it."""
        del seen
        noise_BCHW, time_B = rows["noise"], rows["time"]
        clean_BCHW = self.denoiser.normalise(rows["latent"])
        noisy_BCHW = self.schedule.add_noise(clean_BCHW, noise_BCHW, time_B)
        conditions = (
            rows["conditions"] if "conditions" in rows else self.denoiser.encode(rows["texts"])
        )
        predicted_BCHW = self.denoiser.predict(noisy_BCHW, time_B, conditions)
        wanted_BCHW = denoising_target(self.schedule, clean_BCHW, noise_BCHW, time_B)
        error_B = (predicted_BCHW.float() - wanted_BCHW).square().mean((1, 2, 3))
        level_B = self.schedule.alphas_cumprod[time_B]
        weight_B = loss_weight(self.schedule.config.prediction_type, self.preset.snr_gamma, level_B)
        loss = (weight_B * error_B).mean()
        return loss, {"denoising": loss, "error": error_B.mean()}

    def validate(self) -> dict[str, float]:
        """Measure the mean squared error of what is predicted of the held-out images."""
        if self.heldout is None:
            return {}
        errors = denoising_errors(self.denoiser, self.heldout.latent_BCHW, self.heldout.captions)
        return {"noise_mse": float(errors.double().mean())}

    def draw_sheet(self, rows: Rows) -> bytes:
        """Draw the captions of the held-out images, or the first of the training without any, at fixed seeds."""
        del rows
        captions = list(
            dict.fromkeys(self.heldout.captions if self.heldout else self.pictures.captions)
        )[:SHEET]
        seeds = list(range(len(captions)))
        layers = draw_layers(self.denoiser, *self._beside, self.preset, captions, seeds)
        return draw_sheet([layers], [captions])

    def cores(self) -> Sequence[nn.Module]:
        """The network that denoises; a text encoder that learns along is small, and its words are no tensors."""
        return (getattr(self.denoiser, "unet" if self.texts is not None else "network"),)

    def frozen(self) -> Sequence[nn.Module]:
        """The backbone and the decoder that sheets are drawn with, and a pretrained model's text encoders."""
        return (*self._beside, *getattr(self.denoiser, "texts", ()))


def loss_weight(prediction: str, snr_gamma: float, level_B: Tensor) -> Tensor:
    """The weight of each example by its noise level abar: 1, or min-SNR (Hang et al., 2023, arXiv 2303.09556).

    With snr = abar / (1 - abar) and gamma: min(snr, gamma) / snr for noise, min(snr, gamma) / (snr + 1) for v.
    """
    if not snr_gamma:
        return torch.ones_like(level_B)
    snr_B = level_B / (1 - level_B)
    least_B = snr_B.clamp(max=snr_gamma)
    return least_B / (snr_B + 1) if prediction == "v_prediction" else least_B / snr_B


def denoising_errors(
    denoiser: Denoiser, latent_BCHW: Tensor, captions: Sequence[str], first: int = 0
) -> Tensor:
    """Return the squared errors of what is predicted at the VALIDATED noise levels: levels x B values.

    An image has the same noise every time, whatever batch it stands in: that of its number, `first` + its row.
    """
    schedule, errors = denoiser.schedule(), []
    clean_BCHW = denoiser.normalise(latent_BCHW)
    conditions = denoiser.encode(captions)
    numbers = range(first, first + len(captions))
    for level in VALIDATED:
        noise = [
            torch.randn(clean_BCHW.shape[1:], generator=generator_at(level, "validation", n))
            for n in numbers
        ]
        noise_BCHW = torch.stack(noise).to(clean_BCHW.device)
        time_B = torch.full((len(captions),), level, device=clean_BCHW.device)
        noisy_BCHW = schedule.add_noise(clean_BCHW, noise_BCHW, time_B)
        predicted_BCHW = denoiser.predict(noisy_BCHW, time_B, conditions)
        wanted_BCHW = denoising_target(schedule, clean_BCHW, noise_BCHW, time_B)
        errors.append((predicted_BCHW - wanted_BCHW).square().mean((1, 2, 3)))
    return torch.cat(errors)


def denoising_target(
    schedule: Any, clean_BCHW: Tensor, noise_BCHW: Tensor, time_B: Tensor
) -> Tensor:
    """The noise itself, or v = sqrt(abar) noise - sqrt(1 - abar) x_0 (Salimans and Ho, 2022), as the schedule says."""
    if schedule.config.prediction_type == "epsilon":
        return noise_BCHW
    velocity: Tensor = schedule.get_velocity(clean_BCHW, noise_BCHW, time_B)
    return velocity
