"""Training of layer adapters from decided pairs, with the adapters before it as the reference."""

from dataclasses import replace

import pytest
import torch

from curation.domain import TrainingRequest
from curation.errors import Refused
from training.denoiser.factory import new_denoiser
from training.engine.resume import seeded_generator
from training.layers.model import new_layered_denoiser
from training.preference.train import DecisionTraining, train_layers_from_decisions
from training.presets.presets import PRESETS
from training.safetensors_io import load_part
from training.train import train

MICRO = replace(
    PRESETS["micro"], preference_batch=8, checkpoint_every_images=16, preference_lr=1e-3
)
NOT_TRAINED = {"latents", "evaluate", "pairs"}
BOTH = pytest.mark.parametrize("name", ["layers-kto", "layers-dpo"])


class StoppedError(Exception):
    """Raised by a progress callback to stop a run."""


@pytest.fixture
def run(store, decided_pairs, networks):
    torch.manual_seed(1)
    denoiser = new_denoiser(MICRO)
    denoiser.fit_scale(torch.randn(8, MICRO.latent_channels, 4, 4))
    base = denoiser.finetuned_state_dict(), denoiser.metadata()
    layered = new_layered_denoiser(MICRO, denoiser)
    for parameter in layered.adapters.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    adapters = (
        {name: tensor.clone() for name, tensor in layered.finetuned_state_dict().items()},
        layered.metadata(),
    )

    def train_it(name, folder, images=32, report=lambda progress: None, preset=MICRO):
        request = TrainingRequest(name, "micro", decided_pairs, None, None, 0, images)
        training = DecisionTraining(name, request, preset, store, folder, report, *networks)
        return train_layers_from_decisions(training, base, adapters)[0]

    train_it.adapters = adapters[0]
    return train_it


@pytest.fixture
def make_stage(run, tmp_path, monkeypatch):
    def make(name, **changes):
        caught = []
        monkeypatch.setattr("training.preference.train.fit", lambda *both: caught.extend(both))
        run(name, tmp_path / "stage", preset=replace(MICRO, **changes))
        return caught

    return make


@BOTH
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(run, tmp_path, name):
    def report(progress):
        if progress.stage == name and progress.done >= 24:
            raise StoppedError

    uninterrupted = run(name, tmp_path / "uninterrupted")
    with pytest.raises(StoppedError):
        run(name, tmp_path / "stopped", report=report)
    resumed = run(name, tmp_path / "stopped")
    assert all(torch.equal(uninterrupted[key], resumed[key]) for key in uninterrupted)
    assert any(not torch.equal(resumed[key], run.adapters[key]) for key in resumed)


@BOTH
def test_the_reference_is_the_adapters_before_the_training(run, make_stage, name):
    made, context = make_stage(name)
    rows = made.make_batch(context.sampler.indices(0, 8), range(8), seeded_generator(0, name, 0))
    with torch.no_grad():
        for parameter in made.layered.adapters.parameters():
            parameter.add_(0.1)
    made(rows, 0)[0].backward()
    with made.reference.applied() as reference:
        kept = {key: t.clone() for key, t in reference.finetuned_state_dict().items()}
    assert all(torch.equal(kept[key], run.adapters[key]) for key in kept)
    assert all(p.grad is not None for p in made.layered.adapters.parameters())
    assert all(p.grad is None for p in made.layered.denoiser.network.parameters()
               if not p.requires_grad)  # fmt: skip
    assert made.reference.own_modules == ()


def test_pairs_replay_the_noise_of_all_their_layers(make_stage):
    from training.draw_batches import starting_noise

    made, context = make_stage("layers-kto", stored_noise=1.0, real_share=0.0)
    indices = context.sampler.indices(0, 8)
    rows = made.make_batch(indices, range(8), seeded_generator(0, "layers-kto", 0))
    for row, index in enumerate(indices):
        seed = made.labels[index].record.seed
        assert torch.equal(rows["noise"][row], starting_noise(seed, (2, 16, 4, 4)))


def test_fsdp_is_refused(run, tmp_path):
    with pytest.raises(Refused, match="fsdp=true"):
        run("layers-kto", tmp_path, preset=replace(MICRO, fsdp=True))


def test_the_recipe_of_pairs_learns_from_decisions_after_its_layers(store, decided_pairs, tmp_path):
    request = TrainingRequest("pairs-kto", "micro", decided_pairs, None, None, 1, 16)
    stages = []
    made = train(request, store, tmp_path / "run", lambda progress: stages.append(progress.stage))
    trained = [stage for stage in dict.fromkeys(stages) if stage not in NOT_TRAINED]
    assert trained == ["backbone", "transparency", "base", "layers", "layers-kto", "sheet"]
    metadata = load_part(store, made.files["layers"])[1]
    assert metadata["base"] == made.files["base"]
    child = train(
        replace(request, recipe="layers-dpo", parent=made), store, tmp_path / "dpo", lambda _: None
    )
    assert {part for part in child.files if child.files[part] != made.files[part]} == {"layers"}
