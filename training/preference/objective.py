"""What stages that learn from decisions share: verdicts of rows, the reference, the losses."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from training.denoiser.denoising_stage import DenoisingStage
from training.draw_batches import starting_noise
from training.engine.batch import Batch, TensorBundle
from training.engine.schedule import StageSchedule
from training.preference.labels import Label
from training.preference.losses import dpo_losses, implicit_reward, kto_losses
from training.preference.reference import Reference

REFERENCE_POINT_DECAY = 0.9
"""Decay per step of the running mean of rewards, the reference point of Diffusion-KTO."""


class DecisionStage(DenoisingStage):
    """Mixed into the stage of a part, it trains the part on decided candidates and real samples.

    An index of the sampler is a group of images that have their noise, timestep and dropped caption
    in common: one candidate or real sample, or two of a pair. The losses of decided candidates are
    divided by their slope at reward 0, so that at the beginning an accept weighs as much as a real
    sample, and a reject as much with the opposite sign; beta only sets how far from the reference
    the weight fades.
    """

    groups: Sequence[tuple[int, ...]]

    def learn_from(
        self,
        name: str,
        groups: Sequence[tuple[int, ...]],
        labels: Mapping[int, Label],
        reference: Reference[Any],
    ) -> None:
        """Set what the stage learns from, and the length and rate of its training.

        Args:
            name: Name of the stage.
            groups: The images of each index of the sampler.
            labels: The labels of decided candidates, by image.
            reference: The network as it was before the training.
        """
        preset = self.preset
        self.name, self.groups, self.labels, self.reference = name, groups, labels, reference
        self.learning_rate = preset.preference_lr
        self.schedule = StageSchedule(
            preset.preference_images, preset.preference_batch, preset.ema_decay
        )

    def make_batch(
        self, indices: Sequence[int], local: Sequence[int], rng: torch.Generator
    ) -> Batch:
        """Make the rows of the part's stage with the sign of each: 1, -1, or 0 for real samples.

        Args:
            indices: Indices of the global batch.
            local: Positions in `indices` that this process trains on.
            rng: The step's random number generator, equal in all processes.
        """
        count = len(indices)
        chosen = [self.groups[indices[row]] for row in local]
        places = [row for row, group in zip(local, chosen, strict=True) for _ in group]
        images = self.readable_indices([image for group in chosen for image in group])
        rows = dict(self.make_rows(images, places, count, rng))
        labels = [self.labels.get(image) for image in images]
        rows["sign"] = torch.tensor([sign_of(label) for label in labels])
        if self.preset.stored_noise:
            replayed = (torch.rand(count, generator=rng) < self.preset.stored_noise)[places]
            for row, label in enumerate(labels):
                if label is not None and replayed[row]:
                    replay_noise(rows["noise"][row], label)
        return join_rows(rows, len(images) // len(local))

    def rewards(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return reward and weighted error of each row."""
        with self.reference.applied() as reference:
            reference_error_B = self.errors(batch, reference)
        error_B = self.errors(batch, self.network)
        weight_B = self.level_weights(batch["time"])
        return implicit_reward(weight_B * error_B, weight_B * reference_error_B), weight_B * error_B

    def frozen_modules(self) -> Sequence[nn.Module]:
        """Return the frozen networks of the part's training, and a reference of its own."""
        return (*super().frozen_modules(), *self.reference.own_modules)


