"""Colours where nothing can be seen: filled in for the networks, and mid-grey for the backbone."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def pad_colour(rgba: NDArray[np.float32]) -> NDArray[np.float32]:
    """The colours of a straight H x W x 4 image in [0, 1], with those that cannot be seen filled in: H x W x 3.

    The paper's iterated Gaussian filter, done as its authors' code does it, by a pyramid of ratio 1.2: each level
    paints over the coarser one by its alpha. Equals the input where alpha is 1; 0 where nothing is visible at all.
    """
    levels = _pyramid(
        np.concatenate([rgba[..., :3] * rgba[..., 3:], rgba[..., 3:]], axis=-1, dtype=np.float32)
    )
    seen = levels[-1].sum(axis=(0, 1))
    colour = np.broadcast_to(
        seen[:3] / max(float(seen[3]), 1e-8), (*levels[-1].shape[:2], 3)
    ).astype(np.float32)
    for level in reversed(levels):
        height, width = level.shape[:2]
        coarse = np.asarray(cv2.resize(colour, (width, height), interpolation=cv2.INTER_LINEAR))
        colour = level[..., :3] + coarse.reshape(height, width, 3) * (1 - level[..., 3:])
    return colour.clip(0, 1)


def _pyramid(premultiplied: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    levels = [premultiplied]
    while min(levels[-1].shape[:2]) > 1:
        height, width = levels[-1].shape[:2]
        size = (int(width / 1.2), int(height / 1.2))
        levels.append(np.asarray(cv2.resize(levels[-1], size, interpolation=cv2.INTER_AREA)))
    return levels


def pad_colours(rgba_B4HW: Tensor) -> Tensor:
    """`pad_colour` of every picture of a batch of straight RGBA in [0, 1]: B x 3 x H x W."""
    pictures = rgba_B4HW.permute(0, 2, 3, 1).float().cpu().numpy()
    padded_BHW3 = torch.stack([torch.from_numpy(pad_colour(picture)) for picture in pictures])
    return padded_BHW3.permute(0, 3, 1, 2).contiguous().to(rgba_B4HW)


def on_grey(colour_B3HW: Tensor, alpha_B1HW: Tensor) -> Tensor:
    """The image that a backbone sees: I = I_c * I_a with I_c in [-1, 1], so that transparent is mid-grey."""
    return (colour_B3HW * 2 - 1) * alpha_B1HW
