"""The optimisers by name: each learns, keeps what the loop needs, and is told of when it cannot be had."""

import sys

import pytest
import torch
from torch import nn

from curation.errors import NotFound, Refused
from training.course.optimisers import build_optimiser


@pytest.mark.parametrize("name", ["adamw", "adamw_fused", "adafactor"])
def test_it_goes_down(name):
    torch.manual_seed(0)
    network, data = nn.Linear(4, 4), torch.randn(32, 4)
    network.bias.requires_grad_(False)
    optimiser = build_optimiser(name, network.parameters(), 0.05, betas=(0.9, 0.99), clip=0.5)
    (group,) = optimiser.param_groups
    assert (len(group["params"]), group["initial_lr"], group["clip"]) == (1, 0.05, 0.5)
    losses = []
    for _ in range(60):
        loss = (network(data) - data).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]


def test_fused_is_the_same_optimiser():
    outcomes = []
    for name in ("adamw", "adamw_fused"):
        torch.manual_seed(0)
        network, data = nn.Linear(4, 4), torch.randn(32, 4)
        optimiser = build_optimiser(name, network.parameters(), 0.05)
        for _ in range(5):
            optimiser.zero_grad()
            (network(data) - data).square().mean().backward()
            optimiser.step()
        outcomes.append(network.weight.detach())
    torch.testing.assert_close(*outcomes, atol=1e-6, rtol=1e-5)


def test_an_unknown_name_is_told_with_the_known_ones():
    with pytest.raises(NotFound, match="no optimiser 'sgd'") as told:
        build_optimiser("sgd", nn.Linear(1, 1).parameters(), 0.1)
    assert "adamw_fused" in told.value.hint


def test_a_missing_library_is_told_with_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(Refused, match="adamw8bit needs the library bitsandbytes") as told:
        build_optimiser("adamw8bit", nn.Linear(1, 1).parameters(), 0.1)
    assert "pip install bitsandbytes" in told.value.hint


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="8-bit optimisers need a GPU, and there is none")
def test_eight_bits_go_down_and_are_saved():
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    from training.course.runs import State, pack, unpack

    torch.manual_seed(0)
    network, data = nn.Linear(128, 128).cuda(), torch.randn(64, 128).cuda()
    optimiser = build_optimiser("adamw8bit", network.parameters(), 0.01)

    def step():
        optimiser.zero_grad()
        loss = (network(data) - data).square().mean()
        loss.backward()
        optimiser.step()
        return loss.item()

    first = step()
    for _ in range(30):
        last = step()
    assert last < first
    parts = {"network": network, "optimiser": optimiser}
    state = State(8, *pack(parts))
    one = [step(), step()]
    unpack(parts, state)
    assert [step(), step()] == one
