"""Training of the base: it learns, resumes bit for bit, and its loss equals the formula."""

from dataclasses import replace

import pytest
import torch

from curation.domain import Split, TrainingRequest
from curation.errors import Refused
from training.data.splits import open_split
from training.denoiser.builtin import noise_schedule
from training.denoiser.denoising_stage import loss_weight
from training.denoiser.factory import load_denoiser
from training.denoiser.stage import VALIDATION_TIMESTEPS
from training.denoiser.train import encode_images, train_base, validation_loss
from training.presets.presets import PRESETS
from training.transparency.autoencoder import fit_autoencoder
from training.transparency.networks import Transparency
from training.transparency.padding import over_gray

MICRO = replace(PRESETS["micro"], sample_every_images=64, checkpoint_every_images=48)


@pytest.fixture
def parts(store, snapshot):
    """Return a fitted autoencoder, and transparency networks whose offsets are not zero."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    images = open_split(store, snapshot, Split.train, MICRO.image_size)
    rgba = images.load_batch(range(len(images)))
    networks = Transparency(MICRO).eval().requires_grad_(False)
    torch.nn.init.normal_(networks.encoder.blocks[-1].weight, std=0.1)
    return fit_autoencoder(MICRO, over_gray(rgba[:, :3], rgba[:, 3:])), networks


@pytest.fixture
def run(store, snapshot, parts):
    def train(folder, images=192, preset=MICRO, start=None, report=lambda progress: None, seed=0):
        request = TrainingRequest("base", "micro", snapshot, None, None, seed, images)
        return train_base(request, preset, store, folder, report, *parts, start)

    return train


def test_training_lowers_the_validation_loss(run, tmp_path, store, snapshot, parts):
    heldout = open_split(store, snapshot, Split.heldout, MICRO.image_size)
    losses = [
        validation_loss(run(tmp_path / str(images), images), MICRO, *parts, heldout)
        for images in (16, 1024)
    ]
    assert losses[1] < 0.8 * losses[0]


class StoppedError(Exception):
    """Raised by a progress callback to stop a run."""


def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(run, tmp_path):
    uninterrupted, _ = run(tmp_path / "uninterrupted")

    def stop_at(images):
        def report(progress):
            if progress.done >= images:
                raise StoppedError

        return report

    for images in (80, 160):  # between two saved states, twice
        with pytest.raises(StoppedError):
            run(tmp_path / "stopped", report=stop_at(images))
    resumed, _ = run(tmp_path / "stopped")
    assert uninterrupted.keys() == resumed.keys()
    assert all(torch.equal(uninterrupted[name], resumed[name]) for name in uninterrupted)


def test_a_finished_run_is_not_repeated(run, tmp_path):
    first, _ = run(tmp_path)
    seen = []
    again, _ = run(
        tmp_path,
        report=lambda progress: seen.append(progress) if progress.stage == "base" else None,
    )
    assert [progress.done for progress in seen] == [192]
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_another_seed_gives_other_weights(run, tmp_path):
    (first, _), (second, _) = run(tmp_path / "1", 32), run(tmp_path / "2", 32, seed=1)
    assert any(not torch.equal(first[name], second[name]) for name in first)


def test_training_continues_from_its_parent_and_keeps_its_normalization(
    run, tmp_path, store, snapshot, parts
):
    heldout = open_split(store, snapshot, Split.heldout, MICRO.image_size)
    parent = run(tmp_path / "parent", 512)
    child = run(tmp_path / "child", 16, start=parent)
    fresh = run(tmp_path / "fresh", 16)
    assert torch.equal(child[0]["centre"], parent[0]["centre"])
    assert torch.equal(child[0]["spread"], parent[0]["spread"])
    assert validation_loss(child, MICRO, *parts, heldout) < validation_loss(
        fresh, MICRO, *parts, heldout
    )


def test_a_parent_of_other_sizes_is_refused(run, tmp_path):
    parent = run(tmp_path / "parent", 16)
    with pytest.raises(Refused, match="does not fit"):
        run(tmp_path / "child", 16, preset=replace(MICRO, dit_width=96), start=parent)


def test_a_run_writes_sample_grids_states_and_a_log(run, tmp_path):
    run(tmp_path, 128)
    names = {path.name.split("-")[0] for path in (tmp_path / "base").iterdir()}
    assert {"sheet", "state", "log"} <= names
    assert (tmp_path / "base/sheet-000000000128.png").read_bytes().startswith(b"\x89PNG")
    assert len(list((tmp_path / "base").glob("state-*"))) == MICRO.keep_states


def test_training_uses_the_adjusted_latents(store, snapshot, parts, tmp_path):
    """In memory or on disk, the latents are mean + scale * std * offset of the
    requested images, in order.
    """
    from training.transparency.padding import pad_colors

    autoencoder, networks = parts
    images = open_split(store, snapshot, Split.train, MICRO.image_size)
    in_memory, on_disk = (
        encode_images(MICRO, images, autoencoder, networks.encoder, folder, lambda _: None).get(
            [3, 1, 3]
        )
        for folder in (None, tmp_path)
    )
    assert all(torch.equal(*pair) for pair in zip(in_memory, on_disk, strict=True))
    rgba = images.load_batch([3, 1, 3])
    alpha, padded = rgba[:, 3:], pad_colors(rgba)
    mean, std = autoencoder.encode(over_gray(padded, alpha))
    torch.testing.assert_close(
        in_memory[0], mean + MICRO.offset_scale * std * networks.encoder(alpha, padded)
    )
    torch.testing.assert_close(in_memory[1], std.expand_as(mean))
    assert not torch.allclose(in_memory[0], mean)


def test_the_validation_loss_is_the_same_twice(run, tmp_path, store, snapshot, parts):
    heldout = open_split(store, snapshot, Split.heldout, MICRO.image_size)
    base = run(tmp_path, 32)
    first = validation_loss(base, MICRO, *parts, heldout)
    assert validation_loss(base, MICRO, *parts, heldout) == first


def test_the_validation_loss_of_a_zero_output_is_the_power_of_v(
    run, tmp_path, store, snapshot, parts
):
    """v = sqrt(abar) noise - sqrt(1 - abar) x_0, so its mean square is abar + (1 - abar) E[x_0^2]."""
    heldout = open_split(store, snapshot, Split.heldout, MICRO.image_size)
    tensors, metadata = run(tmp_path, 16)
    zeroed = {
        name: torch.zeros_like(t) if "network.out." in name else t for name, t in tensors.items()
    }
    latents = encode_images(MICRO, heldout, parts[0], parts[1].encoder, None, lambda _: None)
    power = (
        load_denoiser(MICRO, tensors, metadata)
        .normalize(latents.get(range(len(heldout)))[0])
        .square()
        .mean()
    )
    levels = noise_schedule(MICRO).alphas_cumprod[list(VALIDATION_TIMESTEPS)]
    expected = float((levels + (1 - levels) * power).mean())
    assert validation_loss((zeroed, metadata), MICRO, *parts, heldout) == pytest.approx(
        expected, rel=0.05
    )


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_both_predictions_train_and_load(run, tmp_path, prediction):
    preset = replace(
        MICRO, prediction=prediction, zero_terminal_snr=prediction == "v_prediction", snr_gamma=5.0
    )
    tensors, metadata = run(tmp_path, 32, preset=preset)
    assert all(tensor.isfinite().all() for tensor in tensors.values())
    load_denoiser(preset, tensors, metadata)


def test_min_snr_weights_equal_the_formula():
    levels = noise_schedule(MICRO).alphas_cumprod[:-1]  # the last level is pure noise: snr 0
    snr = levels / (1 - levels)
    noise = loss_weight("epsilon", 5.0, levels)
    v = loss_weight("v_prediction", 5.0, levels)
    torch.testing.assert_close(noise, torch.minimum(snr, torch.tensor(5.0)) / snr)
    # The squared error of v is (1 + snr) times that of x_0, so its weight is divided by it.
    torch.testing.assert_close(v * (snr + 1), noise * snr)
    assert loss_weight("epsilon", 0.0, levels).eq(1).all()
