"""Memory estimates of trainings: computed without weights, and compared with measurements."""

import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from curation.domain import TrainingRequest
from curation.errors import NotFound, Refused
from tests.benchmarks.peak_memory import CASES, compare
from tests.training.pretrained import write_sdxl
from training.engine.memory_tracker import (
    StepMemory,
    estimate_inference,
    estimate_optimizer,
    estimate_step,
    track_memory,
)
from training.memory_estimate import GIB, _advise, _fullest, _trained, estimate
from training.presets.presets import find_preset
from training.pretrained.architectures import CONFIGS, build_part

MIB = 2**20
PARAMETERS = {
    ("sd15", "vae"): 83_653_863,
    ("sd15", "unet"): 859_520_964,
    ("sd15", "text_encoder"): 123_060_480,
    ("sd21", "unet"): 865_910_724,
    ("sd21", "text_encoder"): 340_387_840,
    ("sdxl", "unet"): 2_567_463_684,
    ("sdxl", "text_encoder_2"): 694_659_840,
    ("sd3", "vae"): 83_819_683,
}


def make_request(preset: str, recipe: str, **changes: object) -> TrainingRequest:
    return TrainingRequest(
        recipe,
        preset,
        "0" * 64,
        None,
        None,
        0,
        0,
        {name: str(value) for name, value in changes.items()},
    )


def memory_of(
    preset: str, stage: str, *, on_gpu: bool = False, **changes: object
) -> dict[str, int]:
    """Return the estimated memory of a training stage by kind."""
    return _trained(
        find_preset(preset, make_request(preset, stage, **changes).changes), stage, on_gpu=on_gpu
    )


@pytest.mark.parametrize(("family", "part"), PARAMETERS)
def test_the_original_models_have_the_parameters_that_are_known(family, part):
    with torch.device("meta"):
        network = build_part(
            find_preset("sdxl", {"family": family, "model": "nobody/has-this"}), part
        )
    assert sum(parameter.numel() for parameter in network.parameters()) == PARAMETERS[family, part]


def test_the_parts_of_every_family_are_known():
    from training.pretrained.families import FAMILIES

    for family in FAMILIES.values():
        wanted = {"vae", *family.text_encoders, *([family.denoiser] if family.denoiser else [])}
        assert set(CONFIGS[family.name]) == wanted


def test_a_model_in_a_folder_is_measured_by_its_config(tmp_path):
    folder = write_sdxl(tmp_path / "model", (32, 64))
    with torch.device("meta"):
        unet = build_part(find_preset("sdxl", {"model": str(folder)}), "unet")
    config = json.loads((folder / "unet" / "config.json").read_text())
    assert list(unet.config["block_out_channels"]) == config["block_out_channels"] == [32, 64]


def test_the_tracker_counts_each_storage_once_until_it_is_freed():
    with track_memory() as meter:
        first = torch.zeros(MIB, dtype=torch.uint8)
        view = first.view(1024, 1024)[:10]
        assert meter.now == MIB
        second = first + 1
        assert meter.now == 2 * MIB
        del first, second
        assert meter.now == MIB  # the view keeps it alive
        del view
        assert (meter.now, meter.peak) == (0, 2 * MIB)


def test_the_parts_of_a_step_are_counted_by_kind():
    def build():
        network = nn.Sequential(
            nn.Linear(256, 1024, bias=False), nn.ReLU(), nn.Linear(1024, 256, bias=False)
        )
        rows = torch.zeros(512, 256)
        return network, lambda: network(rows).square().sum()

    step = estimate_step(build, "fp32", on_gpu=False)
    assert step.trainable == 2 * 4 * 256 * 1024 == step.weights - 4 * 512 * 256
    # The hidden feature before and after the ReLU may be one; the output and its square are kept as well.
    assert 4 * 512 * (1024 + 256) <= step.activations <= 4 * 512 * (4 * 1024 + 4 * 256)
    assert step.gradients <= step.trainable
    half = estimate_step(build, "bf16", on_gpu=False)
    assert half.activations < step.activations


def test_inference_keeps_no_activations():
    def build():
        network = nn.Sequential(*[nn.Linear(512, 512, bias=False) for _ in range(8)])
        rows = torch.zeros(512, 512)
        return lambda: network(rows)

    assert estimate_inference(build).activations == 2 * MIB  # one layer's input and its output


def test_optimizer_states_are_counted():
    parameters = [
        nn.Parameter(torch.empty(300, 200)),
        nn.Parameter(torch.empty(300, 200)),
        nn.Parameter(torch.empty(7)),
    ]
    numbers = 2 * 300 * 200 + 7
    adamw, moment = estimate_optimizer("adamw", parameters, on_gpu=False)
    assert adamw == pytest.approx(8 * numbers, abs=64)
    assert 4 * 300 * 200 <= moment <= 3 * 4 * 300 * 200
    assert estimate_optimizer("adamw_fused", parameters, on_gpu=True)[1] <= 64
    assert estimate_optimizer("adamw", parameters, on_gpu=True)[1] == 4 * numbers
    assert estimate_optimizer("adafactor", parameters, on_gpu=False)[0] < adamw / 10
    assert estimate_optimizer("adamw8bit", parameters, on_gpu=True)[0] == pytest.approx(
        2 * numbers, rel=0.05
    )


