"""Optimizers by name: each minimizes, resumes, and needs its library or is refused."""

import json
import sys

import pytest
import torch
from torch import nn

from curation.errors import NotFound, Refused
from training.engine.optimizers import build_optimizer
from training.engine.resume import TrainingState, load_state_dict, state_dict


@pytest.mark.parametrize("name", ["adamw", "adamw_fused", "adafactor"])
def test_every_optimizer_reduces_the_loss(name):
    torch.manual_seed(0)
    network, data = nn.Linear(4, 4), torch.randn(32, 4)
    network.bias.requires_grad_(False)
    optimizer = build_optimizer(
        name, network.parameters(), 0.05, betas=(0.9, 0.99), max_grad_norm=0.5
    )
    (group,) = optimizer.param_groups
    assert (len(group["params"]), group["initial_lr"], group["clip"]) == (1, 0.05, 0.5)
    losses = []
    for _ in range(60):
        loss = (network(data) - data).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]


def test_fused_adamw_equals_adamw():
    outcomes = []
    for name in ("adamw", "adamw_fused"):
        torch.manual_seed(0)
        network, data = nn.Linear(4, 4), torch.randn(32, 4)
        optimizer = build_optimizer(name, network.parameters(), 0.05)
        for _ in range(5):
            optimizer.zero_grad()
            (network(data) - data).square().mean().backward()
            optimizer.step()
        outcomes.append(network.weight.detach())
    torch.testing.assert_close(*outcomes, atol=1e-6, rtol=1e-5)


def test_an_unknown_optimizer_is_refused_with_the_known_ones():
    with pytest.raises(NotFound, match="no optimizer 'sgd'") as error:
        build_optimizer("sgd", nn.Linear(1, 1).parameters(), 0.1)
    assert "adamw_fused" in error.value.hint


def test_a_missing_library_is_refused_with_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(Refused, match="adamw8bit needs the library bitsandbytes") as error:
        build_optimizer("adamw8bit", nn.Linear(1, 1).parameters(), 0.1)
    assert "pip install bitsandbytes" in error.value.hint


def test_lion_and_prodigy_name_the_library_that_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorch_optimizer", None)
    for name in ("lion", "prodigy"):
        with pytest.raises(Refused, match="pytorch-optimizer") as refused:
            build_optimizer(name, nn.Linear(1, 1).parameters(), 0.1)
        assert "pip install pytorch-optimizer" in refused.value.hint


@pytest.mark.gpu
@pytest.mark.skipif(
    not torch.cuda.is_available(), reason="8-bit optimisers need a GPU, and there is none"
)
def test_adamw8bit_reduces_the_loss_and_is_saved():
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    from training.engine.resume import TrainingState, load_state_dict, state_dict

    torch.manual_seed(0)
    network, data = nn.Linear(128, 128).cuda(), torch.randn(64, 128).cuda()
    optimizer = build_optimizer("adamw8bit", network.parameters(), 0.01)

    def step():
        optimizer.zero_grad()
        loss = (network(data) - data).square().mean()
        loss.backward()
        optimizer.step()
        return loss.item()

    first = step()
    for _ in range(30):
        last = step()
    assert last < first
    parts = {"network": network, "optimiser": optimizer}
    state = TrainingState(8, *state_dict(parts))
    one = [step(), step()]
    load_state_dict(parts, state)
    assert [step(), step()] == one


@pytest.mark.parametrize("name", ["adamw", "adafactor", "lion", "prodigy"])
def test_an_optimizer_resumes_from_a_saved_state_bit_for_bit(name):
    x_ND = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
    wanted_N1 = x_ND.sum(1, keepdim=True)

    def begin():
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(4, 8), nn.SiLU(), nn.Linear(8, 1))
        return network, build_optimizer(
            name, network.parameters(), {"prodigy": 1.0, "adafactor": 0.1}.get(name, 1e-2)
        )

    def steps(network, optimizer, count):
        losses = []
        for _ in range(count):
            optimizer.zero_grad()
            loss = (network(x_ND) - wanted_N1).square().mean()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return losses

    uninterrupted = steps(*begin(), 40)
    assert uninterrupted[-1] < uninterrupted[0] / 2
    network, optimizer = begin()
    steps(network, optimizer, 20)
    tensors, metadata = state_dict({"network": network, "optimiser": optimizer})
    resumed = dict(zip(("network", "optimiser"), begin(), strict=True))
    load_state_dict(resumed, TrainingState(0, tensors, json.loads(json.dumps(metadata))))
    assert steps(*resumed.values(), 20) == uninterrupted[20:]
