"""Matting errors SAD, MSE, Grad and Conn of Rhemann et al. (2009), the field's standard metrics."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

Matte = NDArray[np.float32]
"""Alpha, H x W in [0, 1]."""

SIGMA = 1.4
STEP, THETA = 0.1, 0.15
UNIT = 1000
"""Sums are in thousands, as is usual in matting."""

BAND_SHARE = 0.01
"""Half the width of a trimap's unknown band as a share of the longer side; at least one pixel."""


def matting_errors(truth_HW: Matte, reconstructed_HW: Matte) -> dict[str, float]:
    """Compute the four errors over all pixels (`alpha_*`) and in the trimap's unknown region.

    A matting method is given alpha outside the unknown region. So `unknown_*` use the true alpha
    there, also for gradients and connectivity. unknown_mse is 0 if nothing is unknown.

    Args:
        truth_HW: True alpha.
        reconstructed_HW: Estimated alpha.
    """
    known = ~unknown_region(truth_HW)
    completed_HW = np.where(known, truth_HW, reconstructed_HW)
    everywhere = np.ones_like(known)
    regions = {"alpha": (reconstructed_HW, everywhere), "unknown": (completed_HW, ~known)}
    return {
        f"{region}_{name}": value
        for region, (matte, counted) in regions.items()
        for name, value in _errors(truth_HW, matte, counted).items()
    }


def unknown_region(truth_HW: Matte) -> NDArray[np.bool_]:
    """Return the unknown region of a trimap made from true alpha.

    A pixel is known if alpha is 0, or is 1, everywhere in a square around it that reaches
    BAND_SHARE of the longer side in each direction.
    """
    reach = max(1, round(BAND_SHARE * max(truth_HW.shape)))
    square = np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)
    lowest, highest = cv2.erode(truth_HW, square), cv2.dilate(truth_HW, square)
    region: NDArray[np.bool_] = (lowest < 1) & (highest > 0)
    return region


def _errors(
    truth_HW: Matte, reconstructed_HW: Matte, counted_HW: NDArray[np.bool_]
) -> dict[str, float]:
    """Compute the four errors over the counted pixels."""
    error_HW = reconstructed_HW - truth_HW
    gradient_HW = gradient(reconstructed_HW) - gradient(truth_HW)
    connected_HW = connectivity(truth_HW, reconstructed_HW)
    return {
        "sad": float(np.abs(error_HW)[counted_HW].sum()) / UNIT,
        "mse": float((error_HW**2)[counted_HW].mean()) if counted_HW.any() else 0.0,
        "grad": float((gradient_HW**2)[counted_HW].sum()) / UNIT,
        "conn": float(connected_HW[counted_HW].sum()) / UNIT,
    }


def gradient(matte_HW: Matte) -> Matte:
    """Compute the gradient magnitude by derivatives of a Gaussian, H x W.

    Sigma is 1.4, filters have unit energy, and edges are replicated. Alpha is not stretched to
    [0, 1] (the authors' mat2gray), which would hide mattes that are too faint everywhere.
    """
    # Filter length at which the Gaussian falls below 1 % of its peak.
    half = math.ceil(SIGMA * math.sqrt(-2 * math.log(math.sqrt(2 * math.pi) * SIGMA * 0.01)))
    offset = np.arange(-half, half + 1)
    bell = np.exp(-(offset**2) / (2 * SIGMA**2)).astype(np.float32)
    slope = offset.astype(np.float32) * bell
    bell, slope = bell / np.linalg.norm(bell), slope / np.linalg.norm(slope)
    across, down = (
        np.asarray(
            cv2.sepFilter2D(matte_HW, cv2.CV_32F, row, column, borderType=cv2.BORDER_REPLICATE)
        )
        for row, column in ((slope, bell), (bell, slope))
    )
    return np.hypot(across, down)


def connectivity(truth_HW: Matte, reconstructed_HW: Matte) -> Matte:
    """Compute |phi(reconstructed) - phi(truth)| per pixel (Rhemann et al., 2009, section 4.2).

    A pixel's level is the highest of 0, 0.1, .., 1 at which it is connected (4 neighbors) to the
    largest region that both mattes share. phi = 1 - d if its alpha exceeds that level by d >= 0.15,
    else 1.
    """
    level_HW = np.ones_like(truth_HW)
    disconnected = np.zeros(truth_HW.shape, np.bool_)  # pixels that are no longer connected
    for step in range(1, round(1 / STEP) + 1):
        # The largest region that both mattes share at this level; label 0 is the background.
        shared = (truth_HW >= step * STEP) & (reconstructed_HW >= step * STEP)
        count, regions, sizes, _ = cv2.connectedComponentsWithStats(
            shared.astype(np.uint8), connectivity=4
        )
        largest = 1 + int(np.argmax(sizes[1:, cv2.CC_STAT_AREA])) if count > 1 else -1
        # Pixels that leave it here keep the level of the previous step.
        leaving = ~disconnected & (regions != largest)
        level_HW[leaving] = (step - 1) * STEP
        disconnected |= leaving
    excess = (
        np.where(matte - level_HW >= THETA, matte - level_HW, 0)
        for matte in (truth_HW, reconstructed_HW)
    )
    difference: Matte = np.abs(np.subtract(*excess))
    return difference
