"""What training stages of denoising have in common: rows, errors, and weights of noise levels."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from training.engine.batch import Batch
from training.engine.trainer import TrainingStage
from training.presets.preset import Preset


class DenoisingStage(TrainingStage):
    """A stage that learns to predict noise, or v, from noisy latents."""

    preset: Preset
    learning_rate: float
    noise_schedule: Any

    @property
    @abstractmethod
    def network(self) -> nn.Module:
        """The network to train, as `errors` takes it."""

    @abstractmethod
    def readable_indices(self, images: Sequence[int]) -> list[int]:
        """Replace unreadable images by others of the same shape. Raises Corrupt."""

    @abstractmethod
    def make_rows(
        self, images: Sequence[int], local: Sequence[int], count: int, rng: torch.Generator
    ) -> Batch:
        """Make the rows of some readable images.

        Args:
            images: Indices of the images.
            local: The position of each in the global batch; images of one position have the same
                noise, timestep and dropped caption.
            count: Positions of the global batch.
            rng: The step's random number generator, equal in all processes.
        """

    @abstractmethod
    def errors(self, batch: Batch, network: Any) -> Tensor:
        """Compute the mean squared error of each row of a batch by a network."""

    def make_batch(
        self, indices: Sequence[int], local: Sequence[int], rng: torch.Generator
    ) -> Batch:
        """Make the rows of the images of a step that this process trains on.

        Args:
            indices: Indices of the images of the global batch.
            local: Positions in `indices` that this process trains on.
            rng: The step's random number generator, equal in all processes.
        """
        images = self.readable_indices([indices[row] for row in local])
        return self.make_rows(images, local, len(indices), rng)

    def forward(self, batch: Batch, images_seen: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the mean over rows of their errors.

        Args:
            batch: The micro-batch.
            images_seen: Not used.

        Returns:
            The weighted loss; the metrics are the same loss and the unweighted error.
        """
        del images_seen
        error_B = self.errors(batch, self.network)
        loss = (self.level_weights(batch["time"]) * error_B).mean()
        return loss, {"denoising": loss, "error": error_B.mean()}

    def level_weights(self, time_B: Tensor) -> Tensor:
        """Return the loss weight of each timestep."""
        return loss_weight(
            self.noise_schedule.config.prediction_type,
            self.preset.snr_gamma,
            self.noise_schedule.alphas_cumprod[time_B],
        )


def loss_weight(prediction: str, snr_gamma: float, level_B: Tensor) -> Tensor:
    """Return the loss weight by noise level: 1, or min-SNR (Hang et al., 2023, arXiv 2303.09556).

    With snr = abar / (1 - abar) and gamma the weight is min(snr, gamma) / snr for noise, and
    min(snr, gamma) / (snr + 1) for v.

    Args:
        prediction: The schedule's prediction type, "epsilon" or "v_prediction".
        snr_gamma: gamma; 0 turns weighting off.
        level_B: abar of each example, in [0, 1].
    """
    if not snr_gamma:
        return torch.ones_like(level_B)
    snr_B = level_B / (1 - level_B)
    clamped_B = snr_B.clamp(max=snr_gamma)
    return clamped_B / (snr_B + 1) if prediction == "v_prediction" else clamped_B / snr_B


def denoising_target(
    schedule: Any, clean_BCHW: Tensor, noise_BCHW: Tensor, time_B: Tensor
) -> Tensor:
    """Return the noise, or v = sqrt(abar) noise - sqrt(1 - abar) x_0 (Salimans and Ho, 2022).

    Args:
        schedule: A diffusers scheduler; its prediction type decides.
        clean_BCHW: x_0, normalized latents.
        noise_BCHW: The noise.
        time_B: Timesteps.
    """
    if schedule.config.prediction_type == "epsilon":
        return noise_BCHW
    velocity: Tensor = schedule.get_velocity(clean_BCHW, noise_BCHW, time_B)
    return velocity
