"""Screening signals: what can be measured of one layer without knowing what it should show.

Each signal is one function with its name, definition, unit and cost in one line above it. All of them read one
`Measured` layer, prepared once. The definitions follow section 4.1 of the project's method notes; C is straight
colour, a alpha in 0..1, s the longer side, core = a > 0.5.
"""

from __future__ import annotations

from collections.abc import Callable
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


@dataclass(frozen=True)
class Definition:
    """What one signal is: its name, what it measures, in which unit and how dearly."""

    name: str
    definition: str
    unit: str
    cost: str  # "cheap": means and masks; "parts": components and distances; "colour": extrapolation of colours
    measure: Callable[[Measured], float | None]


SIGNALS: dict[str, Definition] = {}
"""Every signal by its name, in the order in which they are measured and shown."""


def signal(
    name: str, definition: str, unit: str, cost: str
) -> Callable[[Callable[[Measured], float | None]], Callable[[Measured], float | None]]:
    """Register the function below as the signal `name`."""

    def register(measure: Callable[[Measured], float | None]) -> Callable[[Measured], float | None]:
        SIGNALS[name] = Definition(name, definition, unit, cost, measure)
        return measure

    return register


def measure(rgba: RGBA) -> dict[str, float | None]:
    """Every signal of one H x W x 4 layer; None where a signal has nothing to be measured on (no core, no edge)."""
    measured = Measured(rgba)
    values = {name: definition.measure(measured) for name, definition in SIGNALS.items()}
    return {name: None if value is None else round(float(value), 6) for name, value in values.items()}


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
        return cv2.distanceTransform((~self.core).view(np.uint8), cv2.DIST_L2, 3)

    @cached_property
    def frame(self) -> Plane:
        """The outermost pixels' alpha."""
        a = self.alpha
        return np.concatenate([a[0], a[-1], a[1:-1, 0], a[1:-1, -1]])

    @cached_property
    def holes(self) -> Mask:
        """Everything below a = 0.5 that the core encloses."""
        count, labels = cv2.connectedComponents((~self.core).view(np.uint8), connectivity=4)
        outside = np.zeros(count, bool)
        for side in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
            outside[side] = True
        return ~outside[labels] & ~self.core

    @cached_property
    def parts(self) -> NDArray[np.int32]:
        """The areas in pixels of the core's connected parts, largest first."""
        _, _, stats, _ = cv2.connectedComponentsWithStats(self.core.view(np.uint8), connectivity=8)
        return np.sort(stats[1:, cv2.CC_STAT_AREA])[::-1]

    @cached_property
    def solid(self) -> Mask:
        """The opaque pixels (a >= 0.95) less their outermost ring: their colour is the subject's own."""
        opaque = (self.alpha >= 0.95).view(np.uint8)
        return cv2.erode(opaque, np.ones((3, 3), np.uint8), borderType=cv2.BORDER_REPLICATE).view(bool)

    @cached_property
    def band(self) -> Mask:
        """The soft edge: 0.05 < a < 0.95 within reach of the core."""
        return (self.alpha > 0.05) & (self.alpha < 0.95) & (self.outward <= self.reach)

    @cached_property
    def edge(self) -> Edge | None:
        """The soft edge's colours beside those that the subject's solid inside predicts; None where either is missing.

        The prediction is the mean solid colour in a window around each pixel, a wider one where the first sees none.
        """
        if np.count_nonzero(self.band) < 8 or np.count_nonzero(self.solid) < 8:
            return None
        weight = self.solid.astype(np.float32)
        known = np.dstack([self.rgb * weight[..., None], weight])
        near, wide = (cv2.blur(known, (k, k), borderType=cv2.BORDER_CONSTANT)[self.band] for k in self._windows())
        found = near[:, 3:] > 1e-4
        chosen = np.where(found, near, wide)
        seen = chosen[:, 3] > 1e-6
        if np.count_nonzero(seen) < 8:
            return None
        chosen = chosen[seen]
        a = self.alpha[self.band][seen]
        return Edge(self.rgb[self.band][seen], chosen[:, :3] / chosen[:, 3:], 4 * a * (1 - a), a)

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
    straight = np.clip(np.rint(colour * (255 / np.maximum(alpha, 1, dtype=np.float32))[..., None]), 0, 255)
    return np.dstack([straight.astype(np.uint8), alpha])


