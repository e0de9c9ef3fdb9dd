"""The training stage of the base model: batches, denoising loss, validation and sample grids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from training.data.dataset import LayerDataset
from training.denoiser.cache import LatentCache, TextEmbeddingCache
from training.denoiser.denoiser import Denoiser
from training.denoiser.denoising_stage import DenoisingStage, denoising_target
from training.denoiser.sampling import generate_layers
from training.engine.batch import Batch
from training.engine.optimizers import build_optimizer
from training.engine.resume import seeded_generator
from training.engine.schedule import StageSchedule
from training.presets.preset import Preset
from training.pretrained.families import find_family
from training.sample_grid import render_grid
from training.transparency.autoencoder import Autoencoder
from training.transparency.networks import Transparency

GRID_CAPTIONS = 8  # captions in a sample grid
VALIDATION_TIMESTEPS = (99, 299, 499, 699, 899)  # timesteps of the validation loss


@dataclass(frozen=True)
class HeldoutBatch:
    """Held-out images for validation: their unscaled adjusted latents and captions."""

    latent_BCHW: Tensor
    captions: Sequence[str]


class DenoiserStage(DenoisingStage):
    """Trains a denoiser to predict noise, or v, from noisy latents and captions (section 3.2)."""

    name = "base"

    def __init__(
        self,
        preset: Preset,
        denoiser: Denoiser,
        images: LayerDataset,
        latents: LatentCache,
        texts: TextEmbeddingCache | None,
        autoencoder: Autoencoder,
        transparency: Transparency,
        heldout: HeldoutBatch | None = None,
    ) -> None:
        """Create the stage.

        Args:
            preset: The preset.
            denoiser: The denoiser to train.
            images: The training images.
            latents: Their adjusted latents.
            texts: Embeddings by a frozen text encoder; None if the text encoder is trained too.
            autoencoder: The autoencoder, for sample grids.
            transparency: Its decoder is used for sample grids.
            heldout: Images to validate on; None if nothing is held out.
        """
        super().__init__()
        self.heldout = heldout
        self.preset, self.denoiser, self.images = preset, denoiser, images
        self.latents, self.texts = latents, texts
        self.schedule = StageSchedule(preset.base_images, preset.base_batch, preset.ema_decay)
        self.learning_rate = preset.base_lr
        self.noise_schedule = denoiser.schedule()
        # In a tuple, so that frozen networks do not become submodules.
        self._frozen_networks = (autoencoder, transparency.decoder)

    def build_optimizers(self) -> dict[str, Optimizer]:
        """Build the preset's optimizer over the trained parameters of the denoiser."""
        parameters = self.denoiser.trainable_parameters()
        betas = (self.preset.beta1, self.preset.beta2)
        return {
            "optimiser": build_optimizer(
                self.preset.optimizer, parameters, self.learning_rate, betas=betas
            )
        }

    @property
    def network(self) -> Denoiser:
        """The denoiser."""
        return self.denoiser

    def readable_indices(self, images: Sequence[int]) -> list[int]:
        """Replace unreadable images by the next readable ones of their size. Raises Corrupt."""
        return self.images.readable_indices(images)

    def make_rows(
        self, images: Sequence[int], local: Sequence[int], count: int, rng: torch.Generator
    ) -> Batch:
        """Make latents, noise, timesteps and captions; some captions are dropped for guidance.

        Args:
            images: Indices of the images.
            local: The position of each in the global batch.
            count: Positions of the global batch.
            rng: The step's random number generator, equal in all processes.
        """
        preset = self.preset
        mean_BCHW, std_BCHW = self.latents.get(images)
        # Random numbers are drawn for the global batch, so that the order of draws is fixed.
        dropped = (torch.rand(count, generator=rng) < preset.caption_dropout)[local]
        time_B = torch.randint(len(self.noise_schedule.alphas_cumprod), (count,), generator=rng)[
            local
        ]
        noise_BCHW = torch.randn((count, *mean_BCHW.shape[1:]), generator=rng)[local]
        if preset.noise_offset:
            # Noise that is constant over a channel, so that brightness is trained too
            # (Guttenberg, 2023).
            equal_BC11 = torch.randn((count, mean_BCHW.shape[1], 1, 1), generator=rng)[local]
            noise_BCHW = noise_BCHW + preset.noise_offset * equal_BC11
        if preset.posterior_noise:
            # Sample the posterior instead of taking its mean.
            sample_BCHW = torch.randn((count, *mean_BCHW.shape[1:]), generator=rng)[local]
            mean_BCHW = mean_BCHW + std_BCHW * sample_BCHW
        captions = [
            "" if drop else self.images.caption_of(index)
            for index, drop in zip(images, dropped, strict=True)
        ]
        rows = {"latent": mean_BCHW, "noise": noise_BCHW, "time": time_B}
        if self.texts is None:
            return {**rows, "texts": captions}
        # Size conditioning is added here, since it belongs to the image and not to its text.
        sizes_B6 = (
            self.images.size_conditions(images)
            if find_family(str(self.preset.family)).sizes
            else None
        )
        return {**rows, "conditions": replace(self.texts.get(captions), sizes_B6=sizes_B6)}

    def errors(self, batch: Batch, network: Denoiser) -> Tensor:
        """Compute the squared error at x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) noise."""
        noise_BCHW, time_B = batch["noise"], batch["time"]
        # Diffuse the latents, and predict noise or v.
        clean_BCHW = network.normalize(batch["latent"])
        noisy_BCHW = self.noise_schedule.add_noise(clean_BCHW, noise_BCHW, time_B)
        conditions = (
            batch["conditions"] if "conditions" in batch else network.encode(batch["texts"])
        )
        predicted_BCHW = network.predict(noisy_BCHW, time_B, conditions)
        target_BCHW = denoising_target(self.noise_schedule, clean_BCHW, noise_BCHW, time_B)
        return (predicted_BCHW.float() - target_BCHW).square().mean((1, 2, 3))

    def validate(self) -> dict[str, float]:
        """Compute the mean squared error of the prediction on held-out images."""
        if self.heldout is None:
            return {}
        errors = denoising_errors(self.denoiser, self.heldout.latent_BCHW, self.heldout.captions)
        return {"noise_mse": float(errors.double().mean())}

    def render_sample_grid(self, batch: Batch) -> bytes:
        """Generate the held-out captions, or the first training captions, at fixed seeds."""
        del batch  # the grid is the same at every interval
        captions = list(
            dict.fromkeys(self.heldout.captions if self.heldout else self.images.captions)
        )[:GRID_CAPTIONS]
        seeds = list(range(len(captions)))
        layers = generate_layers(
            self.denoiser, *self._frozen_networks, self.preset, captions, seeds
        )
        return render_grid([layers], [captions])

    def core_modules(self) -> Sequence[nn.Module]:
        """Return the denoising network; a trained text encoder is small and takes no tensors."""
        return (getattr(self.denoiser, "unet" if self.texts is not None else "network"),)

    def frozen_modules(self) -> Sequence[nn.Module]:
        """Return the networks of sample grids and a pretrained model's text encoders."""
        return (*self._frozen_networks, *getattr(self.denoiser, "texts", ()))