def test_settings_change_the_estimate_as_expected():
    plain = memory_of("micro", "base")
    assert set(plain) == {"weights", "gradients", "optimizer", "average", "activations"}
    twice = memory_of("micro", "base", base_batch=32)
    assert twice["activations"] == pytest.approx(2 * plain["activations"], rel=0.2)
    assert twice["optimizer"] == plain["optimizer"] == pytest.approx(2 * plain["average"], rel=0.01)
    assert memory_of("micro", "base", ema_decay=0)["average"] == 0
    gathered = memory_of("micro", "base", accumulation=2)
    assert gathered["gradients"] > plain["gradients"]
    assert sum(gathered.values()) > sum(plain.values())


def test_a_pretrained_model_that_is_not_on_disk_is_estimated():
    changes = {"model": "nobody/has-this", "image_size": 64, "base_batch": 1}
    full = memory_of("sd15", "base", on_gpu=True, adapter_rank=0, **changes)
    numbers = PARAMETERS["sd15", "unet"]
    assert full["optimizer"] == pytest.approx(8 * numbers, rel=0.001)
    assert full["average"] == 4 * numbers
    assert full["weights"] > 4 * (
        numbers + PARAMETERS["sd15", "vae"] + PARAMETERS["sd15", "text_encoder"]
    )


def test_processes_hold_copies_or_shards():
    step = StepMemory(
        weights=1_000, trainable=800, gradients=100, activations=500, peak_activations=520
    )
    measured = {"state": 1_600, "moment": 0, "average": 800, "block": 80}
    alone = _fullest(find_preset("tiny"), step, **measured)
    assert alone == {
        "weights": 1_000,
        "gradients": 800,
        "optimizer": 1_600,
        "average": 800,
        "activations": 0,
    }
    busy = _fullest(
        find_preset("tiny"), replace(step, activations=900, peak_activations=950), **measured
    )
    assert (busy["gradients"], busy["activations"]) == (100, 900)
    copied = _fullest(find_preset("tiny", {"processes": "4"}), step, **measured)
    assert sum(copied.values()) == sum(alone.values()) + 800
    shared = _fullest(find_preset("tiny", {"processes": "4", "fsdp": "true"}), step, **measured)
    assert shared == {
        "weights": 200 + 200 + 160,
        "gradients": 200,
        "optimizer": 400,
        "average": 200,
        "activations": 0,
    }
    gathered = _fullest(
        find_preset("tiny", {"accumulation": "2"}),
        replace(step, activations=900, peak_activations=950),
        **measured,
    )
    assert (gathered["gradients"], gathered["activations"]) == (800, 950)


def test_gradient_checkpointing_saves_activations(tmp_path):
    folder = write_sdxl(tmp_path / "model", (32, 64))
    changes = {
        "model": folder,
        "image_size": 256,
        "base_batch": 4,
        "precision": "fp32",
        "adapter_rank": 0,
    }
    kept, again = (
        memory_of("sdxl", "base", gradient_checkpointing=again, **changes)
        for again in (False, True)
    )
    assert again["activations"] < kept["activations"] / 2
    halves = memory_of(
        "sdxl", "base", gradient_checkpointing=False, **(changes | {"precision": "bf16"})
    )
    assert halves["activations"] < kept["activations"]


def test_the_advice_names_a_gpu_and_a_setting():
    preset = find_preset("sdxl", {"gradient_checkpointing": "false"})
    needs = {
        "weights": 10 * GIB,
        "gradients": 0,
        "optimizer": 2 * GIB,
        "average": GIB,
        "activations": 40 * GIB,
    }
    assert (
        _advise(needs, preset, "base", on_gpu=True)
        == "fits a 80 GiB GPU; less with --set gradient_checkpointing=true"
    )
    assert _advise(needs, find_preset("sdxl"), "base", on_gpu=True).endswith(
        "--set base_batch=8 --set accumulation=2"
    )
    assert (
        _advise(needs | {"activations": 400 * GIB}, preset, "latents", on_gpu=True)
        == "needs 434 GiB, more than one GPU has"
    )
    assert _advise({"weights": GIB}, preset, "latents", on_gpu=True) == "fits a 8 GiB GPU"
    assert _advise({"weights": GIB}, preset, "latents", on_gpu=False).startswith(
        "needs 1.00 GiB of memory"
    )


def test_invalid_requests_are_refused():
    with pytest.raises(Refused, match="no recipe"):
        estimate(make_request("tiny", "nothing"), 0)
    with pytest.raises(NotFound):
        estimate(make_request("large", "base"), 0)
    with pytest.raises(Refused, match="does not support training a base"):
        estimate(make_request("sdxl", "base", family="sd3"), 0)


