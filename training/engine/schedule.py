"""The learning rate schedule, and the exponential moving average of the weights."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from training.presets.preset import Preset


@dataclass(frozen=True)
class StageSchedule:
    """A stage's length in images, its micro-batch size per process, and the decay of its EMA."""

    images: int
    batch_size: int
    ema_decay: float


def lr_multiplier(
    images_seen: int, total_images: int, global_batch_size: int, preset: Preset
) -> float:
    """Return the factor of the full learning rate: a linear warmup, and a cooldown to 0.

    The cooldown is linear, or half a cosine (Loshchilov and Hutter, 2017, arXiv 1608.03983): with
    cooldown=1 the usual cosine schedule.

    Args:
        images_seen: Images seen before the step.
        total_images: Images of the whole stage.
        global_batch_size: Global batch size.
        preset: Has `warmup_images`, `cooldown` (a fraction of the stage) and `decay`.
    """
    warmup = (images_seen + global_batch_size) / max(1, preset.warmup_images)
    cooldown = (
        min(1.0, (total_images - images_seen) / (preset.cooldown * total_images))
        if preset.cooldown
        else 1.0
    )
    if preset.decay == "cosine":
        cooldown = 0.5 * (1 - math.cos(math.pi * cooldown))
    return min(1.0, warmup, cooldown)


class EMA:
    """The exponential moving average (EMA) of the trainable parameters of some networks.

    ema = d * ema + (1 - d) * weights, where d rises from 0.1 to `decay`, so that the untrained
    initial weights are soon forgotten. With a decay of 0 no copy is kept: the EMA is the weights
    themselves. With `on_cpu` the copy is on the CPU: no GPU memory, but a transfer in every step.
    """

    def __init__(self, module: nn.Module, decay: float, *, on_cpu: bool = False) -> None:
        """Copy the trainable parameters.

        Args:
            module: The networks, already on their device and sharded.
            decay: Decay per step, in [0, 1); 0 keeps no copy.
            on_cpu: Whether to keep the copy on the CPU.
        """
        trainable = (
            {name: p for name, p in module.named_parameters() if p.requires_grad} if decay else {}
        )
        self.decay = decay
        self._weights: list[Tensor] = [parameter.detach() for parameter in trainable.values()]
        self.tensors: dict[str, Tensor] = {
            name: parameter.detach().to("cpu" if on_cpu else parameter.device, copy=True)
            for name, parameter in trainable.items()
        }

    @torch.no_grad()
    def update(self, images_seen: int, global_batch_size: int) -> None:
        """Update the average after a step.

        Args:
            images_seen: Images seen before the step.
            global_batch_size: Images of the step.
        """
        if not self.tensors:
            return
        averages = list(self.tensors.values())
        weights = [
            weight.to(average.device)
            for weight, average in zip(self._weights, averages, strict=True)
        ]
        # One fused operation over all tensors.
        torch._foreach_lerp_(
            averages,
            weights,
            1 - min(self.decay, (1 + images_seen) / (10 * global_batch_size + images_seen)),
        )

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Use the averaged weights in the networks while the context is open."""
        self.swap()
        try:
            yield
        finally:
            self.swap()

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the averaged and the trained weights, in place."""
        for weight, average in zip(self._weights, self.tensors.values(), strict=True):
            trained = weight.clone()
            weight.copy_(average)
            average.copy_(trained)