def denoising_errors(
    denoiser: Denoiser, latent_BCHW: Tensor, captions: Sequence[str], first: int = 0
) -> Tensor:
    """Compute the squared errors of the prediction at the VALIDATION_TIMESTEPS: levels x B values.

    The noise of an image depends only on its number, `first` + its row, and not on its batch.

    Args:
        denoiser: The denoiser.
        latent_BCHW: Unscaled adjusted latents.
        captions: Their captions.
        first: Number of the first image.
    """
    schedule, errors = denoiser.schedule(), []
    clean_BCHW = denoiser.normalize(latent_BCHW)
    conditions = denoiser.encode(captions)
    numbers = range(first, first + len(captions))
    for level in VALIDATION_TIMESTEPS:
        # Seeded by timestep and image number.
        noise = [
            torch.randn(clean_BCHW.shape[1:], generator=seeded_generator(level, "validation", n))
            for n in numbers
        ]
        noise_BCHW = torch.stack(noise).to(clean_BCHW.device)
        time_B = torch.full((len(captions),), level, device=clean_BCHW.device)
        noisy_BCHW = schedule.add_noise(clean_BCHW, noise_BCHW, time_B)
        predicted_BCHW = denoiser.predict(noisy_BCHW, time_B, conditions)
        target_BCHW = denoising_target(schedule, clean_BCHW, noise_BCHW, time_B)
        errors.append((predicted_BCHW - target_BCHW).square().mean((1, 2, 3)))
    return torch.cat(errors)
