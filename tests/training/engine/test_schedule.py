"""The schedule of a stage: warmup, plateau and cooldown of the learning rate, and the EMA."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from training.engine.schedule import EMA, lr_multiplier
from training.presets.presets import MICRO


def test_the_learning_rate_warms_up_and_cools_down_to_0():
    preset = replace(MICRO, warmup_images=100, cooldown=0.25)
    rates = [lr_multiplier(seen, 1_000, 10, preset) for seen in (0, 40, 90, 500, 750, 875, 1_000)]
    assert rates == pytest.approx([0.1, 0.5, 1.0, 1.0, 1.0, 0.5, 0.0])


def test_the_learning_rate_may_cool_down_by_half_a_cosine():
    preset = replace(MICRO, warmup_images=100, cooldown=1.0, decay="cosine")
    rates = [lr_multiplier(seen, 1_000, 10, preset) for seen in (0, 250, 500, 750, 1_000)]
    assert rates == pytest.approx([0.1, (1 + 2**-0.5) / 2, 0.5, (1 - 2**-0.5) / 2, 0.0])


def _networks():
    """Return a module with a trainable weight of 1 and a frozen one."""
    networks = torch.nn.Sequential(
        torch.nn.Linear(1, 1, bias=False), torch.nn.Linear(1, 1, bias=False)
    )
    networks[1].requires_grad_(False)
    for parameter in networks.parameters():
        torch.nn.init.zeros_(parameter)
    return networks


def test_the_ema_is_exponential_after_enough_images():
    networks = _networks()
    average = EMA(networks, 0.9)
    torch.nn.init.ones_(networks[0].weight)
    for _ in range(2):
        average.update(images_seen=10_000_000, global_batch_size=8)
    assert average.tensors["0.weight"].item() == pytest.approx(0.19)


def test_the_ema_forgets_the_initial_weights():
    networks = _networks()
    average = EMA(networks, 0.99)
    torch.nn.init.ones_(networks[0].weight)
    average.update(images_seen=0, global_batch_size=8)
    assert average.tensors["0.weight"].item() == pytest.approx(0.9875)  # 1 - (1 + 0) / (80 + 0)


def test_only_trainable_weights_are_averaged_and_applied():
    networks = _networks()
    average = EMA(networks, 0.9, on_cpu=True)
    assert list(average.tensors) == ["0.weight"]
    torch.nn.init.ones_(networks[0].weight)
    with average.applied():
        assert networks[0].weight.item() == 0
    assert (networks[0].weight.item(), average.tensors["0.weight"].item()) == (1, 0)


def test_a_decay_of_0_keeps_no_ema():
    networks = _networks()
    average = EMA(networks, 0.0)
    average.update(images_seen=8, global_batch_size=8)
    with average.applied():
        assert average.tensors == {}
        assert networks[0].weight.item() == 0