@signal("alpha_min", "the smallest alpha", "0..1", "cheap")
def _alpha_min(m: Measured) -> float:
    return float(m.alpha.min())


@signal("alpha_max", "the largest alpha", "0..1", "cheap")
def _alpha_max(m: Measured) -> float:
    return float(m.alpha.max())


@signal("coverage", "the mean of alpha", "share", "cheap")
def _coverage(m: Measured) -> float:
    return float(m.alpha.mean())


@signal("f_opaque", "pixels with a >= 0.98", "share", "cheap")
def _f_opaque(m: Measured) -> float:
    return float(np.mean(m.alpha >= 0.98))


@signal("f_clear", "pixels with a <= 0.02", "share", "cheap")
def _f_clear(m: Measured) -> float:
    return float(np.mean(m.alpha <= 0.02))


@signal("f_semi", "pixels with 0.02 < a < 0.98: ghosts, glass and noise", "share", "cheap")
def _f_semi(m: Measured) -> float:
    return float(np.mean((m.alpha > 0.02) & (m.alpha < 0.98)))


@signal("border_touch", "pixels of the outermost ring with a > 0.5: a subject cut at the border", "share", "cheap")
def _border_touch(m: Measured) -> float:
    return float(np.mean(m.frame > 0.5))


@signal("frame_haze", "pixels of the outermost ring with 0.01 < a < 0.5: a veil over the background", "share", "cheap")
def _frame_haze(m: Measured) -> float:
    return float(np.mean((m.frame > 0.01) & (m.frame < 0.5)))


@signal("haze", "the mean of alpha farther than 3 % of s from the core: residue of a background", "0..1", "parts")
def _haze(m: Measured) -> float | None:
    far = m.outward > m.reach
    return float(m.alpha[far].mean()) if m.core_area and far.any() else None


@signal("specks", "parts of {a > 0.04} without a core pixel, or with at most 2e-4 of the area", "count", "parts")
def _specks(m: Measured) -> float:
    count, labels, stats, _ = cv2.connectedComponentsWithStats((m.alpha > 0.04).view(np.uint8), connectivity=8)
    cored = np.zeros(count, bool)
    cored[labels[m.core]] = True
    small = stats[:, cv2.CC_STAT_AREA] <= max(1.0, 2e-4 * m.alpha.size)
    return float(np.count_nonzero((~cored | small)[1:]))


@signal("n_comp", "parts of the core", "count", "parts")
def _n_comp(m: Measured) -> float:
    return float(len(m.parts))


@signal("largest_share", "the largest part of the core in the whole core: stray objects lower it", "share", "parts")
def _largest_share(m: Measured) -> float | None:
    return float(m.parts[0] / m.parts.sum()) if len(m.parts) else None


@signal("hole_frac", "what the core encloses and is not core, by the core's area: punched subjects", "ratio", "parts")
def _hole_frac(m: Measured) -> float | None:
    return float(np.count_nonzero(m.holes) / m.core_area) if m.core_area else None


@signal("alpha_hf_core", "mean |Laplacian of a| inside the filled core, its outermost 3 % of s left out", "0..4", "parts")
def _alpha_hf_core(m: Measured) -> float | None:
    filled = np.pad((m.core | m.holes).view(np.uint8), 1)
    inside = cv2.distanceTransform(filled, cv2.DIST_L2, 3)[1:-1, 1:-1] > m.reach
    return float(np.abs(cv2.Laplacian(m.alpha, cv2.CV_32F))[inside].mean()) if inside.any() else None


@signal("alpha_grain", "mean |a - median of its 3 x 3| where a > 0.04 or the core encloses: salt and pepper", "0..1", "cheap")
def _alpha_grain(m: Measured) -> float | None:
    body = (m.alpha > 0.04) | m.holes
    if not body.any():
        return None
    return float(cv2.absdiff(m.alpha_bytes, cv2.medianBlur(m.alpha_bytes, 3))[body].mean() / 255)


