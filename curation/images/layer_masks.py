"""Masks, distances and edge colors of a layer, each computed lazily and once.

Notation: C is straight color, a is alpha in 0..1, s is the longer side, core is a > 0.5.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

from curation.ports import RGBA

Plane = NDArray[np.float32]
Mask = NDArray[np.bool_]

TRIAGE_SIDE = 512
"""Larger layers are measured at this longer side, to bound the cost of a layer."""
MAX_EDGE_WIDTH = 0.03
"""The maximum width of a subject's edge, as a share of the longer side."""


class LayerMasks:
    """A layer prepared for measuring, at most TRIAGE_SIDE pixels long, with lazy masks."""

    def __init__(self, rgba: RGBA, side: int = TRIAGE_SIDE) -> None:
        straight = downscale(rgba, side)
        self.alpha: Plane = np.ascontiguousarray(straight[..., 3], np.float32) / np.float32(255)
        self.alpha_bytes = np.ascontiguousarray(straight[..., 3])
        self.rgb: Plane = straight[..., :3].astype(np.float32) / np.float32(255)
        self.core: Mask = self.alpha > 0.5
        self.core_area = int(np.count_nonzero(self.core))
        self.reach = max(1.5, MAX_EDGE_WIDTH * max(self.alpha.shape))

    @cached_property
    def outward(self) -> Plane:
        """Distance in pixels to the core; 0 inside it."""
        return np.asarray(
            cv2.distanceTransform((~self.core).view(np.uint8), cv2.DIST_L2, 3), np.float32
        )

    @cached_property
    def frame(self) -> Plane:
        """Alpha of the outermost pixels."""
        return border_of(self.alpha)

    @cached_property
    def holes(self) -> Mask:
        """Pixels with a <= 0.5 that the core encloses."""
        # Components of the complement that touch the border are outside, not holes.
        count, labels = cv2.connectedComponents((~self.core).view(np.uint8), connectivity=4)
        outside = np.zeros(count, bool)
        for side in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
            outside[side] = True
        enclosed: Mask = ~outside[labels] & ~self.core
        return enclosed

    @cached_property
    def parts(self) -> NDArray[np.int32]:
        """Areas in pixels of the core's connected components, largest first."""
        _, _, stats, _ = cv2.connectedComponentsWithStats(self.core.view(np.uint8), connectivity=8)
        return np.sort(np.asarray(stats[1:, cv2.CC_STAT_AREA], np.int32))[::-1]

    @cached_property
    def solid(self) -> Mask:
        """The opaque pixels (a >= 0.95), eroded by one pixel: their color is the subject's own."""
        opaque = (self.alpha >= 0.95).view(np.uint8)
        kept: Mask = np.asarray(
            cv2.erode(opaque, np.ones((3, 3)), borderType=cv2.BORDER_REPLICATE)
        ).view(bool)
        return kept

    @cached_property
    def band(self) -> Mask:
        """The soft edge: 0.05 < a < 0.95 within reach of the core."""
        soft: Mask = (self.alpha > 0.05) & (self.alpha < 0.95) & (self.outward <= self.reach)
        return soft

    @cached_property
    def edge(self) -> Edge | None:
        """Colors of the soft edge with the colors that the solid inside predicts, None if too few.

        The prediction is the mean solid color in a window around each pixel, in a wider window if
        the first contains no solid pixel.
        """
        if np.count_nonzero(self.band) < 8 or np.count_nonzero(self.solid) < 8:
            return None
        # Box means of the solid colors; the fourth channel is the share of solid pixels.
        weight = self.solid.astype(np.float32)
        known = np.dstack([self.rgb * weight[..., None], weight])
        near, wide = (
            cv2.blur(known, (k, k), borderType=cv2.BORDER_CONSTANT)[self.band]
            for k in self._windows()
        )
        found = near[:, 3:] > 1e-4
        chosen = np.where(found, near, wide)
        known_pixels = chosen[:, 3] > 1e-6
        if np.count_nonzero(known_pixels) < 8:
            return None

        # Divide by the share, and weight pixels by how mixed they are.
        chosen = chosen[known_pixels]
        a = self.alpha[self.band][known_pixels]
        expected = np.asarray(chosen[:, :3] / chosen[:, 3:], np.float32)
        return Edge(self.rgb[self.band][known_pixels], expected, 4 * a * (1 - a), a)

    def _windows(self) -> tuple[int, int]:
        return 2 * int(np.ceil(self.reach)) + 3, 2 * int(4 * self.reach) + 3


@dataclass(frozen=True)
class Edge:
    """N edge pixels: their colors, expected colors, weights 4a(1-a), and alpha."""

    color: Plane  # N x 3, 0..1
    expected: Plane  # N x 3, 0..1
    weight: Plane  # N
    alpha: Plane  # N

    def mean(self, values: Plane) -> float:
        """Return the weighted mean over the edge."""
        return float(np.average(values, weights=self.weight))

    def contamination(self, background: float) -> float | None:
        """Measure how far edge colors C have moved from the expected R towards a gray background B.

        The mean of <C - R, B - R> / |B - R|^2, clipped to [-1, 1]. Pixels whose R is close to B are
        left out.

        Args:
            background: The gray level B in 0..1.

        Returns:
            The weighted mean, None if fewer than eight pixels remain.
        """
        direction = background - self.expected
        length = np.einsum("nc,nc->n", direction, direction)
        distinct = length > 0.12
        if np.count_nonzero(distinct) < 8:
            return None
        moved = (
            np.einsum("nc,nc->n", self.color - self.expected, direction)[distinct]
            / length[distinct]
        )
        return float(np.average(np.clip(moved, -1, 1), weights=self.weight[distinct]))


def border_of(plane: Plane) -> Plane:
    """Return the border of an H x W array, each pixel once: top, bottom, left, right."""
    return np.concatenate([plane[0], plane[-1], plane[1:-1, 0], plane[1:-1, -1]])


def downscale(rgba: RGBA, side: int) -> RGBA:
    """Shrink a layer to at most `side` pixels in width and height.

    Args:
        rgba: H x W x 4 uint8, straight alpha.
        side: The maximum width and height in pixels; smaller layers are returned unchanged.

    Returns:
        The layer, averaged with premultiplied colors so that hidden colors do not bleed in.
    """
    height, width = rgba.shape[:2]
    scale = side / max(height, width)
    if scale >= 1:
        return rgba
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    alpha = cv2.resize(np.ascontiguousarray(rgba[..., 3]), size, interpolation=cv2.INTER_AREA)
    premultiplied = cv2.multiply(rgba[..., :3], cv2.merge([rgba[..., 3]] * 3), scale=1 / 255)
    color = cv2.resize(premultiplied, size, interpolation=cv2.INTER_AREA).astype(np.float32)
    straight = np.clip(
        np.rint(color * (255 / np.maximum(alpha, 1, dtype=np.float32))[..., None]), 0, 255
    )
    return np.dstack([straight.astype(np.uint8), alpha])
