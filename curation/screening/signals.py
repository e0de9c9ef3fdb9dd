"""Screening signals: measurements of one layer that do not depend on its prompt.

Each signal is a function registered with name, definition, unit and cost. All read one measured
layer, prepared once. The definitions follow section 4.1 of the project's method notes; C is
straight color, a alpha in 0..1, s the image size (longer side), core = a > 0.5.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import cv2
import numpy as np

from curation.images.layer_masks import LayerMasks, border_of
from curation.ports import RGBA
from curation.screening.color import ciede2000, srgb_to_lab


@dataclass(frozen=True)
class SignalDefinition:
    """The definition of one signal.

    `cost` is "cheap" (means and masks), "parts" (components and distances) or "colour"
    (extrapolation of colors).
    """

    name: str
    definition: str
    unit: str
    cost: str
    measure: Callable[[LayerMasks], float | None]


SIGNALS: dict[str, SignalDefinition] = {}
"""Signals by name, in the order in which they are computed and shown."""


def register_signal(
    name: str, definition: str, unit: str, cost: str
) -> Callable[[Callable[[LayerMasks], float | None]], Callable[[LayerMasks], float | None]]:
    """Register the decorated function as a signal.

    Args:
        name: The name of the signal.
        definition: A short definition.
        unit: The unit or range of its values.
        cost: "cheap", "parts" or "colour".
    """

    def register(
        measure: Callable[[LayerMasks], float | None],
    ) -> Callable[[LayerMasks], float | None]:
        SIGNALS[name] = SignalDefinition(name, definition, unit, cost, measure)
        return measure

    return register


def compute_signals(rgba: RGBA, names: Iterable[str] | None = None) -> dict[str, float | None]:
    """Return the signals of one layer; None for signals that are undefined for it (no core).

    Args:
        rgba: The layer, H x W x 4 uint8.
        names: Only these signals; None for all.
    """
    # Masks, distances and the edge are computed once, lazily, and shared by all signals.
    measured = LayerMasks(rgba)
    values = {
        name: SIGNALS[name].measure(measured) for name in (SIGNALS if names is None else names)
    }
    return {
        name: None if value is None else round(float(value), 6) for name, value in values.items()
    }


@register_signal("alpha_min", "the smallest alpha", "0..1", "cheap")
def _alpha_min(m: LayerMasks) -> float:
    return float(m.alpha.min())


@register_signal("alpha_max", "the largest alpha", "0..1", "cheap")
def _alpha_max(m: LayerMasks) -> float:
    return float(m.alpha.max())


@register_signal("coverage", "the mean of alpha", "share", "cheap")
def _coverage(m: LayerMasks) -> float:
    return float(m.alpha.mean())


@register_signal("f_opaque", "pixels with a >= 0.98", "share", "cheap")
def _f_opaque(m: LayerMasks) -> float:
    return float(np.mean(m.alpha >= 0.98))


@register_signal("f_clear", "pixels with a <= 0.02", "share", "cheap")
def _f_clear(m: LayerMasks) -> float:
    return float(np.mean(m.alpha <= 0.02))


@register_signal("f_semi", "pixels with 0.02 < a < 0.98: ghosts, glass and noise", "share", "cheap")
def _f_semi(m: LayerMasks) -> float:
    return float(np.mean((m.alpha > 0.02) & (m.alpha < 0.98)))


@register_signal(
    "border_touch",
    "pixels of the outermost ring with a > 0.5: a subject cut at the border",
    "share",
    "cheap",
)
def _border_touch(m: LayerMasks) -> float:
    return float(np.mean(m.frame > 0.5))


@register_signal(
    "cut_share",
    "border_touch without the bottom row and the lowest third of the sides: a cut that no bust has",
    "share",
    "cheap",
)
def _cut_share(m: LayerMasks) -> float:
    # A bust or a standing figure is usually cut at the bottom: that is no defect.
    above = m.alpha.shape[0] - m.alpha.shape[0] // 3
    ring = np.concatenate([m.alpha[0], m.alpha[1:above, 0], m.alpha[1:above, -1]])
    return float(np.mean(ring > 0.5))


@register_signal(
    "frame_haze",
    "pixels of the outermost ring with 0.01 < a < 0.5, farther than 3 % of s from the core: a veil",
    "share",
    "parts",
)
def _frame_haze(m: LayerMasks) -> float:
    veiled = (m.frame > 0.01) & (m.frame < 0.5)
    # The soft edge of a subject that reaches the border does not count as a veil.
    return float(np.mean(veiled & (border_of(m.outward) > m.reach) if m.core_area else veiled))


@register_signal(
    "haze",
    "the mean of alpha farther than 3 % of s from the core: residue of a background",
    "0..1",
    "parts",
)
def _haze(m: LayerMasks) -> float | None:
    far = m.outward > m.reach
    return float(m.alpha[far].mean()) if m.core_area and far.any() else None


@register_signal(
    "specks",
    "parts of {a > 0.04} without a core pixel, or with at most 2e-4 of the area",
    "count",
    "parts",
)
def _specks(m: LayerMasks) -> float:
    count, labels, stats, _ = cv2.connectedComponentsWithStats(
        (m.alpha > 0.04).view(np.uint8), connectivity=8
    )
    # Debris is a component without a core pixel, or a tiny one.
    cored = np.zeros(count, bool)
    cored[labels[m.core]] = True
    small = stats[:, cv2.CC_STAT_AREA] <= max(1.0, 2e-4 * m.alpha.size)
    return float(np.count_nonzero((~cored | small)[1:]))


@register_signal("n_comp", "parts of the core", "count", "parts")
def _n_comp(m: LayerMasks) -> float:
    return float(len(m.parts))


@register_signal(
    "largest_share",
    "the largest part of the core in the whole core: stray objects lower it",
    "share",
    "parts",
)
def _largest_share(m: LayerMasks) -> float | None:
    return float(m.parts[0] / m.parts.sum()) if len(m.parts) else None


@register_signal(
    "hole_frac",
    "area enclosed by the core, relative to the core's own: punched subjects",
    "ratio",
    "parts",
)
def _hole_frac(m: LayerMasks) -> float | None:
    return float(np.count_nonzero(m.holes) / m.core_area) if m.core_area else None


@register_signal(
    "alpha_hf_core",
    "mean |Laplacian of a| inside the filled core, its outermost 3 % of s left out",
    "0..4",
    "parts",
)
def _alpha_hf_core(m: LayerMasks) -> float | None:
    # Padding makes the image border count as an edge of the filled core.
    filled = np.pad((m.core | m.holes).view(np.uint8), 1)
    inside = cv2.distanceTransform(filled, cv2.DIST_L2, 3)[1:-1, 1:-1] > m.reach
    return (
        float(np.abs(cv2.Laplacian(m.alpha, cv2.CV_32F))[inside].mean()) if inside.any() else None
    )


@register_signal(
    "alpha_grain",
    "mean |a - median of its 3 x 3| where a > 0.04 or the core encloses: salt and pepper",
    "0..1",
    "cheap",
)
def _alpha_grain(m: LayerMasks) -> float | None:
    body = (m.alpha > 0.04) | m.holes
    if not body.any():
        return None
    return float(cv2.absdiff(m.alpha_bytes, cv2.medianBlur(m.alpha_bytes, 3))[body].mean() / 255)


@register_signal(
    "fringe_dE",
    "CIEDE2000 between the soft edge's color and the solid inside's, weighted 4a(1-a)",
    "dE",
    "colour",
)
def _fringe(m: LayerMasks) -> float | None:
    if m.edge is None:
        return None
    return m.edge.mean(ciede2000(srgb_to_lab(m.edge.color), srgb_to_lab(m.edge.expected)))


@register_signal(
    "contam_grey",
    "how far the soft edge's colors have moved from the inside's towards gray",
    "-1..1",
    "colour",
)
def _contam_grey(m: LayerMasks) -> float | None:
    return m.edge.contamination(0.5) if m.edge else None


@register_signal("contam_white", "the same towards white", "-1..1", "colour")
def _contam_white(m: LayerMasks) -> float | None:
    return m.edge.contamination(1.0) if m.edge else None


@register_signal("contam_black", "the same towards black", "-1..1", "colour")
def _contam_black(m: LayerMasks) -> float | None:
    return m.edge.contamination(0.0) if m.edge else None


@register_signal(
    "premultiplied_gain",
    "how much closer C/a is to the inside's color than C, as a share of C's distance",
    "share",
    "colour",
)
def _premultiplied_gain(m: LayerMasks) -> float | None:
    """Return the gain of dividing colors by alpha, near 1 if they were stored premultiplied.

    None if C exceeds alpha, since premultiplied colors cannot.
    """
    if m.edge is None or np.mean(m.edge.color.max(axis=1) > m.edge.alpha + 0.02) > 0.01:
        return None
    # If colors were premultiplied, dividing by alpha brings them closer to the inside's color.
    divided = np.minimum(m.edge.color / m.edge.alpha[:, None], 1)
    straight_error = m.edge.mean(np.abs(m.edge.color - m.edge.expected).sum(axis=1))
    divided_error = m.edge.mean(np.abs(divided - m.edge.expected).sum(axis=1))
    return 1 - divided_error / straight_error if straight_error > 0.05 else None
