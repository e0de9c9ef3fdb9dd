"""Inpainting masks of a pair: everything around its foreground, then the foreground's area."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from curation.ports import RGBA

Mask = NDArray[np.bool_]
"""H x W; true where a model inpaints."""

OPAQUE_ALPHA, TRANSPARENT_ALPHA = 0.98, 0.02
"""The alpha from which a pixel counts as opaque, and up to which as empty.

A network's 1 and 0 are not exact. The bounds equal those of the screening signals f_opaque and
f_clear.
"""


def mask_around(foreground: RGBA) -> Mask:
    """Return the mask of alpha < 1, inpainted with the whole image's prompt (section 3.4)."""
    fill: Mask = foreground[..., 3] < OPAQUE_ALPHA * 255
    return fill


def mask_behind(foreground: RGBA, erosion: float) -> Mask:
    """Return the mask that is inpainted with the background's prompt (paper, section 3.4).

    The paper inverts the alpha mask and erodes it by 8 pixels. The inverted mask is the background
    that is kept; eroded, it ends 8 pixels before the subject. So the inpainted area is the subject
    and 8 pixels around it: if the subject's own mask were eroded, its outline would remain.

    Args:
        foreground: The foreground, H x W x 4 uint8.
        erosion: Pixels per 1,024 of the longer side. The image border is not eroded.
    """
    background: NDArray[np.uint8] = (foreground[..., 3] <= TRANSPARENT_ALPHA * 255).astype(np.uint8)
    reach = erosion_pixels(foreground.shape[:2], erosion)
    # Eroding the kept background is dilating the inpainted area.
    if reach:
        background = np.asarray(
            cv2.erode(background, np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)), np.uint8
        )
    fill: Mask = background == 0
    return fill


def erosion_pixels(size: tuple[int, ...], erosion: float) -> int:
    """Return an erosion in whole pixels, at least one; 0 stays 0.

    Args:
        size: Height and width in pixels.
        erosion: Pixels per 1,024 of the longer side.
    """
    return max(1, round(erosion * max(size) / 1024)) if erosion else 0