class KTOObjective(DecisionStage):
    """Diffusion-KTO on single accepts and rejects.

    The reference point is a running mean over the global batches of the steps before, and not the
    mean over the present micro-batch as in the released code: it depends on neither accumulation
    nor the number of processes.
    """

    reference_point: Tensor

    def learn_from(
        self,
        name: str,
        groups: Sequence[tuple[int, ...]],
        labels: Mapping[int, Label],
        reference: Reference[Any],
    ) -> None:
        """Set what the stage learns from, with a reference point of 0."""
        super().learn_from(name, groups, labels, reference)
        self.register_buffer("reference_point", torch.zeros(()))

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
        reward_B, error_B = self.rewards(batch)
        sign_B, beta = batch["sign"], self.preset.preference_beta
        kto_B = kto_losses(reward_B, sign_B > 0, beta, self.reference_point)
        loss = torch.where(sign_B == 0, error_B, kto_B * (4 / beta)).mean()
        real, decided = self.preset.real_share, 1 - self.preset.real_share
        accepts = decided * self.preset.desirable_share
        return loss, {
            "utility_loss": _mean_where(sign_B != 0, kto_B, decided),
            "denoising": _mean_where(sign_B == 0, error_B, real),
            "reward_accepts": _mean_where(sign_B > 0, reward_B, accepts),
            "reward_rejects": _mean_where(sign_B < 0, reward_B, decided - accepts),
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


class DPOObjective(DecisionStage):
    """Diffusion-DPO on pairs of an accept and a reject of one prompt; a row has two images.

    A row of real samples has two of them. Where an unreadable image was replaced, so that a row is
    no pair any more, its loss is 0.
    """

    def forward(self, batch: Batch, images_seen: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the mean over pairs and real samples of their losses.

        Args:
            batch: The micro-batch.
            images_seen: Not used.

        Returns:
            The loss; the metrics are means over the rows that they concern.
        """
        del images_seen
        reward_P2, error_P2 = (each.view(-1, 2) for each in self.rewards(split_rows(batch)))
        sign_P2, beta = batch["sign"], self.preset.preference_beta
        paired_P = (sign_P2[:, 0] > 0) & (sign_P2[:, 1] < 0)
        real_P = (sign_P2 == 0).all(1)
        gap_P = reward_P2[:, 0] - reward_P2[:, 1]
        dpo_P = dpo_losses(reward_P2[:, 0], reward_P2[:, 1], beta)
        loss_P = torch.where(paired_P, dpo_P * (2 / beta), real_P * error_P2.mean(1))
        decided = 1 - self.preset.real_share
        return loss_P.mean(), {
            "preference_loss": _mean_where(paired_P, dpo_P, decided),
            "denoising": _mean_where(real_P, error_P2.mean(1), self.preset.real_share),
            "reward_gap": _mean_where(paired_P, gap_P, decided),
            "ranked": _mean_where(paired_P, (gap_P > 0).float(), decided),
        }


def sign_of(label: Label | None) -> float:
    """Return 1 for an accepted candidate, -1 for a rejected one, 0 for a sample of the snapshot."""
    if label is None:
        return 0.0
    return 1.0 if label.desirable else -1.0


def replay_noise(noise: Tensor, label: Label) -> None:
    """Fill in the noise that a candidate was generated from, if it had the shape of its latent."""
    settings = label.record.generation
    if settings.get("noise") == "x".join(map(str, noise.shape)):
        dtype = getattr(torch, settings.get("noise_dtype", "float32"))
        noise.copy_(starting_noise(label.record.seed, noise.shape, dtype))


def join_rows(rows: Batch, size: int) -> Batch:
    """Join each `size` rows to one, so that a batch is not cut within a group; 1 changes nothing.

    Args:
        rows: Tensors, lists and bundles, with the image as their first axis.
        size: Images of a group.
    """
    if size == 1:
        return rows
    return {name: _joined(value, size) for name, value in rows.items()}


def split_rows(batch: Batch) -> Batch:
    """Return the rows of joined ones: inverts `join_rows`."""
    return {name: _split(value) for name, value in batch.items()}


def _joined(value: Any, size: int) -> Any:
    if isinstance(value, TensorBundle):
        return value.map(lambda _, tensor: tensor.view(-1, size, *tensor.shape[1:]))
    if isinstance(value, Tensor):
        return value.view(-1, size, *value.shape[1:])
    return [value[start : start + size] for start in range(0, len(value), size)]


def _split(value: Any) -> Any:
    if isinstance(value, TensorBundle):
        return value.map(lambda _, tensor: tensor.flatten(0, 1))
    if isinstance(value, Tensor):
        return value.flatten(0, 1)
    return [row for rows in value for row in rows]


def _mean_where(chosen_B: Tensor, values_B: Tensor, share: float) -> Tensor:
    """Return the mean over chosen rows, of which a batch has about this share.

    Metrics are averaged over micro-batches, which need not have such rows at all.
    """
    return (values_B.detach() * chosen_B).mean() / max(share, 1e-6)
