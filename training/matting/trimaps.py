"""Trimaps without a person: what is surely subject, what is surely background, and a band between them to be solved."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]
Plane = NDArray[np.float32]
Mask = NDArray[np.bool_]

UNKNOWN = 0.5
BAND = 0.02
"""Half the width of the unknown band, as a share of the longer side."""
FRAME = 0.02
"""The border that GrabCut takes for background to begin with, as a share of each side; a pixel at least."""
TURNS = 5


def trimap_of(subject: Mask) -> Plane:
    """1 well inside a mask, 0 well outside, UNKNOWN in a band of BAND of the longer side to each side of its outline.

    The usual way to a trimap from a segmentation (erode it, dilate it). Where a subject is thinner than the band, the
    band is narrowed until something of it is known; a mask of nothing or of everything has no outline.
    """
    inside = np.asarray(
        cv2.distanceTransform(np.pad(subject, 1, mode="edge").astype(np.uint8), cv2.DIST_L2, 5)
    )
    outside = np.asarray(
        cv2.distanceTransform(np.pad(~subject, 1, mode="edge").astype(np.uint8), cv2.DIST_L2, 5)
    )
    reach = max(1.0, BAND * max(subject.shape))
    known = min(reach, 0.5 * float(inside.max()))
    trimap = np.full(subject.shape, UNKNOWN, np.float32)
    trimap[(inside > known)[1:-1, 1:-1]] = 1
    trimap[(outside > reach)[1:-1, 1:-1]] = 0
    return trimap if subject.any() else np.zeros_like(trimap)


def find_subject(picture: Picture) -> Mask:
    """Where the subject of an opaque picture (H x W x 3) is, with no model: GrabCut (Rother, Kolmogorov, Blake, 2004).

    It begins with the border as background and all else as subject, and takes TURNS. The same each time.
    """
    height, width = picture.shape[:2]
    across, down = max(1, round(FRAME * width)), max(1, round(FRAME * height))
    mask = np.zeros((height, width), np.uint8)
    cv2.setRNGSeed(0)
    box, models = (across, down, width - 2 * across, height - 2 * down), np.zeros((2, 1, 65))
    cv2.grabCut(
        np.ascontiguousarray(picture), mask, box, models[0], models[1], TURNS, cv2.GC_INIT_WITH_RECT
    )
    subject: Mask = (mask == cv2.GC_FGD) | (mask == cv2.GC_PR_FGD)
    return subject
