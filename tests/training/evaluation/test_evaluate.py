"""Metrics of a checkpoint, on weights whose metrics are known."""

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
    """Return a micro checkpoint with a fitted autoencoder, a random decoder, a uniform offset."""
    rgba = open_split(store, snapshot, Split.train, MICRO.image_size).load_batch(range(24))
    autoencoder = fit_autoencoder(MICRO, over_gray(rgba[:, :3], rgba[:, 3:]))
    assert isinstance(autoencoder, LinearAutoencoder)
    torch.manual_seed(0)
    networks = Transparency(MICRO)
    torch.nn.init.constant_(networks.encoder.blocks[-1].bias, offset)
    torch.nn.init.normal_(
        networks.decoder.conv_out.weight, std=0.05
    )  # a new decoder gives the same output for every view
    request = TrainingRequest("transparency", "micro", snapshot, None, None, 0)
    files = {
        "backbone": save_part(
            store,
            "backbone",
            autoencoder.state_dict(),
            part_metadata("backbone", request, "1", **autoencoder.metadata()),
        ),
        "transparency": save_part(
            store,
            "transparency",
            networks.state_dict(),
            part_metadata("transparency", request, "1"),
        ),
    }
    return Checkpoint(files, "transparency", "micro", snapshot, None, 0, "1"), autoencoder, networks


def test_metrics_equal_those_of_scikit_image(store, snapshot):
    checkpoint, autoencoder, networks = untrained_checkpoint(store, snapshot)
    reports = []
    metrics = evaluate(checkpoint, snapshot, store, reports.append)
    truth = open_split(store, snapshot, Split.heldout, MICRO.image_size).load_batch(range(6))
    reconstructed = reconstruct(autoencoder, networks, truth)
    psnr, ssim, sad, mse = [], [], [], []
    for original, decoded in zip(
        to_uint8_images(truth), to_uint8_images(reconstructed), strict=True
    ):
        difference = original[..., 3] / 255.0 - decoded[..., 3] / 255.0
        sad.append(np.abs(difference).sum() / 1000)
        mse.append((difference**2).mean())
        for color in BACKGROUNDS.values():
            composites = _composite(original, color), _composite(decoded, color)
            psnr.append(peak_signal_noise_ratio(*composites, data_range=1))
            # The settings of Wang et al. (2004), which both libraries implement.
            wang = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
            ssim.append(structural_similarity(*composites, channel_axis=2, data_range=1, **wang))
    assert metrics["psnr"] == pytest.approx(np.mean(psnr), rel=1e-4)
    assert metrics["ssim"] == pytest.approx(np.mean(ssim), rel=1e-3)
    assert metrics["alpha_sad"] == pytest.approx(np.mean(sad), rel=1e-4)
    assert metrics["alpha_mse"] == pytest.approx(np.mean(mse), rel=1e-4)
    assert (reports[-1].done, reports[-1].total) == (6, 6)
    assert set(metrics) <= set(HIGHER_IS_BETTER)


def _composite(rgba, color):
    alpha = rgba[..., 3:].astype(np.float64) / 255
    return rgba[..., :3] / 255 * alpha + np.array(color) / 255 * (1 - alpha)


def test_identity_harm_is_the_psnr_lost_to_the_offset(store, snapshot):
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


def test_psnr_of_equal_images_is_finite():
    image = torch.rand(2, 3, 8, 8)
    assert torch.equal(psnr(image, image), torch.full((2,), 100.0))
    assert psnr(image * 0, image * 0 + 0.1)[0].item() == pytest.approx(20, abs=1e-4)


def test_a_checkpoint_without_transparency_is_refused(store, snapshot):
    checkpoint, _, _ = untrained_checkpoint(store, snapshot)
    bare = replace(checkpoint, files={"backbone": checkpoint.files["backbone"]})
    with pytest.raises(Refused, match="no part 'transparency'"):
        evaluate(bare, snapshot, store, lambda _: None)


def test_a_perfect_round_trip_has_perfect_metrics():
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
def test_images_of_any_size_round_trip(store, snapshot, size):
    checkpoint, autoencoder, _ = untrained_checkpoint(store, snapshot, offset=1.0)
    result = round_trip(load_checkpoint(checkpoint, store), torch.rand(2, 4, *size))
    assert result.reconstructed_B4HW.shape == result.truth_B4HW.shape == (2, 4, *size)
    assert (
        result.image_B3HW.shape
        == result.plain_B3HW.shape
        == result.adjusted_B3HW.shape
        == (2, 3, *size)
    )
    levels = result.reconstructed_B4HW * 255
    assert torch.allclose(levels, levels.round(), atol=1e-4)
    torch.testing.assert_close(
        result.adjusted_BCHW - result.plain_BCHW,
        result.std_BCHW * MICRO.offset_scale,
        atol=1e-4, rtol=1e-4,
    )  # fmt: skip
    assert result.std_BCHW.shape[1] == autoencoder.latent_channels
