"""The pace of a run: how the learning rate rises and falls, and how weights are averaged along the way."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from training.presets.preset import Preset


@dataclass(frozen=True)
class LRSchedule:
    """How long a stage trains, on how many images at once in one process, and how slowly its average moves."""

    images: int
    batch: int
    decay: float


def rate_at(seen: int, total: int, batch: int, preset: Preset) -> float:
    """Return the share of the full learning rate: a short rise, and a fall to nothing over the last part.

    The fall is straight, or half a cosine from 1 to 0 (Loshchilov and Hutter, 2017, arXiv 1608.03983): with
    cooldown=1 the usual cosine schedule.
    """
    rise = (seen + batch) / max(1, preset.warmup_images)
    fall = min(1.0, (total - seen) / (preset.cooldown * total)) if preset.cooldown else 1.0
    if preset.decay == "cosine":
        fall = 0.5 * (1 - math.cos(math.pi * fall))
    return min(1.0, rise, fall)


class EMA:
    """The exponential moving average of what learns in some networks; frozen parameters are not copied.

    averaged = d * averaged + (1 - d) * weights, where d rises from 0.1 towards `decay`, so that the first weights,
    which know nothing, are soon forgotten. A decay of 0 keeps nothing: the average is the weights themselves. On the
    CPU (`apart`) it costs a GPU no memory, and every step the time to fetch the weights.
    """

    def __init__(self, networks: nn.Module, decay: float, *, apart: bool = False) -> None:
        learning = (
            {name: p for name, p in networks.named_parameters() if p.requires_grad} if decay else {}
        )
        self.decay = decay
        self._weights: list[Tensor] = [parameter.detach() for parameter in learning.values()]
        self.tensors: dict[str, Tensor] = {
            name: parameter.detach().to("cpu" if apart else parameter.device, copy=True)
            for name, parameter in learning.items()
        }

    @torch.no_grad()
    def move(self, seen: int, batch: int) -> None:
        """Take one step towards the weights, after `seen` images and a step of `batch`."""
        if not self.tensors:
            return
        means = list(self.tensors.values())
        weights = [
            weight.to(mean.device) for weight, mean in zip(self._weights, means, strict=True)
        ]
        torch._foreach_lerp_(means, weights, 1 - min(self.decay, (1 + seen) / (10 * batch + seen)))

    @contextmanager
    def applied(self) -> Iterator[None]:
        """For so long the networks have the averaged weights."""
        self.swap()
        try:
            yield
        finally:
            self.swap()

    @torch.no_grad()
    def swap(self) -> None:
        """Averaged weights for learning ones, and the other way round."""
        for weight, mean in zip(self._weights, self.tensors.values(), strict=True):
            learning = weight.clone()
            weight.copy_(mean)
            mean.copy_(learning)
