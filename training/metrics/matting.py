"""Errors of an alpha matte: SAD, MSE, Grad and Conn of Rhemann et al. (2009), the four that matting is measured by."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

Matte = NDArray[np.float32]
"""Alpha, H x W in [0, 1]."""

SIGMA = 1.4
STEP, THETA = 0.1, 0.15
CELL = 1000
"""Sums are given in thousands, as everywhere in the field."""

BAND = 0.01
"""Half the width of a trimap's unknown band, as a share of the longer side; a pixel at least."""


def measure_matte(truth_HW: Matte, again_HW: Matte) -> dict[str, float]:
    """The four errors over all pixels (`alpha_*`) and over the unknown of the truth's trimap (`unknown_*`).

    Where the trimap knows alpha, a matting method is told it: there the second four take the truth, for everything,
    gradients and connectivity too. unknown_mse is 0 where nothing is unknown.
    """
    known = ~unknown(truth_HW)
    told_HW = np.where(known, truth_HW, again_HW)
    everywhere = np.ones_like(known)
    rows = {"alpha": (again_HW, everywhere), "unknown": (told_HW, ~known)}
    return {
        f"{where}_{name}": value
        for where, (matte, counted) in rows.items()
        for name, value in _errors(truth_HW, matte, counted).items()
    }


def unknown(truth_HW: Matte) -> NDArray[np.bool_]:
    """The unknown region of a trimap made from the true alpha: near or on anything that is not wholly 0 or wholly 1.

    A pixel is known where all alpha of a square around it, BAND of the longer side to each of its four sides, is 0, or
    all of it is 1.
    """
    reach = max(1, round(BAND * max(truth_HW.shape)))
    square = np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)
    least, most = cv2.erode(truth_HW, square), cv2.dilate(truth_HW, square)
    region: NDArray[np.bool_] = (least < 1) & (most > 0)
    return region


def _errors(truth_HW: Matte, again_HW: Matte, counted_HW: NDArray[np.bool_]) -> dict[str, float]:
    error_HW = again_HW - truth_HW
    gradient_HW = gradient(again_HW) - gradient(truth_HW)
    connected_HW = connectivity(truth_HW, again_HW)
    return {
        "sad": float(np.abs(error_HW)[counted_HW].sum()) / CELL,
        "mse": float((error_HW**2)[counted_HW].mean()) if counted_HW.any() else 0.0,
        "grad": float((gradient_HW**2)[counted_HW].sum()) / CELL,
        "conn": float(connected_HW[counted_HW].sum()) / CELL,
    }


def gradient(matte_HW: Matte) -> Matte:
    """The size of the gradient under derivatives of a Gaussian of sigma 1.4, each filter of unit energy: H x W.

    Edges are repeated outwards. Alpha is in [0, 1] already and is not stretched to it (the authors' mat2gray), which
    would hide a matte that is too faint everywhere.
    """
    half = math.ceil(SIGMA * math.sqrt(-2 * math.log(math.sqrt(2 * math.pi) * SIGMA * 0.01)))
    place = np.arange(-half, half + 1)
    bell = np.exp(-(place**2) / (2 * SIGMA**2)).astype(np.float32)
    slope = place.astype(np.float32) * bell
    bell, slope = bell / np.linalg.norm(bell), slope / np.linalg.norm(slope)
    across, down = (
        np.asarray(
            cv2.sepFilter2D(matte_HW, cv2.CV_32F, row, column, borderType=cv2.BORDER_REPLICATE)
        )
        for row, column in ((slope, bell), (bell, slope))
    )
    return np.hypot(across, down)


def connectivity(truth_HW: Matte, again_HW: Matte) -> Matte:
    """|phi(again) - phi(truth)| of every pixel: H x W (Rhemann et al., 2009, section 4.2).

    A pixel's level is the highest of 0, 0.1, .. 1 at which it still hangs together with the largest region (4
    neighbours) that both mattes share there; phi = 1 - d where its alpha exceeds that level by d >= 0.15, else 1.
    """
    level_HW = np.ones_like(truth_HW)
    loose = np.zeros(truth_HW.shape, np.bool_)  # no longer connected
    for step in range(1, round(1 / STEP) + 1):
        shared = (truth_HW >= step * STEP) & (again_HW >= step * STEP)
        count, regions, sizes, _ = cv2.connectedComponentsWithStats(
            shared.astype(np.uint8), connectivity=4
        )
        largest = 1 + int(np.argmax(sizes[1:, cv2.CC_STAT_AREA])) if count > 1 else -1
        falls = ~loose & (regions != largest)
        level_HW[falls] = (step - 1) * STEP
        loose |= falls
    beyond = (
        np.where(matte - level_HW >= THETA, matte - level_HW, 0) for matte in (truth_HW, again_HW)
    )
    difference: Matte = np.abs(np.subtract(*beyond))
    return difference
