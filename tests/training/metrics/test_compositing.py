"""Blends over the nine backgrounds, lossless and through JPEG, against other hands' arithmetic."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from curation.images.codec import BACKGROUNDS, composite_over
from training.metrics.compositing import (
    composite,
    composite_jpeg,
    composite_metrics,
    psnr,
    published_metrics,
    ssim_map,
)

WANG = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}


def noisy(seed=0, side=40, noise=0.1):
    torch.manual_seed(seed)
    smooth = torch.nn.functional.interpolate(
        torch.rand(2, 4, 5, 5), (side, side), mode="bicubic"
    ).clamp(0, 1)
    pair = smooth, (smooth + noise * torch.randn_like(smooth)).clamp(0, 1)
    return [(rgba * 255).round() / 255 for rgba in pair]


def test_the_backgrounds_are_the_nine_of_the_benchmark():
    assert list(BACKGROUNDS) == [
        "black",
        "grey",
        "white",
        "red",
        "green",
        "blue",
        "yellow",
        "cyan",
        "magenta",
    ]
    assert set(BACKGROUNDS.values()) == {(128, 128, 128)} | {
        (red, green, blue) for red in (0, 255) for green in (0, 255) for blue in (0, 255)
    }


@pytest.mark.parametrize("side", [11, 40, 65])
def test_similarity_is_that_of_scikit_image_with_the_window_of_wang(side):
    truth, again = noisy(side=side)
    maps = ssim_map(truth, again)
    assert maps.shape == (2, 4, side - 10, side - 10)
    for index in range(2):
        for channel in range(4):
            pair = truth[index, channel].double().numpy(), again[index, channel].double().numpy()
            expected = structural_similarity(*pair, data_range=1.0, **WANG)
            assert maps[index, channel].mean().item() == pytest.approx(expected, abs=1e-5)


def test_figures_by_background_are_those_of_each_blend_measured_whole():
    truth, again = noisy()
    metrics = composite_metrics(truth, again)
    for name, color in BACKGROUNDS.items():
        for index in range(2):
            blends = [
                composite(rgba[index : index + 1], color)[0].permute(1, 2, 0).double().numpy()
                for rgba in (truth, again)
            ]
            assert metrics["psnr"][name][index].item() == pytest.approx(
                peak_signal_noise_ratio(*blends, data_range=1.0), abs=1e-3
            )
            assert metrics["ssim"][name][index].item() == pytest.approx(
                structural_similarity(*blends, channel_axis=2, data_range=1.0, **WANG), abs=1e-5
            )


def test_an_error_in_alpha_is_hidden_by_the_background_of_the_picture_s_colour_alone():
    truth = torch.full((1, 4, 16, 16), 128 / 255)
    again = truth.clone()
    again[:, 3] = 0.2
    psnr = {name: value.item() for name, value in composite_metrics(truth, again)["psnr"].items()}
    assert psnr.pop("grey") == 100
    assert max(psnr.values()) < 17


def test_the_published_form_is_cut_to_bytes_and_saved_as_a_jpeg_of_quality_75():
    truth, _ = noisy()
    for color in BACKGROUNDS.values():
        found = composite_jpeg(truth, color)
        for index in range(2):
            rgba = truth[index].permute(1, 2, 0).numpy()
            mixed = rgba[..., 3:] * rgba[..., :3] + (1 - rgba[..., 3:]) * (
                np.float32(color) / np.float32(255)
            )
            file = io.BytesIO()
            Image.fromarray((mixed * 255).astype(np.uint8)).save(
                file, "JPEG", quality=75, subsampling=2
            )
            expected = np.asarray(Image.open(file))
            assert np.array_equal((found[index].permute(1, 2, 0) * 255).round().numpy(), expected)


def test_the_published_form_hides_noise_and_cuts_what_is_nearly_perfect():
    # White noise: the JPEG takes some of it away, and adds its own error where there was hardly any.
    shift = {}
    for noise in (0.019, 0.004):
        truth, again = noisy(side=64, noise=noise)
        truth[:, 3] = again[:, 3] = 1
        published = published_metrics(
            composite_jpeg(truth, (0, 0, 0)), composite_jpeg(again, (0, 0, 0))
        )["psnr_jpeg"]
        shift[noise] = (
            (published - psnr(composite(truth, (0, 0, 0)), composite(again, (0, 0, 0))))
            .mean()
            .item()
        )
    assert shift[0.019] > 1.5
    assert shift[0.004] < 0.0


def test_the_published_psnr_ends_at_80_and_the_similarity_is_of_the_luma():
    truth, again = noisy()
    equal = published_metrics(truth[:, :3], truth[:, :3])
    assert equal["psnr_jpeg"].tolist() == pytest.approx([80, 80])
    assert equal["ssim_jpeg"].tolist() == pytest.approx([1, 1], abs=1e-6)
    found = published_metrics(truth[:, :3], again[:, :3])
    for index in range(2):
        lumas = [
            np.round(
                (rgba[index, :3].permute(1, 2, 0).double().numpy() @ [0.299, 0.587, 0.114]) * 255
            )
            for rgba in (truth, again)
        ]
        _, full = structural_similarity(*lumas, data_range=255, full=True, **WANG)
        expected = np.clip(full[5:-5, 5:-5], 0, None).mean()
        assert found["ssim_jpeg"][index].item() == pytest.approx(expected, abs=1e-4)


def test_the_two_forms_share_no_name():
    truth, again = noisy()
    assert composite_metrics(truth, again).keys() == {"psnr", "ssim"}
    assert published_metrics(truth[:, :3], again[:, :3]).keys() == {"psnr_jpeg", "ssim_jpeg"}


def test_a_blend_is_the_house_s_own():
    truth, _ = noisy()
    pixels = (truth[0] * 255).round().byte().permute(1, 2, 0).numpy()
    for color in BACKGROUNDS.values():
        ours = (composite(truth[:1], color)[0].permute(1, 2, 0) * 255).numpy()
        assert np.abs(ours - composite_over(pixels, color)).max() < 0.51
