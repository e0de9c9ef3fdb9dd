"""Automatic trimaps: known subject, known background, and an unknown band between them."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

ImageArray = NDArray[np.uint8]
TrimapArray = NDArray[np.float32]
Mask = NDArray[np.bool_]

UNKNOWN = 0.5
BAND = 0.02
"""Half the width of the unknown band, as a share of the longer side."""
GRABCUT_BORDER = 0.02
"""The border that GrabCut initially takes for background, as a share of each side."""
GRABCUT_ITERATIONS = 5
"""Iterations of GrabCut."""


def make_trimap(subject: Mask) -> TrimapArray:
    """Make a trimap from a mask: 1 inside, 0 outside, UNKNOWN within BAND of its outline.

    This is the usual erosion and dilation. Where a subject is thinner than the band, the band is
    narrowed until part of it is known; an empty or full mask has no outline.

    Args:
        subject: H x W; true for the subject.
    """
    # Distances to the outline on both sides; the padding keeps the image border from counting.
    inside = np.asarray(
        cv2.distanceTransform(np.pad(subject, 1, mode="edge").astype(np.uint8), cv2.DIST_L2, 5)
    )
    outside = np.asarray(
        cv2.distanceTransform(np.pad(~subject, 1, mode="edge").astype(np.uint8), cv2.DIST_L2, 5)
    )
    # Narrow the band inside a thin subject, so that part of it stays known.
    reach = max(1.0, BAND * max(subject.shape))
    inner_reach = min(reach, 0.5 * float(inside.max()))
    trimap = np.full(subject.shape, UNKNOWN, np.float32)
    trimap[(inside > inner_reach)[1:-1, 1:-1]] = 1
    trimap[(outside > reach)[1:-1, 1:-1]] = 0
    return trimap if subject.any() else np.zeros_like(trimap)


def find_subject(image: ImageArray) -> Mask:
    """Find the subject of an opaque image (H x W x 3) by GrabCut (Rother et al., 2004).

    It starts with the border as background and the rest as subject, and runs GRABCUT_ITERATIONS
    iterations. The result is deterministic.
    """
    height, width = image.shape[:2]
    border_x, border_y = (
        max(1, round(GRABCUT_BORDER * width)),
        max(1, round(GRABCUT_BORDER * height)),
    )
    mask = np.zeros((height, width), np.uint8)
    cv2.setRNGSeed(0)  # GrabCut initializes its color models randomly
    box, models = (
        (border_x, border_y, width - 2 * border_x, height - 2 * border_y),
        np.zeros((2, 1, 65)),
    )
    cv2.grabCut(
        np.ascontiguousarray(image),
        mask,
        box,
        models[0],
        models[1],
        GRABCUT_ITERATIONS,
        cv2.GC_INIT_WITH_RECT,
    )
    subject: Mask = (mask == cv2.GC_FGD) | (mask == cv2.GC_PR_FGD)
    return subject
