"""Composites over nine backgrounds, lossless and as JPEG, compared with other libraries."""

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


def test_the_backgrounds_are_those_of_the_benchmark():
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
def test_ssim_equals_that_of_scikit_image(side):
    truth, again = noisy(side=side)
    maps = ssim_map(truth, again)
    assert maps.shape == (2, 4, side - 10, side - 10)
    for index in range(2):
        for channel in range(4):
            pair = truth[index, channel].double().numpy(), again[index, channel].double().numpy()
            expected = structural_similarity(*pair, data_range=1.0, **WANG)
            assert maps[index, channel].mean().item() == pytest.approx(expected, abs=1e-5)


def test_metrics_by_background_equal_those_of_single_composites():
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


def test_an_alpha_error_is_invisible_over_the_color_of_the_image_only():
    truth = torch.full((1, 4, 16, 16), 128 / 255)
    again = truth.clone()
    again[:, 3] = 0.2
    psnr = {name: value.item() for name, value in composite_metrics(truth, again)["psnr"].items()}
    assert psnr.pop("grey") == 100
    assert max(psnr.values()) < 17


def test_jpeg_metrics_are_of_jpegs_of_quality_75():
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


def test_jpeg_metrics_hide_noise_and_limit_near_perfect_results():
    # JPEG removes a part of white noise, and adds an error of its own where there is little noise.
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


def test_jpeg_psnr_is_at_most_80_and_jpeg_ssim_is_of_luma():
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


def test_lossless_and_jpeg_metrics_share_no_name():
    truth, again = noisy()
    assert composite_metrics(truth, again).keys() == {"psnr", "ssim"}
    assert published_metrics(truth[:, :3], again[:, :3]).keys() == {"psnr_jpeg", "ssim_jpeg"}


def test_composites_equal_those_of_the_codec():
    truth, _ = noisy()
    pixels = (truth[0] * 255).round().byte().permute(1, 2, 0).numpy()
    for color in BACKGROUNDS.values():
        ours = (composite(truth[:1], color)[0].permute(1, 2, 0) * 255).numpy()
        assert np.abs(ours - composite_over(pixels, color)).max() < 0.51
