"""One layer prepared for measuring: masks, distances and edge colours, each computed once and only when asked for.

C is straight colour, a alpha in 0..1, s the longer side, core = a > 0.5.
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
"""Larger layers are measured at this longer side, so that the cost of a layer has a bound."""
REACH = 0.03
"""The edge of a subject is this share of the longer side wide, at the most."""


class Measured:
    """One layer prepared for measuring: at most TRIAGE_SIDE long, as floats, its masks computed once when asked for."""

    def __init__(self, rgba: RGBA, side: int = TRIAGE_SIDE) -> None:
        straight = shrink(rgba, side)
        self.alpha: Plane = np.ascontiguousarray(straight[..., 3], np.float32) / np.float32(255)
        self.alpha_bytes = np.ascontiguousarray(straight[..., 3])
        self.rgb: Plane = straight[..., :3].astype(np.float32) / np.float32(255)
        self.core: Mask = self.alpha > 0.5
        self.core_area = int(np.count_nonzero(self.core))
        self.reach = max(1.5, REACH * max(self.alpha.shape))

    @cached_property
    def outward(self) -> Plane:
        """Distance in pixels to the core; 0 inside it."""
        return np.asarray(
            cv2.distanceTransform((~self.core).view(np.uint8), cv2.DIST_L2, 3), np.float32
        )

    @cached_property
    def frame(self) -> Plane:
        """The outermost pixels' alpha."""
        return border_of(self.alpha)

    @cached_property
    def holes(self) -> Mask:
        """Everything below a = 0.5 that the core encloses."""
        count, labels = cv2.connectedComponents((~self.core).view(np.uint8), connectivity=4)
        outside = np.zeros(count, bool)
        for side in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
            outside[side] = True
        enclosed: Mask = ~outside[labels] & ~self.core
        return enclosed

    @cached_property
    def parts(self) -> NDArray[np.int32]:
        """The areas in pixels of the core's connected parts, largest first."""
        _, _, stats, _ = cv2.connectedComponentsWithStats(self.core.view(np.uint8), connectivity=8)
        return np.sort(np.asarray(stats[1:, cv2.CC_STAT_AREA], np.int32))[::-1]

    @cached_property
    def solid(self) -> Mask:
        """The opaque pixels (a >= 0.95) less their outermost ring: their colour is the subject's own."""
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
        """The soft edge's colours beside those that the subject's solid inside predicts; None where either is missing.

        The prediction is the mean solid colour in a window around each pixel, a wider one where the first sees none.
        """
        if np.count_nonzero(self.band) < 8 or np.count_nonzero(self.solid) < 8:
            return None
        weight = self.solid.astype(np.float32)
        known = np.dstack([self.rgb * weight[..., None], weight])
        near, wide = (
            cv2.blur(known, (k, k), borderType=cv2.BORDER_CONSTANT)[self.band]
            for k in self._windows()
        )
        found = near[:, 3:] > 1e-4
        chosen = np.where(found, near, wide)
        seen = chosen[:, 3] > 1e-6
        if np.count_nonzero(seen) < 8:
            return None
        chosen = chosen[seen]
        a = self.alpha[self.band][seen]
        expected = np.asarray(chosen[:, :3] / chosen[:, 3:], np.float32)
        return Edge(self.rgb[self.band][seen], expected, 4 * a * (1 - a), a)

    def _windows(self) -> tuple[int, int]:
        return 2 * int(np.ceil(self.reach)) + 3, 2 * int(4 * self.reach) + 3


@dataclass(frozen=True)
class Edge:
    """N edge pixels: their colours, the colours expected of them, their weight 4a(1-a), and their alpha."""

    colour: Plane  # N x 3, 0..1
    expected: Plane  # N x 3, 0..1
    weight: Plane  # N
    alpha: Plane  # N

    def mean(self, values: Plane) -> float:
        """The weighted mean over the edge."""
        return float(np.average(values, weights=self.weight))

    def contamination(self, background: float) -> float | None:
        """How far edge colours have moved from R towards a grey B: <C - R, B - R> / |B - R|^2, clipped to [-1, 1].

        Pixels whose R is already close to B tell nothing and are left out; None where fewer than eight remain.
        """
        way = background - self.expected
        length = np.einsum("nc,nc->n", way, way)
        told = length > 0.12
        if np.count_nonzero(told) < 8:
            return None
        moved = np.einsum("nc,nc->n", self.colour - self.expected, way)[told] / length[told]
        return float(np.average(np.clip(moved, -1, 1), weights=self.weight[told]))


def border_of(plane: Plane) -> Plane:
    """Return the outermost pixels of H x W values, each once: top and bottom row, left and right column."""
    return np.concatenate([plane[0], plane[-1], plane[1:-1, 0], plane[1:-1, -1]])


def shrink(rgba: RGBA, side: int) -> RGBA:
    """The layer at most `side` pixels long, averaged over premultiplied colours so that hidden ones do not bleed in."""
    height, width = rgba.shape[:2]
    scale = side / max(height, width)
    if scale >= 1:
        return rgba
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    alpha = cv2.resize(np.ascontiguousarray(rgba[..., 3]), size, interpolation=cv2.INTER_AREA)
    premultiplied = cv2.multiply(rgba[..., :3], cv2.merge([rgba[..., 3]] * 3), scale=1 / 255)
    colour = cv2.resize(premultiplied, size, interpolation=cv2.INTER_AREA).astype(np.float32)
    straight = np.clip(
        np.rint(colour * (255 / np.maximum(alpha, 1, dtype=np.float32))[..., None]), 0, 255
    )
    return np.dstack([straight.astype(np.uint8), alpha])
