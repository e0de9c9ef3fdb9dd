"""Colors of invisible pixels: filled in for the networks, and mid-gray for the autoencoder."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def pad_color(rgba: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the color of a straight H x W x 4 image in [0, 1] with invisible pixels filled in.

    This is the paper's iterated Gaussian filter as in the authors' code, an image pyramid of ratio
    1.2: each level is painted over the coarser one by its alpha. The result, H x W x 3, equals the
    input where alpha is 1, and is 0 if no pixel is visible.
    """
    levels = _pyramid(
        np.concatenate([rgba[..., :3] * rgba[..., 3:], rgba[..., 3:]], axis=-1, dtype=np.float32)
    )
    # Start from the mean visible color, at the coarsest level.
    total = levels[-1].sum(axis=(0, 1))
    color = np.broadcast_to(
        total[:3] / max(float(total[3]), 1e-8), (*levels[-1].shape[:2], 3)
    ).astype(np.float32)
    # From coarse to fine, composite each level over the enlarged coarser one.
    for level in reversed(levels):
        height, width = level.shape[:2]
        coarse = np.asarray(cv2.resize(color, (width, height), interpolation=cv2.INTER_LINEAR))
        color = level[..., :3] + coarse.reshape(height, width, 3) * (1 - level[..., 3:])
    return color.clip(0, 1)


def _pyramid(premultiplied: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """Return the image at all levels, the finest first."""
    levels = [premultiplied]
    while min(levels[-1].shape[:2]) > 1:
        height, width = levels[-1].shape[:2]
        size = (int(width / 1.2), int(height / 1.2))
        levels.append(np.asarray(cv2.resize(levels[-1], size, interpolation=cv2.INTER_AREA)))
    return levels


def pad_colors(rgba_B4HW: Tensor) -> Tensor:
    """Apply `pad_color` to a batch of straight RGBA in [0, 1]: B x 3 x H x W."""
    images = rgba_B4HW.permute(0, 2, 3, 1).float().cpu().numpy()
    padded_BHW3 = torch.stack([torch.from_numpy(pad_color(image)) for image in images])
    return padded_BHW3.permute(0, 3, 1, 2).contiguous().to(rgba_B4HW)


def over_gray(color_B3HW: Tensor, alpha_B1HW: Tensor) -> Tensor:
    """Composite over mid-gray: I = I_c * I_a, the frozen encoder's input.

    Args:
        color_B3HW: Color in [0, 1], converted to I_c in [-1, 1].
        alpha_B1HW: Alpha I_a in [0, 1].
    """
    return (color_B3HW * 2 - 1) * alpha_B1HW
