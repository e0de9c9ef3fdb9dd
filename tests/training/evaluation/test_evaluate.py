"""The figures of a checkpoint, on weights whose figures are known beforehand."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from curation.domain import Checkpoint, Split, TrainingRequest
from curation.errors import Refused
from curation.images.codec import BACKGROUNDS
from training.checkpoint import load_checkpoint
from training.data.splits import open_split
from training.evaluation.heldout import HIGHER_IS_BETTER, evaluate
from training.evaluation.round_trip import RoundTrip, round_trip, round_trip_metrics
from training.metrics.compositing import psnr
from training.presets.presets import PRESETS
from training.safetensors_io import part_metadata, save_part
from training.sample_grid import to_uint8_images
from training.transparency.autoencoder import LinearAutoencoder, fit_autoencoder
from training.transparency.codec import reconstruct
from training.transparency.networks import Transparency
from training.transparency.padding import over_gray

MICRO = PRESETS["micro"]


def untrained_checkpoint(store, snapshot, offset=0.0):
    """Return a micro checkpoint with a fitted autoencoder, a random decoder, and an offset that is the same everywhere."""
    rgba = open_split(store, snapshot, Split.train, MICRO.image_size).load_batch(range(24))
    autoencoder = fit_autoencoder(MICRO, over_gray(rgba[:, :3], rgba[:, 3:]))
    assert isinstance(autoencoder, LinearAutoencoder)
    torch.manual_seed(0)
    networks = Transparency(MICRO)
    torch.nn.init.constant_(networks.encoder.blocks[-1].bias, offset)
    torch.nn.init.normal_(
        networks.decoder.conv_out.weight, std=0.05
    )  # a fresh one says the same of every view
    order = TrainingRequest("transparency", "micro", snapshot, None, None, 0)
    files = {
        "backbone": save_part(
            store,
            "backbone",
            autoencoder.state_dict(),
            part_metadata("backbone", order, "1", **autoencoder.metadata()),
        ),
        "transparency": save_part(
            store, "transparency", networks.state_dict(), part_metadata("transparency", order, "1")
        ),
    }
    return Checkpoint(files, "transparency", "micro", snapshot, None, 0, "1"), autoencoder, networks


def test_psnr_and_alpha_errors_are_those_of_composites_made_by_hand(store, snapshot):
    checkpoint, autoencoder, networks = untrained_checkpoint(store, snapshot)
    reports = []
    metrics = evaluate(checkpoint, snapshot, store, reports.append)
    truth = open_split(store, snapshot, Split.heldout, MICRO.image_size).load_batch(range(6))
    again = reconstruct(autoencoder, networks, truth)
    psnr, ssim, sad, mse = [], [], [], []
    for one, other in zip(to_uint8_images(truth), to_uint8_images(again), strict=True):
        difference = one[..., 3] / 255.0 - other[..., 3] / 255.0
        sad.append(np.abs(difference).sum() / 1000)
        mse.append((difference**2).mean())
        for color in BACKGROUNDS.values():
            blends = _blend(one, color), _blend(other, color)
            psnr.append(peak_signal_noise_ratio(*blends, data_range=1))
            # The settings of Wang et al. (2004), which both libraries name as theirs.
            wang = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
            ssim.append(structural_similarity(*blends, channel_axis=2, data_range=1, **wang))
    assert metrics["psnr"] == pytest.approx(np.mean(psnr), rel=1e-4)
    assert metrics["ssim"] == pytest.approx(np.mean(ssim), rel=1e-3)
    assert metrics["alpha_sad"] == pytest.approx(np.mean(sad), rel=1e-4)
    assert metrics["alpha_mse"] == pytest.approx(np.mean(mse), rel=1e-4)
    assert (reports[-1].done, reports[-1].total) == (6, 6)
    assert set(metrics) <= set(HIGHER_IS_BETTER)


def _blend(rgba, color):
    alpha = rgba[..., 3:].astype(np.float64) / 255
    return rgba[..., :3] / 255 * alpha + np.array(color) / 255 * (1 - alpha)


def test_identity_harm_is_the_price_of_the_offset_in_decibels(store, snapshot):
    fresh, _, _ = untrained_checkpoint(store, snapshot)
    assert evaluate(fresh, snapshot, store, lambda _: None)["identity_harm_db"] == pytest.approx(
        0, abs=1e-6
    )
    harmful, _, _ = untrained_checkpoint(store, snapshot, offset=2.0)
    metrics = evaluate(harmful, snapshot, store, lambda _: None)
    assert metrics["identity_harm_db"] > 0.5
    without = evaluate(fresh, snapshot, store, lambda _: None)["identity_psnr"]
    assert without - metrics["identity_psnr"] == pytest.approx(
        metrics["identity_harm_db"], abs=1e-4
    )


def test_psnr_of_equal_pictures_is_finite():
    image = torch.rand(2, 3, 8, 8)
    assert torch.equal(psnr(image, image), torch.full((2,), 100.0))
    assert psnr(image * 0, image * 0 + 0.1)[0].item() == pytest.approx(20, abs=1e-4)


def test_a_checkpoint_without_transparency_is_refused(store, snapshot):
    checkpoint, _, _ = untrained_checkpoint(store, snapshot)
    bare = replace(checkpoint, files={"backbone": checkpoint.files["backbone"]})
    with pytest.raises(Refused, match="no part 'transparency'"):
        evaluate(bare, snapshot, store, lambda _: None)


def test_a_perfect_return_has_perfect_figures():
    rgba = torch.rand(2, 4, 32, 32)
    image, latent = rgba[:, :3], torch.zeros(2, 4, 4, 4)
    metrics = round_trip_metrics(
        RoundTrip(
            rgba,
            rgba,
            image,
            image,
            image,
            latent,
            latent,
            latent + 1,
            torch.ones_like(rgba[:, :1], dtype=torch.bool),
        )
    )
    assert {name: value.tolist() for name, value in metrics.items()} == {
        "psnr_inside": [100, 100],
        "alpha_sad": [0, 0],
        "alpha_mse": [0, 0],
        "identity_psnr": [100, 100],
        "identity_harm_db": [0, 0],
    }


@pytest.mark.parametrize("size", [(32, 32), (37, 50)])
def test_pictures_of_any_size_go_there_and_back(store, snapshot, size):
    checkpoint, autoencoder, _ = untrained_checkpoint(store, snapshot, offset=1.0)
    returned = round_trip(load_checkpoint(checkpoint, store), torch.rand(2, 4, *size))
    assert returned.reconstructed_B4HW.shape == returned.truth_B4HW.shape == (2, 4, *size)
    assert (
        returned.image_B3HW.shape
        == returned.plain_B3HW.shape
        == returned.adjusted_B3HW.shape
        == (2, 3, *size)
    )
    levels = returned.reconstructed_B4HW * 255
    assert torch.allclose(levels, levels.round(), atol=1e-4)
    torch.testing.assert_close(
        returned.adjusted_BCHW - returned.plain_BCHW,
        returned.std_BCHW * MICRO.offset_scale,
        atol=1e-4, rtol=1e-4,
    )  # fmt: skip
    assert returned.std_BCHW.shape[1] == autoencoder.latent_channels
