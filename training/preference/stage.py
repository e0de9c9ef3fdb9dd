"""The stage that trains the base on decided candidates, their reference and real samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from training.data.dataset import LayerDataset
from training.denoiser.denoiser import Denoiser
from training.denoiser.stage import DenoiserStage
from training.draw_batches import starting_noise
from training.engine.batch import Batch
from training.engine.schedule import StageSchedule
from training.preference.labels import Label
from training.preference.losses import implicit_reward, kto_losses
from training.preference.reference import Reference
from training.presets.preset import Preset

REFERENCE_POINT_DECAY = 0.9
"""Decay per step of the running mean of rewards, the reference point of Diffusion-KTO."""


class KTOStage(DenoiserStage):
    """Trains the base by Diffusion-KTO on single accepts and rejects.

    A share of every batch is plain denoising of the snapshot's samples. The loss of a decided
    candidate is divided by its slope at reward 0, beta / 4, so that at the beginning an accept
    weighs as much as a real sample, and a reject as much with the opposite sign; beta only sets how
    far from the reference the weight fades.

    The reference point is a running mean over the global batches of the steps before, and not the
    mean over the present micro-batch as in the released code: it depends on neither accumulation
    nor the number of processes.
    """

    def __init__(
        self,
        preset: Preset,
        denoiser: Denoiser,
        images: LayerDataset,
        *networks: Any,
        labels: Mapping[int, Label],
        reference: Reference[Denoiser],
        **options: Any,
    ) -> None:
        """Create the stage.

        Args:
            preset: The preset.
            denoiser: The denoiser to train.
            images: The snapshot's samples and the decided candidates.
            networks: As for `DenoiserStage`.
            labels: The labels of decided candidates, by index in `images`.
            reference: The denoiser as it was before the training.
            options: As for `DenoiserStage`.
        """
        super().__init__(preset, denoiser, images, *networks, **options)
        self.name = "kto"
        self.labels, self.reference = dict(labels), reference
        self.learning_rate = preset.preference_lr
        self.schedule = StageSchedule(
            preset.preference_images, preset.preference_batch, preset.ema_decay
        )
        self.register_buffer("reference_point", torch.zeros(()))
        self.reference_point: Tensor

    def make_batch(
        self, indices: Sequence[int], local: Sequence[int], rng: torch.Generator
    ) -> Batch:
        """Make the rows of `DenoiserStage` with the sign of each: 1, -1, or 0 for real samples.

        Args:
            indices: Indices of the global batch.
            local: Positions in `indices` that this process trains on.
            rng: The step's random number generator, equal in all processes.
        """
        images = self.images.readable_indices([indices[row] for row in local])
        rows = dict(self.make_rows(images, local, len(indices), rng))
        labels = [self.labels.get(index) for index in images]
        rows["sign"] = torch.tensor([sign_of(label) for label in labels])
        if self.preset.stored_noise:
            replayed = (torch.rand(len(indices), generator=rng) < self.preset.stored_noise)[local]
            for row, label in enumerate(labels):
                if label is not None and replayed[row]:
                    replay_noise(rows["noise"][row], label)
        return rows

    def forward(self, batch: Batch, images_seen: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the mean over candidates and real samples of their losses.

        Args:
            batch: The micro-batch.
            images_seen: Not used.

        Returns:
            The loss. Of the metrics, `reward` and `decided` are sums over decided candidates per
            row; the others are means over the rows that they concern.
        """
        del images_seen
        with self.reference.applied() as reference:
            reference_error_B = self.errors(batch, reference)
        error_B = self.errors(batch, self.denoiser)
        weight_B, sign_B = self.level_weights(batch["time"]), batch["sign"]
        reward_B = implicit_reward(weight_B * error_B, weight_B * reference_error_B)
        beta = self.preset.preference_beta
        kto_B = kto_losses(reward_B, sign_B > 0, beta, self.reference_point)
        loss = torch.where(sign_B == 0, weight_B * error_B, kto_B * (4 / beta)).mean()
        return loss, {
            "utility_loss": _mean_where(sign_B != 0, kto_B, 1 - self.preset.real_share),
            "denoising": _mean_where(sign_B == 0, weight_B * error_B, self.preset.real_share),
            "reward_accepts": _mean_where(
                sign_B > 0, reward_B, self._share(self.preset.desirable_share)
            ),
            "reward_rejects": _mean_where(
                sign_B < 0, reward_B, self._share(1 - self.preset.desirable_share)
            ),
            "reward": _mean_where(sign_B != 0, reward_B, 1),
            "decided": (sign_B != 0).float().mean(),
        }

    @torch.no_grad()
    def end_step(
        self, metrics: Mapping[str, Tensor], all_reduce: Callable[[Tensor], Tensor]
    ) -> None:
        """Move the reference point towards the mean reward of the step's decided candidates."""
        sums = all_reduce(torch.stack([metrics["reward"], metrics["decided"]]))
        mean = sums[0] / sums[1].clamp_min(1e-6)
        moved = torch.lerp(mean, self.reference_point, REFERENCE_POINT_DECAY)
        self.reference_point.copy_(torch.where(sums[1] > 0, moved, self.reference_point))

    def frozen_modules(self) -> Sequence[nn.Module]:
        """Return the frozen networks of the base's training, and a reference of its own."""
        return (*super().frozen_modules(), *self.reference.own_modules)

    def _share(self, share: float) -> float:
        """Return a share of the decided candidates as a share of all rows."""
        return share * (1 - self.preset.real_share)


def sign_of(label: Label | None) -> float:
    """Return 1 for an accepted candidate, -1 for a rejected one, 0 for a sample of the snapshot."""
    if label is None:
        return 0.0
    return 1.0 if label.desirable else -1.0


def replay_noise(noise_CHW: Tensor, label: Label) -> None:
    """Fill in the noise that a candidate was generated from, if it had the shape of its latent."""
    settings = label.record.generation
    if settings.get("noise") == "x".join(map(str, noise_CHW.shape)):
        dtype = getattr(torch, settings.get("noise_dtype", "float32"))
        noise_CHW.copy_(starting_noise(label.record.seed, noise_CHW.shape, dtype))


def _mean_where(chosen_B: Tensor, values_B: Tensor, share: float) -> Tensor:
    """Return the mean over chosen rows, of which a batch has about this share.

    Metrics are averaged over micro-batches, which need not have such rows at all.
    """
    return (values_B.detach() * chosen_B).mean() / max(share, 1e-6)
