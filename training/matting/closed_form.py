"""Cutting a subject out of an opaque picture: closed-form matting for alpha, multi-level estimation for its colours."""

from __future__ import annotations

import contextlib
import io

import numpy as np
from numpy.typing import NDArray

from curation.images.codec import without_hidden_colour
from curation.ports import RGBA


def cut_out(picture: NDArray[np.uint8], trimap: NDArray[np.float32]) -> RGBA:
    """The subject of a picture (H x W x 3) as a straight layer, H x W x 4, by a trimap (H x W; 1, 0, or unknown).

    Alpha: closed-form matting (Levin, Lischinski, Weiss, 2008). Colours: fast multi-level foreground estimation
    (Germer et al., 2020), without which edges keep the background's. Both are PyMatting's, in its own settings; where
    it is loaded for the first time on a machine it compiles for a minute or two.

    Measured on 24 real layers of 192 pixels over a plain green, with the trimap of their own alpha and with one of
    GrabCut: mean error of alpha 0.003 and 0.054, its soft IoU 0.990 and 0.897 (median 0.988, since GrabCut takes a
    part of one picture in ten for background); over mid-grey 0.010 and 0.055.
    """
    colours = picture.astype(np.float64) / 255
    if not {0.0, 1.0} <= set(
        np.unique(trimap).tolist()
    ):  # nothing is known to be subject, or nothing else is
        return _layer(colours, np.full(trimap.shape, float(np.any(trimap == 1))))
    from pymatting import estimate_alpha_cf, estimate_foreground_ml

    with contextlib.redirect_stdout(io.StringIO()):  # where it prints how its solver is doing
        alpha = estimate_alpha_cf(colours, trimap.astype(np.float64))
    return _layer(estimate_foreground_ml(colours, alpha), alpha)


def _layer(colours: NDArray[np.float64], alpha: NDArray[np.float64]) -> RGBA:
    pixels = np.rint(np.clip(np.dstack([colours, alpha]), 0, 1) * 255).astype(np.uint8)
    return without_hidden_colour(pixels)
