"""The pace of a run: how the learning rate rises and falls, and how weights are averaged along the way."""

from __future__ import annotations

import torch
from torch import nn

from training.presets import Preset


def rate_at(seen: int, total: int, batch: int, preset: Preset) -> float:
    """The share of the full learning rate: a short rise, and a straight fall to nothing over the last part."""
    rise = (seen + batch) / preset.warmup_images
    fall = (total - seen) / (preset.cooldown * total) if preset.cooldown else 1.0
    return min(1.0, rise, fall)


@torch.no_grad()
def average(averaged: nn.Module, networks: nn.Module, decay: float, seen: int, batch: int) -> None:
    """Move an exponential moving average one step: averaged = d * averaged + (1 - d) * networks.

    d rises from 0.1 towards `decay`, so that the first weights, which know nothing, are soon forgotten.
    """
    ramped = min(decay, (1 + seen) / (10 * batch + seen))
    for mean, weight in zip(averaged.parameters(), networks.parameters(), strict=True):
        mean.lerp_(weight, 1 - ramped)