def test_stages_follow_the_recipe():
    rows = estimate(make_request("micro", "whole"), 1_000)
    assert [row.stage for row in rows] == ["transparency", "latents", "base", "sheets"]
    assert all(row.peak == sum(row.held.values()) > 0 for row in rows)
    if not torch.cuda.is_available():
        assert rows[0].held["images"] == 1_000 * 4 * 32 * 32
        assert {row.device for row in rows} == {"processor"}


def test_the_layers_stage_is_estimated():
    """Only adapters are trained; a pair needs about as much as two images of the base."""
    assert [row.stage for row in estimate(make_request("micro", "pairs"), 10)] == [
        *("transparency", "latents", "base", "layers", "sheets")
    ]
    assert [row.stage for row in estimate(make_request("micro", "layers"), 10)] == [
        "latents",
        "layers",
        "sheets",
    ]
    layers, base = (
        memory_of("micro", "layers", layers_batch=64),
        memory_of("micro", "base", base_batch=128),
    )
    assert layers["optimizer"] < base["optimizer"]
    assert layers["activations"] == pytest.approx(base["activations"], rel=0.5)
    with pytest.raises(Refused, match="does not support training a base"):
        estimate(make_request("sdxl", "layers", family="sd3"), 0)


def test_layers_of_a_pretrained_model_that_is_not_on_disk_are_estimated():
    changes = {"model": "nobody/has-this", "image_size": 64, "layers_batch": 1, "layer_rank": 256}
    needed = memory_of("sd15", "layers", on_gpu=True, **changes)
    # In half precision, with float32 adapters of two roles: the release has 175,098,496 parameters
    # less those that it adds to each attention for its attention between layers.
    adapters = (
        2
        * 256
        * sum(
            sum(layer.weight.shape)
            for name, layer in _attention_layers()
            if name.endswith(("to_q", "to_k", "to_v", "to_out.0"))
        )
    )
    assert needed["average"] == 4 * adapters
    assert needed["optimizer"] == pytest.approx(8 * adapters, rel=0.001)
    frozen = (
        2 * PARAMETERS["sd15", "unet"]
        + 2 * PARAMETERS["sd15", "text_encoder"]
        + 4 * PARAMETERS["sd15", "vae"]
    )
    transparency = 4 * (1_181_764 + 104_104_804)
    assert needed["weights"] == pytest.approx(frozen + 4 * adapters + transparency, rel=0.05)


def _attention_layers():
    with torch.device("meta"):
        unet = build_part(find_preset("sd15", {"model": "nobody/has-this"}), "unet")
    return [
        (name, layer)
        for name, layer in unet.named_modules()
        if ".attn" in name and isinstance(layer, nn.Linear)
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        case
        for case in CASES
        if case in {"tiny, base, batch 256", "tiny SDXL, all weights, batch 64"}
    ],
)
def test_the_estimate_is_within_15_percent_of_the_measurement(name):
    computed, measured = compare(name)
    assert computed == pytest.approx(measured, rel=0.15)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU to compare with")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_estimate_is_within_15_percent_of_the_memory_of_a_gpu(tmp_path, precision):
    from training.denoiser.denoiser import Conditions
    from training.denoiser.factory import new_denoiser
    from training.engine.optimizers import build_optimizer
    from training.transparency.autoencoder import fit_autoencoder
    from training.transparency.networks import Transparency

    folder = write_sdxl(tmp_path / "model", (128, 256))
    changes = {
        "model": folder,
        "adapter_rank": 0,
        "image_size": 512,
        "base_batch": 8,
        "precision": precision,
        "gradient_checkpointing": "false",
    }
    computed = memory_of("sdxl", "base", on_gpu=True, **changes)
    preset = find_preset("sdxl", {name: str(value) for name, value in changes.items()})
    frozen_networks = (
        fit_autoencoder(preset, torch.empty(0)).to("cuda"),
        Transparency(preset).to("cuda"),
    )  # that are never trained
    denoiser = new_denoiser(replace(preset, threads=0)).train().requires_grad_(True).to("cuda")
    optimizer = build_optimizer(preset.optimizer, denoiser.trainable_parameters(), 1e-5)
    conditions = Conditions(
        torch.zeros(8, 77, 64), pooled_BP=torch.zeros(8, 32), sizes_B6=torch.zeros(8, 6)
    ).to("cuda")
    for _ in range(2):
        torch.cuda.reset_peak_memory_stats()
        with torch.autocast("cuda", torch.bfloat16, enabled=precision == "bf16"):
            loss = denoiser.predict(
                torch.zeros(8, 4, 64, 64, device="cuda"),
                torch.zeros(8, dtype=torch.int64, device="cuda"),
                conditions,
            )
        torch.autograd.backward(loss.float().square().mean())
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    del frozen_networks
    assert sum(computed.values()) - computed["average"] == pytest.approx(
        torch.cuda.max_memory_allocated(), rel=0.15
    )
