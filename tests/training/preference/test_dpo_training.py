"""Training of the base from pairs of decisions: one noise for both images, and the loss in NumPy."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from curation.domain import TrainingRequest
from curation.errors import Refused
from tests.training.preference.conftest import freeze_decided, make_record
from training.denoiser.factory import new_denoiser
from training.engine.resume import seeded_generator
from training.preference.labels import pair_labels, read_labels
from training.preference.objective import join_rows, split_rows
from training.preference.train import DecisionTraining, train_base_from_decisions
from training.presets.presets import PRESETS
from training.recipes import choose_stages

MICRO = replace(
    PRESETS["micro"], preference_batch=8, checkpoint_every_images=24, preference_lr=1e-3
)


class StoppedError(Exception):
    """Raised by a progress callback to stop a run."""


@pytest.fixture
def run(store, decided, networks):
    torch.manual_seed(1)
    denoiser = new_denoiser(MICRO)
    denoiser.fit_scale(torch.randn(8, MICRO.latent_channels, 4, 4))
    base = denoiser.finetuned_state_dict(), denoiser.metadata()

    def train_it(folder, images=48, report=lambda progress: None, preset=MICRO):
        request = TrainingRequest("dpo", "micro", decided, None, None, 0, images)
        training = DecisionTraining("dpo", request, preset, store, folder, report, *networks)
        return train_base_from_decisions(training, base)[0]

    return train_it


@pytest.fixture
def stage(run, tmp_path, monkeypatch):
    caught = []
    monkeypatch.setattr(
        "training.preference.train.fit", lambda stage, context: caught.extend([stage, context])
    )
    run(tmp_path / "stage")
    return caught


def rows_of(stage):
    made, context = stage
    indices = context.sampler.indices(0, 8)
    return indices, made.make_batch(indices, range(8), seeded_generator(0, "dpo", 0))


def test_pairs_are_of_one_prompt_and_of_two_verdicts(store, decided):
    labels = read_labels(store, decided, "base", MICRO)
    records = {one.record.id: one.record for one in labels}
    pairs = pair_labels(labels)
    assert pairs
    for chosen, rejected, weight in pairs:
        assert records[chosen].prompt == records[rejected].prompt
        assert (records[chosen].verdict, records[rejected].verdict) == ("accept", "reject")
        assert weight == pytest.approx(0.81)


def test_both_images_of_a_pair_have_one_noise_timestep_and_caption(stage):
    indices, rows = rows_of(stage)
    assert rows["latent"].shape == (8, 2, 16, 4, 4)
    assert torch.equal(rows["noise"][:, 0], rows["noise"][:, 1])
    assert torch.equal(rows["time"][:, 0], rows["time"][:, 1])
    assert not torch.equal(rows["latent"][:, 0], rows["latent"][:, 1])
    for row, index in enumerate(indices):
        group = stage[0].groups[index]
        signs = rows["sign"][row].tolist()
        if signs == [1, -1]:
            assert len(set(rows["texts"][row])) == 1
            assert [image in stage[0].labels for image in group] == [True, True]
        else:
            assert signs == [0, 0]
    assert sorted(rows["sign"][:, 0].tolist()) == [0, 0, 1, 1, 1, 1, 1, 1]


def test_the_loss_of_a_batch_equals_numpy(stage):
    made, rows = stage[0], rows_of(stage)[1]
    torch.manual_seed(2)
    with torch.no_grad():
        for parameter in made.denoiser.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
        loss, metrics = made(rows, 0)
        flat = split_rows(rows)
        error = made.errors(flat, made.denoiser).double().numpy().reshape(-1, 2)
    with made.reference.applied() as reference:
        reference_error = made.errors(flat, reference).double().numpy().reshape(-1, 2)
    reward, beta = reference_error - error, MICRO.preference_beta
    dpo = np.log1p(np.exp(-beta * (reward[:, 0] - reward[:, 1]))) * 2 / beta
    expected = np.where(rows["sign"][:, 0].numpy() == 0, error.mean(1), dpo).mean()
    assert float(loss) == pytest.approx(expected, rel=1e-4)
    assert 0 <= float(metrics["ranked"]) <= 1


def test_a_pair_with_a_replaced_image_counts_nothing(stage):
    made, rows = stage[0], rows_of(stage)[1]
    rows["sign"][:] = torch.tensor([1.0, 1.0])
    loss, _ = made(rows, 0)
    assert float(loss.detach()) == 0


def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(run, tmp_path):
    def report(progress):
        if progress.stage == "dpo" and progress.done >= 32:
            raise StoppedError

    uninterrupted = run(tmp_path / "uninterrupted")
    with pytest.raises(StoppedError):
        run(tmp_path / "stopped", report=report)
    resumed = run(tmp_path / "stopped")
    assert all(torch.equal(uninterrupted[name], resumed[name]) for name in uninterrupted)


def test_accumulation_does_not_change_the_weights(run, tmp_path):
    slow = replace(MICRO, preference_lr=3e-4)
    whole = run(tmp_path / "whole", 32, preset=slow)
    parts = run(tmp_path / "parts", 32, preset=replace(slow, preference_batch=2, accumulation=4))
    assert max(float((whole[name] - parts[name]).abs().max()) for name in whole) < 3e-5


def test_rows_are_joined_and_split_again():
    rows = {"tensor": torch.arange(8).view(4, 2), "texts": ["a", "b", "c", "d"]}
    joined = join_rows(rows, 2)
    assert joined["texts"] == [["a", "b"], ["c", "d"]]
    split = split_rows(joined)
    assert torch.equal(split["tensor"], rows["tensor"])
    assert split["texts"] == rows["texts"]


def test_decisions_on_different_prompts_are_refused_for_dpo_alone(store):
    records = [make_record(n, prompt=f"prompt {n}") for n in range(6)]
    snapshot = freeze_decided(store, records)
    request = TrainingRequest("dpo", "micro", snapshot, None, None, 0)
    with pytest.raises(Refused, match="no prompt has an accepted and a rejected"):
        choose_stages(request, MICRO, store)
    assert choose_stages(replace(request, recipe="kto"), MICRO, store) == ["kto"]
