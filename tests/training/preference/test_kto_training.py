"""Training of the base from decisions: it learns, resumes bit for bit, and its loss is the formula."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from curation.domain import TrainingRequest
from curation.errors import NotFound, Refused
from training.data.order import order_hash
from training.denoiser.factory import load_denoiser, new_denoiser
from training.draw_batches import starting_noise
from training.engine.resume import seeded_generator
from training.preference.stages import KTOStage
from training.preference.train import DecisionTraining, train_base_from_decisions
from training.presets.presets import PRESETS
from training.safetensors_io import load_part
from training.train import train

MICRO = replace(
    PRESETS["micro"], sample_every_images=64, checkpoint_every_images=48, preference_lr=1e-3
)


@pytest.fixture
def base(networks):
    """Return the tensors and metadata of an untrained base."""
    torch.manual_seed(1)
    denoiser = new_denoiser(MICRO)
    denoiser.fit_scale(torch.randn(8, MICRO.latent_channels, 4, 4))
    tensors = {name: tensor.clone() for name, tensor in denoiser.finetuned_state_dict().items()}
    return tensors, denoiser.metadata()


@pytest.fixture
def run(store, decided, networks, base):
    def train_it(folder, images=96, preset=MICRO, report=lambda progress: None, snapshot=decided):
        request = TrainingRequest("kto", "micro", snapshot, None, None, 0, images)
        training = DecisionTraining("kto", request, preset, store, folder, report, *networks)
        return train_base_from_decisions(training, base)[0]

    return train_it


def largest_difference(first, second):
    assert first.keys() == second.keys()
    return max(
        float((tensor.double() - second[name].double()).abs().max())
        for name, tensor in first.items()
    )


class StoppedError(Exception):
    """Raised by a progress callback to stop a run."""


def stop_at(images):
    def report(progress):
        if progress.stage == "kto" and progress.done >= images:
            raise StoppedError

    return report


@pytest.fixture
def stage(run, tmp_path, monkeypatch):
    """Return the stage of a run as it begins, with the sampler of the run."""
    caught = []

    def catch(stage, context):
        caught.extend([stage, context])

    monkeypatch.setattr("training.preference.train.fit", catch)

    def make(preset=MICRO):
        caught.clear()
        run(tmp_path / "stage", preset=preset)
        return caught

    return make


def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(run, tmp_path):
    uninterrupted = run(tmp_path / "uninterrupted")
    for images in (40, 80):  # between two saved states, twice
        with pytest.raises(StoppedError):
            run(tmp_path / "stopped", report=stop_at(images))
    assert largest_difference(uninterrupted, run(tmp_path / "stopped")) == 0


@pytest.mark.parametrize(
    "change", [{"in_memory": False}, {"stored_noise": 0.5}, {"precision": "bf16"}], ids=str
)
def test_other_settings_resume_bit_for_bit(run, tmp_path, change):
    preset = replace(MICRO, **change)
    uninterrupted = run(tmp_path / "uninterrupted", preset=preset)
    with pytest.raises(StoppedError):
        run(tmp_path / "stopped", preset=preset, report=stop_at(64))
    assert largest_difference(uninterrupted, run(tmp_path / "stopped", preset=preset)) == 0


def test_accumulation_does_not_change_the_weights(run, tmp_path):
    slow = {"preference_lr": 3e-4}
    whole = run(tmp_path / "whole", 64, replace(MICRO, preference_batch=16, **slow))
    parts = run(tmp_path / "parts", 64, replace(MICRO, preference_batch=4, accumulation=4, **slow))
    assert largest_difference(whole, parts) < 3e-5


def test_the_loss_of_a_batch_equals_numpy(stage):
    made, context = stage()
    rows = made.make_batch(context.sampler.indices(0, 16), range(16), seeded_generator(0, "kto", 0))
    torch.manual_seed(2)
    with torch.no_grad():
        for parameter in made.denoiser.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    made.reference_point.fill_(1e-3)
    with torch.no_grad():
        loss, metrics = made(rows, 0)
    with made.reference.applied() as reference:
        reference_error = made.errors(rows, reference).double().numpy()
    with torch.no_grad():
        error = made.errors(rows, made.denoiser).double().numpy()
    sign = rows["sign"].numpy()
    beta = MICRO.preference_beta
    utility = 1 / (1 + np.exp(-sign * beta * (reference_error - error - 1e-3)))
    expected = np.where(sign == 0, error, (1 - utility) * 4 / beta).mean()
    assert float(loss) == pytest.approx(expected, rel=1e-4)
    assert sorted(sign) == [-1] * 6 + [0] * 4 + [1] * 6
    assert float(metrics["decided"]) == 0.75


def test_the_reference_gets_no_gradient_and_does_not_change(stage, base):
    made, context = stage()
    rows = made.make_batch(context.sampler.indices(0, 16), range(16), seeded_generator(0, "kto", 0))
    made(rows, 0)[0].backward()
    assert all(parameter.grad is not None for parameter in made.denoiser.parameters())
    (reference,) = made.reference.own_modules
    assert all(p.grad is None and not p.requires_grad for p in reference.parameters())
    assert largest_difference(reference.finetuned_state_dict(), base[0]) == 0
    assert not any("reference." in name for name, _ in made.named_parameters())


def test_at_the_beginning_rewards_are_zero_and_the_reference_point_follows_the_mean(stage):
    made, context = stage()
    rows = made.make_batch(context.sampler.indices(0, 16), range(16), seeded_generator(0, "kto", 0))
    metrics = made(rows, 0)[1]
    assert float(metrics["reward"]) == 0
    made.end_step({"reward": torch.tensor(0.03), "decided": torch.tensor(0.75)}, lambda t: t)
    assert float(made.reference_point) == pytest.approx(0.1 * 0.04)
    made.end_step({"reward": torch.tensor(0.0), "decided": torch.tensor(0.0)}, lambda t: t)
    assert float(made.reference_point) == pytest.approx(0.1 * 0.04)


def test_candidates_of_stored_noise_are_trained_at_the_noise_they_began_with(stage):
    made, context = stage(replace(MICRO, stored_noise=1.0))
    indices = context.sampler.indices(0, 16)
    rows = made.make_batch(indices, range(16), seeded_generator(0, "kto", 0))
    plain = replace(MICRO, stored_noise=0.0)
    made.preset = plain
    fresh = made.make_batch(indices, range(16), seeded_generator(0, "kto", 0))
    for row, index in enumerate(indices):
        label = made.labels.get(index)
        expected = (
            fresh["noise"][row]
            if label is None
            else starting_noise(label.record.seed, rows["noise"][row].shape)
        )
        assert torch.equal(rows["noise"][row], expected)


def test_a_candidate_of_another_size_keeps_fresh_noise(stage):
    made, context = stage(replace(MICRO, stored_noise=1.0))
    for label in made.labels.values():
        label.record.generation["noise"] = "16x8x8"
    indices = context.sampler.indices(0, 16)
    rows = made.make_batch(indices, range(16), seeded_generator(0, "kto", 0))
    made.preset = MICRO
    fresh = made.make_batch(indices, range(16), seeded_generator(0, "kto", 0))
    assert torch.equal(rows["noise"], fresh["noise"])


def test_training_raises_rewards_of_accepts_over_those_of_rejects(run, tmp_path):
    metrics = []

    def report(progress):
        if progress.stage == "kto" and progress.metrics:
            metrics.append(progress.metrics)

    run(tmp_path, 1_024, replace(MICRO, preference_beta=100.0), report)
    gaps = [one["reward_accepts"] - one["reward_rejects"] for one in metrics]
    assert np.mean(gaps[-16:]) > 0.01
    assert metrics[0]["utility_loss"] == pytest.approx(0.5, abs=1e-3)
    assert np.mean([one["utility_loss"] for one in metrics[-16:]]) < 0.45


def test_a_share_of_real_samples_of_zero_trains_on_decisions_alone(stage):
    made, context = stage(replace(MICRO, real_share=0.0))
    assert set(context.sampler.indices(0, 64)) <= set(made.labels)


def test_the_recipe_continues_a_parent_and_records_its_order(store, decided, tmp_path):
    changes = {"preference_images": "32"}
    whole = TrainingRequest("whole", "micro", decided, None, None, 1, 32, changes)
    parent = train(whole, store, tmp_path / "whole", lambda _: None)
    request = TrainingRequest("kto", "micro", decided, decided, parent, 1, 32, changes)
    stages = []
    child = train(request, store, tmp_path / "kto", lambda progress: stages.append(progress.stage))
    assert list(dict.fromkeys(stages)) == ["latents", "kto", "evaluate", "sheet"]
    assert {part for part in child.files if child.files[part] != parent.files[part]} == {"base"}
    tensors, metadata = load_part(store, child.files["base"])
    assert metadata["order"] == order_hash("kto", request, PRESETS["micro"])
    assert metadata["reference"] == parent.files["base"]
    load_denoiser(PRESETS["micro"], tensors, metadata)
    again = train(request, store, tmp_path / "again", lambda _: None)
    assert again.id == child.id


def test_the_whole_recipe_learns_from_decisions_after_its_base(store, decided, tmp_path):
    request = TrainingRequest("whole-kto", "micro", decided, None, None, 1, 32)
    stages = []
    made = train(request, store, tmp_path / "run", lambda progress: stages.append(progress.stage))
    assert list(dict.fromkeys(stages)) == [
        *("backbone", "transparency", "latents", "base", "kto", "evaluate", "sheet")
    ]
    plain = train(replace(request, recipe="whole"), store, tmp_path / "plain", lambda _: None)
    metadata = load_part(store, made.files["base"])[1]
    reference, base = (
        load_part(store, name)[0] for name in (metadata["reference"], plain.files["base"])
    )
    assert largest_difference(reference, base) == 0


def test_without_decisions_the_whole_recipe_leaves_the_stage_out_and_kto_is_refused(
    store, snapshot, tmp_path, caplog
):
    request = TrainingRequest("whole-kto", "micro", snapshot, None, None, 1, 32)
    with caplog.at_level("WARNING", "layerloop.training"):
        made = train(request, store, tmp_path / "run", lambda _: None)
    assert "stage kto is left out" in caplog.text
    with pytest.raises(Refused, match="0 accepted and 0 rejected") as error:
        train(replace(request, recipe="kto", parent=made), store, tmp_path / "kto", lambda _: None)
    assert "--with-rejects" in error.value.hint
    with pytest.raises(Refused, match="needs the part 'transparency' of a parent"):
        train(replace(request, recipe="kto"), store, tmp_path / "alone", lambda _: None)


def test_an_unreadable_candidate_is_left_out_with_its_label(stage, store, monkeypatch):
    made, _ = stage()
    lost = made.images.sha256_of(min(made.labels) + 4)
    expected = [made.labels[index].record.id for index in sorted(made.labels)]
    del expected[4]
    get = type(store).get

    def fail(self, sha256):
        if sha256 == lost:
            raise NotFound(f"no object {sha256}")
        return get(self, sha256)

    monkeypatch.setattr(type(store), "get", fail)
    made, _ = stage()
    assert [made.labels[index].record.id for index in sorted(made.labels)] == expected
    assert all(made.images.samples[i].id == label.record.id for i, label in made.labels.items())


def test_the_stage_is_named_as_its_folder(stage):
    made, _ = stage()
    assert isinstance(made, KTOStage)
    assert made.name == "kto"
