"""The pace of a run: rise, plateau and fall of the rate, and an average that soon forgets its beginning."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from training.pace import average, rate_at
from training.presets import MICRO


def test_the_rate_rises_stands_and_falls_to_nothing():
    preset = replace(MICRO, warmup_images=100, cooldown=0.25)
    rates = [rate_at(seen, 1_000, 10, preset) for seen in (0, 40, 90, 500, 750, 875, 1_000)]
    assert rates == pytest.approx([0.1, 0.5, 1.0, 1.0, 1.0, 0.5, 0.0])


def test_the_average_is_exponential_once_it_has_seen_enough():
    mean, weights = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
    torch.nn.init.zeros_(mean.weight)
    torch.nn.init.ones_(weights.weight)
    for _ in range(2):
        average(mean, weights, 0.9, seen=10_000_000, batch=8)
    assert mean.weight.item() == pytest.approx(0.19)


def test_the_first_weights_are_forgotten():
    mean, weights = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
    torch.nn.init.zeros_(mean.weight)
    torch.nn.init.ones_(weights.weight)
    average(mean, weights, 0.99, seen=0, batch=8)
    assert mean.weight.item() > 0.98