@signal("fringe_dE", "CIEDE2000 between the soft edge's colour and the solid inside's, weighted 4a(1-a)", "dE", "colour")
def _fringe(m: Measured) -> float | None:
    if m.edge is None:
        return None
    return m.edge.mean(ciede2000(lab(m.edge.colour), lab(m.edge.expected)))


@signal("contam_grey", "how far the soft edge's colours have moved from the inside's towards grey", "-1..1", "colour")
def _contam_grey(m: Measured) -> float | None:
    return m.edge.contamination(0.5) if m.edge else None


@signal("contam_white", "the same towards white", "-1..1", "colour")
def _contam_white(m: Measured) -> float | None:
    return m.edge.contamination(1.0) if m.edge else None


@signal("contam_black", "the same towards black", "-1..1", "colour")
def _contam_black(m: Measured) -> float | None:
    return m.edge.contamination(0.0) if m.edge else None


@signal("premultiplied_gain", "how much closer C/a comes to the inside's colour than C, as a share of C's way", "share", "colour")
def _premultiplied_gain(m: Measured) -> float | None:
    """Near 1 where colours were stored multiplied by alpha; None where any C exceeds its alpha, as it then cannot be."""
    if m.edge is None or np.mean(m.edge.colour.max(axis=1) > m.edge.alpha + 0.02) > 0.01:
        return None
    divided = np.minimum(m.edge.colour / m.edge.alpha[:, None], 1)
    straight_way = m.edge.mean(np.abs(m.edge.colour - m.edge.expected).sum(axis=1))
    divided_way = m.edge.mean(np.abs(divided - m.edge.expected).sum(axis=1))
    return 1 - divided_way / straight_way if straight_way > 0.05 else None


def lab(rgb: Plane) -> Plane:
    """N sRGB colours in 0..1 as CIE L*a*b* under D65."""
    return cv2.cvtColor(np.ascontiguousarray(rgb, np.float32)[None], cv2.COLOR_RGB2Lab)[0]


def ciede2000(first: Plane, second: Plane) -> Plane:
    """Colour difference of N pairs of Lab colours (Sharma, Wu, Dalal 2005, equations 2-22)."""
    mean_chroma = (np.hypot(first[:, 1], first[:, 2]) + np.hypot(second[:, 1], second[:, 2])) / 2
    g = 0.5 * (1 - np.sqrt(mean_chroma**7 / (mean_chroma**7 + 25.0**7)))
    (l1, c1, h1), (l2, c2, h2) = (_polar(colour, g) for colour in (first, second))
    turn = (h2 - h1 + 540) % 360 - 180
    turn = np.where(c1 * c2 == 0, 0, turn)
    hue_way = 2 * np.sqrt(c1 * c2) * np.sin(np.radians(turn) / 2)
    light, chroma = (l1 + l2) / 2, (c1 + c2) / 2
    hue = np.where(c1 * c2 == 0, h1 + h2, (h1 + turn / 2) % 360)
    t = (
        1
        - 0.17 * np.cos(np.radians(hue - 30))
        + 0.24 * np.cos(np.radians(2 * hue))
        + 0.32 * np.cos(np.radians(3 * hue + 6))
        - 0.20 * np.cos(np.radians(4 * hue - 63))
    )
    s_l = 1 + 0.015 * (light - 50) ** 2 / np.sqrt(20 + (light - 50) ** 2)
    s_c, s_h = 1 + 0.045 * chroma, 1 + 0.015 * chroma * t
    r_c = 2 * np.sqrt(chroma**7 / (chroma**7 + 25.0**7))
    r_t = -r_c * np.sin(np.radians(60 * np.exp(-(((hue - 275) / 25) ** 2))))
    d_l, d_c, d_h = (l2 - l1) / s_l, (c2 - c1) / s_c, hue_way / s_h
    difference: Plane = np.sqrt(np.maximum(d_l**2 + d_c**2 + d_h**2 + r_t * d_c * d_h, 0))
    return difference


def _polar(colour: Plane, g: Plane) -> tuple[Plane, Plane, Plane]:
    """Lightness, chroma and hue in degrees, a* stretched by 1 + G (equations 5-7)."""
    a = colour[:, 1] * (1 + g)
    return colour[:, 0], np.hypot(a, colour[:, 2]), np.degrees(np.arctan2(colour[:, 2], a)) % 360
