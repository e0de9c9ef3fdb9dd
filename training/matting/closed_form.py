"""Matting of an opaque image: closed-form alpha and multi-level foreground estimation."""

from __future__ import annotations

import contextlib
import io

import numpy as np
from numpy.typing import NDArray

from curation.images.codec import clear_hidden_colors
from curation.ports import RGBA


def extract_subject(image: NDArray[np.uint8], trimap: NDArray[np.float32]) -> RGBA:
    """Extract the subject of an image as a straight layer by a trimap.

    Alpha: closed-form matting (Levin, Lischinski, Weiss, 2008). Color: fast multi-level foreground
    estimation (Germer et al., 2020), without which edges keep the background's color. Both are
    PyMatting's with its default settings; its first use on a machine compiles for a minute or two.

    Measured on 24 real layers of 192 pixels over plain green, with trimaps from their own alpha and
    from GrabCut: mean error of alpha 0.003 and 0.054, soft IoU 0.990 and 0.897 (median 0.988, since
    GrabCut takes a part of one image in ten for background); over mid-gray 0.010 and 0.055.

    Args:
        image: The image, H x W x 3 uint8.
        trimap: H x W; 1 for the subject, 0 for the background, other values for unknown.

    Returns:
        The layer, H x W x 4 uint8.
    """
    colors = image.astype(np.float64) / 255
    # Matting needs both known subject and known background.
    if not {0.0, 1.0} <= set(np.unique(trimap).tolist()):
        return _layer(colors, np.full(trimap.shape, float(np.any(trimap == 1))))
    from pymatting import estimate_alpha_cf, estimate_foreground_ml

    with contextlib.redirect_stdout(io.StringIO()):  # its solver prints its progress
        alpha = estimate_alpha_cf(colors, trimap.astype(np.float64))
    return _layer(estimate_foreground_ml(colors, alpha), alpha)


def _layer(colors: NDArray[np.float64], alpha: NDArray[np.float64]) -> RGBA:
    pixels = np.rint(np.clip(np.dstack([colors, alpha]), 0, 1) * 255).astype(np.uint8)
    return clear_hidden_colors(pixels)
