"""PSNR and SSIM of RGBA images over the nine backgrounds: lossless, and as published for ALPHA.

The two forms are kept apart: metrics of images that went through JPEG have names in `_jpeg`.
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
"""The Y of YIQ, on which the published SSIM is computed."""

WINDOW, SIGMA = 11, 1.5
C1, C2 = 0.01**2, 0.03**2
"""Window and constants of Wang et al. (2004), for values in [0, 1]."""

MIN_SIZE = WINDOW
"""Smallest image size in pixels: smaller images do not contain the window."""

Metrics = dict[str, dict[str, Tensor]]
"""Values per image (shape B) by metric and background."""


def composite(rgba_B4HW: Tensor, color: tuple[int, int, int]) -> Tensor:
    """Composite straight RGBA in [0, 1] over a color in 0..255: B x 3 x H x W in [0, 1]."""
    alpha_B1HW = rgba_B4HW[:, 3:]
    background_131 = (rgba_B4HW.new_tensor(color) / 255).view(3, 1, 1)
    return alpha_B1HW * rgba_B4HW[:, :3] + (1 - alpha_B1HW) * background_131


def composite_jpeg(rgba_B4HW: Tensor, color: tuple[int, int, int]) -> Tensor:
    """Composite as published: truncated to 8 bits and sent through a JPEG.

    As in AlphaVAE's validation_pipeline/scripts/blend_rgba.py, with Pillow's defaults (quality 75,
    4:2:0).
    """
    levels = (
        (composite(rgba_B4HW, color) * 255)
        .clamp(0, 255)
        .to(torch.uint8)
        .permute(0, 2, 3, 1)
        .cpu()
        .numpy()
    )
    images = []
    for image in levels:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG")
        images.append(torch.from_numpy(np.array(Image.open(file))))
    return torch.stack(images).permute(0, 3, 1, 2).to(rgba_B4HW) / 255


def composite_metrics(truth_B4HW: Tensor, reconstructed_B4HW: Tensor) -> Metrics:
    """Compute lossless PSNR (dB) and SSIM over each of the nine backgrounds of the codec.

    As in AlphaVAE (arXiv 2507.09308, 3.1). Both are means over color channels, and the channels of
    the nine backgrounds have only three levels. So each level is composited once for all three
    channels: 9 channels are compared instead of 27.

    Args:
        truth_B4HW: Straight RGBA in [0, 1].
        reconstructed_B4HW: The reconstruction.

    Returns:
        "psnr" and "ssim" by background, shape B each.
    """
    # By level, B x 3 each.
    errors: dict[int, Tensor] = {}
    similar: dict[int, Tensor] = {}
    for level in {level for color in BACKGROUNDS.values() for level in color}:
        truth_B3HW, again_B3HW = (
            composite(rgba, (level, level, level)) for rgba in (truth_B4HW, reconstructed_B4HW)
        )
        errors[level] = ((again_B3HW - truth_B3HW) ** 2).mean((2, 3))
        similar[level] = ssim_map(truth_B3HW, again_B3HW).mean((2, 3))
    # A background's value is the mean of the channels at its three levels.
    return {
        "psnr": {name: _decibels(_of(errors, color)) for name, color in BACKGROUNDS.items()},
        "ssim": {name: _of(similar, color) for name, color in BACKGROUNDS.items()},
    }


def published_metrics(truth_B3HW: Tensor, reconstructed_B3HW: Tensor) -> dict[str, Tensor]:
    """Compute psnr_jpeg and ssim_jpeg of two `composite_jpeg` outputs as IQA-PyTorch does, shape B.

    PSNR is over RGB with 1e-8 added to the error, so that equal images have 80 dB. SSIM is of the
    luma, rounded to 8 bits, and negative values are clipped to 0 per pixel.
    """
    mse_B = ((reconstructed_B3HW - truth_B3HW) ** 2).mean((1, 2, 3))
    luma_131 = truth_B3HW.new_tensor(LUMA).view(3, 1, 1)
    lumas = (
        ((image * luma_131).sum(1, keepdim=True) * 255).round() / 255
        for image in (truth_B3HW, reconstructed_B3HW)
    )
    return {
        "psnr_jpeg": -10 * torch.log10(mse_B + 1e-8),
        "ssim_jpeg": ssim_map(*lumas).clamp_min(0).mean((1, 2, 3)),
    }


def psnr(truth_BCHW: Tensor, reconstructed_BCHW: Tensor) -> Tensor:
    """Compute the PSNR of each image in dB for values in [0, 1]; 100 for equal images."""
    return _decibels(((reconstructed_BCHW.clamp(0, 1) - truth_BCHW) ** 2).flatten(1).mean(1))


def psnr_inside(truth_B4HW: Tensor, reconstructed_B4HW: Tensor, inside_B1HW: Tensor) -> Tensor:
    """Compute the PSNR of the pixels inside a mask, the mean over the nine backgrounds.

    Args:
        truth_B4HW: Straight RGBA in [0, 1].
        reconstructed_B4HW: The reconstruction.
        inside_B1HW: The pixels that count, bool.

    Returns:
        dB, shape B.
    """
    count_B = inside_B1HW.flatten(1).sum(1).clamp_min(1)
    errors: dict[int, Tensor] = {}
    for level in {level for color in BACKGROUNDS.values() for level in color}:
        truth_B3HW, again_B3HW = (
            composite(rgba, (level, level, level)) for rgba in (truth_B4HW, reconstructed_B4HW)
        )
        squares_B3HW = (again_B3HW - truth_B3HW) ** 2 * inside_B1HW
        errors[level] = squares_B3HW.sum((2, 3)) / count_B[:, None]
    return torch.stack([_decibels(_of(errors, color)) for color in BACKGROUNDS.values()]).mean(0)


def ssim_map(x_BCHW: Tensor, y_BCHW: Tensor) -> Tensor:
    """Compute the SSIM map of values in [0, 1] (Wang et al., 2004, equation 13).

    The window is Gaussian, 11 x 11 with sigma 1.5, and applied only where it fits, so that the
    border is left out as in the paper (torchmetrics 1.9 differs: it mirrors the border).

    Returns:
        B x C x H - 10 x W - 10.
    """
    # Local means, then local variances and covariance.
    mean_x, mean_y = _windowed(x_BCHW), _windowed(y_BCHW)
    squares = _windowed(x_BCHW**2) + _windowed(y_BCHW**2)
    covariance = _windowed(x_BCHW * y_BCHW) - mean_x * mean_y
    means = mean_x**2 + mean_y**2
    return (
        (2 * mean_x * mean_y + C1) * (2 * covariance + C2) / ((means + C1) * (squares - means + C2))
    )


def _windowed(map_BCHW: Tensor) -> Tensor:
    """Filter with the window as a sum of shifted copies: on a CPU faster than a convolution."""
    offset = torch.arange(WINDOW, dtype=torch.float64) - WINDOW // 2
    gaussian = torch.exp(-(offset**2) / (2 * SIGMA**2))
    weights: list[float] = (gaussian / gaussian.sum()).tolist()
    # Separable: columns first, then rows.
    for axis in (-1, -2):
        length = map_BCHW.shape[axis] - WINDOW + 1
        total = map_BCHW.narrow(axis, 0, length) * weights[0]
        for shift in range(1, WINDOW):
            total.add_(map_BCHW.narrow(axis, shift, length), alpha=weights[shift])
        map_BCHW = total
    return map_BCHW


def _of(levels: Mapping[int, Tensor], color: tuple[int, int, int]) -> Tensor:
    """Average values by level (B x 3 each) over the channels of a background color."""
    return torch.stack([levels[level][:, channel] for channel, level in enumerate(color)]).mean(0)


def _decibels(mse_B: Tensor) -> Tensor:
    return -10 * torch.log10(mse_B.clamp_min(1e-10))
