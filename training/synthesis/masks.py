"""What is inpainted of a pair: everything around its foreground, then everything where the foreground is."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from curation.ports import RGBA

Mask = NDArray[np.bool_]
"""H x W; true where a model is to paint."""

SOLID, CLEAR = 0.98, 0.02
"""Alphas from which on a pixel counts as opaque, and up to which as empty: a network's 1 and 0 are not exact.

The same bounds as the screening signals f_opaque and f_clear.
"""


def around(foreground: RGBA) -> Mask:
    """Everything under alpha < 1: what the first inpainting fills with the whole's prompt (paper, section 3.4)."""
    fill: Mask = foreground[..., 3] < SOLID * 255
    return fill


def behind(foreground: RGBA, erosion: float) -> Mask:
    """What the second inpainting fills, with the prompt of the background (paper, section 3.4).

    The paper inverts the alpha mask and erodes it by 8 pixels. Inverted, the mask says what is background already and
    stays; eroded, that keeps 8 pixels away from the subject. So what is filled is the subject and 8 pixels around it:
    were the subject's own mask eroded, its outline would be left standing in the background.

    erosion: pixels per 1,024 of the longer side. The picture's border erodes nothing.
    """
    kept: NDArray[np.uint8] = (foreground[..., 3] <= CLEAR * 255).astype(np.uint8)
    reach = margin(foreground.shape[:2], erosion)
    if reach:
        kept = np.asarray(
            cv2.erode(kept, np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)), np.uint8
        )
    fill: Mask = kept == 0
    return fill


def margin(size: tuple[int, ...], erosion: float) -> int:
    """An erosion of pixels per 1,024 of the longer side in whole pixels, one at least; 0 stays 0."""
    return max(1, round(erosion * max(size) / 1024)) if erosion else 0
