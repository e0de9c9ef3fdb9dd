"""Pictures with alpha over the nine backgrounds: PSNR and SSIM, without loss and as the ALPHA benchmark publishes them.

The two forms never mix: what has gone through a JPEG bears names that end in `_jpeg`.
"""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from curation.images.codec import BACKGROUNDS

LUMA = (0.299, 0.587, 0.114)
"""The Y of YIQ, on which the published SSIM is measured."""

WINDOW, SIGMA = 11, 1.5
C1, C2 = 0.01**2, 0.03**2
"""The window and the constants of Wang et al. (2004), for values in [0, 1]."""

LEAST_SIDE = WINDOW
"""Pixels: below that a picture has no place for the window."""

Figures = dict[str, dict[str, Tensor]]
"""A figure's name, then a background's, to its value for every picture: shape B."""


def blend(rgba_B4HW: Tensor, colour: tuple[int, int, int]) -> Tensor:
    """Straight RGBA in [0, 1] over a colour given in 0..255: B x 3 x H x W in [0, 1]."""
    alpha_B1HW = rgba_B4HW[:, 3:]
    below_131 = (rgba_B4HW.new_tensor(colour) / 255).view(3, 1, 1)
    return alpha_B1HW * rgba_B4HW[:, :3] + (1 - alpha_B1HW) * below_131


def blend_jpeg(rgba_B4HW: Tensor, colour: tuple[int, int, int]) -> Tensor:
    """The same as published: cut (not rounded) to 8 bits, saved by Pillow as a JPEG with its defaults, and read back.

    AlphaVAE's validation_pipeline/scripts/blend_rgba.py. Pillow's defaults are quality 75 and 4:2:0.
    """
    levels = (
        (blend(rgba_B4HW, colour) * 255)
        .clamp(0, 255)
        .to(torch.uint8)
        .permute(0, 2, 3, 1)
        .cpu()
        .numpy()
    )
    pictures = []
    for picture in levels:
        file = io.BytesIO()
        Image.fromarray(picture).save(file, "JPEG")
        pictures.append(torch.from_numpy(np.array(Image.open(file))))
    return torch.stack(pictures).permute(0, 3, 1, 2).to(rgba_B4HW) / 255


def measure_blends(truth_B4HW: Tensor, again_B4HW: Tensor) -> Figures:
    """PSNR (dB) and SSIM, lossless, over each background of curation.images.codec (AlphaVAE, arXiv 2507.09308, 3.1).

    Both are means over the colour channels of figures of one channel over one level, and the nine backgrounds have
    three levels only: nine channels are compared in place of twenty-seven.
    """
    errors: dict[int, Tensor] = {}
    similar: dict[int, Tensor] = {}
    for level in {level for colour in BACKGROUNDS.values() for level in colour}:
        truth_B3HW, again_B3HW = (
            blend(rgba, (level, level, level)) for rgba in (truth_B4HW, again_B4HW)
        )
        errors[level] = ((again_B3HW - truth_B3HW) ** 2).mean((2, 3))
        similar[level] = similarity(truth_B3HW, again_B3HW).mean((2, 3))
    return {
        "psnr": {name: _decibels(_of(errors, colour)) for name, colour in BACKGROUNDS.items()},
        "ssim": {name: _of(similar, colour) for name, colour in BACKGROUNDS.items()},
    }


def measure_published(truth_B3HW: Tensor, again_B3HW: Tensor) -> dict[str, Tensor]:
    """psnr_jpeg and ssim_jpeg of two `blend_jpeg`, as the benchmark's metrics (IQA-PyTorch) define them: shape B.

    PSNR over RGB with 1e-8 added to the error, so that equal pictures have 80 dB. SSIM of the luma, rounded to 8 bits,
    with nothing below 0 at any pixel.
    """
    mse_B = ((again_B3HW - truth_B3HW) ** 2).mean((1, 2, 3))
    luma_131 = truth_B3HW.new_tensor(LUMA).view(3, 1, 1)
    lumas = (
        ((picture * luma_131).sum(1, keepdim=True) * 255).round() / 255
        for picture in (truth_B3HW, again_B3HW)
    )
    return {
        "psnr_jpeg": -10 * torch.log10(mse_B + 1e-8),
        "ssim_jpeg": similarity(*lumas).clamp_min(0).mean((1, 2, 3)),
    }


def psnr_of(truth_BCHW: Tensor, again_BCHW: Tensor) -> Tensor:
    """Peak signal to noise per picture in dB for values in [0, 1], over all channels; of equal pictures 100."""
    return _decibels(((again_BCHW.clamp(0, 1) - truth_BCHW) ** 2).flatten(1).mean(1))


def psnr_inside(truth_B4HW: Tensor, again_B4HW: Tensor, inside_B1HW: Tensor) -> Tensor:
    """Return the PSNR (dB, shape B) of the pixels inside a mask, the mean over the nine backgrounds."""
    count_B = inside_B1HW.flatten(1).sum(1).clamp_min(1)
    errors: dict[int, Tensor] = {}
    for level in {level for colour in BACKGROUNDS.values() for level in colour}:
        truth_B3HW, again_B3HW = (
            blend(rgba, (level, level, level)) for rgba in (truth_B4HW, again_B4HW)
        )
        squares_B3HW = (again_B3HW - truth_B3HW) ** 2 * inside_B1HW
        errors[level] = squares_B3HW.sum((2, 3)) / count_B[:, None]
    return torch.stack([_decibels(_of(errors, colour)) for colour in BACKGROUNDS.values()]).mean(0)


def similarity(one_BCHW: Tensor, other_BCHW: Tensor) -> Tensor:
    """The map of structural similarity of values in [0, 1]: B x C x H - 10 x W - 10 (Wang et al., 2004, equation 13).

    The window is Gaussian, 11 x 11 with sigma 1.5, and stands inside the picture everywhere: the border that it does
    not cover is left out, as there (torchmetrics 1.9 mirrors the picture and counts the border, and so differs).
    """
    mean_x, mean_y = _windowed(one_BCHW), _windowed(other_BCHW)
    squares = _windowed(one_BCHW**2) + _windowed(other_BCHW**2)
    covariance = _windowed(one_BCHW * other_BCHW) - mean_x * mean_y
    means = mean_x**2 + mean_y**2
    return (
        (2 * mean_x * mean_y + C1) * (2 * covariance + C2) / ((means + C1) * (squares - means + C2))
    )


def _windowed(map_BCHW: Tensor) -> Tensor:
    """Means under the window: sums of shifted copies, several times faster on a processor than a convolution."""
    place = torch.arange(WINDOW, dtype=torch.float64) - WINDOW // 2
    bell = torch.exp(-(place**2) / (2 * SIGMA**2))
    weights: list[float] = (bell / bell.sum()).tolist()
    for axis in (-1, -2):
        length = map_BCHW.shape[axis] - WINDOW + 1
        total = map_BCHW.narrow(axis, 0, length) * weights[0]
        for shift in range(1, WINDOW):
            total.add_(map_BCHW.narrow(axis, shift, length), alpha=weights[shift])
        map_BCHW = total
    return map_BCHW


def _of(levels: Mapping[int, Tensor], colour: tuple[int, int, int]) -> Tensor:
    """The mean over a colour's channels of figures (each B x 3) by level."""
    return torch.stack([levels[level][:, channel] for channel, level in enumerate(colour)]).mean(0)


def _decibels(mse_B: Tensor) -> Tensor:
    return -10 * torch.log10(mse_B.clamp_min(1e-10))
