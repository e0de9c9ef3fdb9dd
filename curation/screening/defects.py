"""Defects planted in sound layers: each a function of a severity from 0 (nothing changes) to 1 (nobody misses it)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from curation.domain import RejectReason
from curation.errors import Refused
from curation.ports import RGBA

Plant = Callable[[RGBA, float, np.random.Generator], RGBA]
Mask = NDArray[np.float32]


def plant(rgba: RGBA, defect: str, severity: float, rng: np.random.Generator) -> RGBA:
    """A copy of a layer (H x W x 4 uint8) with one defect of DEFECTS at a severity in [0, 1]; at 0 the same pixels.

    Where a defect lies, and its colour, are drawn from `rng`. Raises Refused for an unknown defect or severity.
    """
    if defect not in DEFECTS:
        raise Refused(f"there is no defect {defect!r}", "one of " + ", ".join(DEFECTS))
    if not 0 <= severity <= 1:
        raise Refused(f"a severity lies in [0, 1], not at {severity:g}")
    return rgba.copy() if severity == 0 else DEFECTS[defect](rgba, severity, rng)


def plant_fringe(rgba: RGBA, severity: float, rng: np.random.Generator) -> RGBA:
    """A light or dark halo: the colour of the soft edge and of a rim of 1 + 2 % of the side moves towards it."""
    alpha = _alpha(rgba)
    reach = 1 + round(0.02 * _side(rgba) * severity)
    inside = cv2.erode(alpha, _disc(reach))
    rim = (alpha > 0.02) * (1 - inside)
    colour = np.float32(255 if rng.random() < 0.5 else 0)
    return _blend_colour(rgba, np.full(3, colour), rim * np.float32(severity))


def plant_haze(rgba: RGBA, severity: float, rng: np.random.Generator) -> RGBA:
    """Remains of a background: a cloudy veil of one colour around the subject, alpha up to 0.4 at severity 1."""
    height, width = rgba.shape[:2]
    clouds = cv2.resize(
        rng.random((4, 4), dtype=np.float32), (width, height), interpolation=cv2.INTER_CUBIC
    )
    veil = np.clip(0.4 * severity * (0.4 + 0.6 * np.clip(clouds, 0, 1)), 0, 1).astype(np.float32)
    return _lay_under(rgba, rng.integers(40, 216, 3).astype(np.float32), veil)


def plant_holes(rgba: RGBA, severity: float, rng: np.random.Generator) -> RGBA:
    """Parts of the subject punched out: a soft hole inside it, of up to 20 % of its area at severity 1."""
    alpha = _alpha(rgba)
    area = 0.2 * severity * float((alpha > 0.5).sum())
    mask = _soft_disc(alpha.shape, _inner_point(alpha, rng), np.sqrt(area / np.pi))
    return _with_alpha(rgba, alpha * (1 - mask))


def plant_cut(rgba: RGBA, severity: float, rng: np.random.Generator) -> RGBA:
    """The subject cut at a border: moved beyond it by up to 40 % of its extent at severity 1."""
    axis, forward = int(rng.integers(0, 2)), bool(rng.random() < 0.5)
    seen = np.flatnonzero((_alpha(rgba) > 0.1).any(axis=1 - axis))
    if not len(seen):
        return rgba.copy()
    gone = max(1, round(0.4 * severity * (seen[-1] + 1 - seen[0])))
    size = rgba.shape[axis]
    step = size - 1 - int(seen[-1]) + gone if forward else -int(seen[0]) - gone
    here, there = (
        (slice(0, size - step), slice(step, size))
        if step > 0
        else (slice(-step, size), slice(0, size + step))
    )
    moved = np.zeros_like(rgba)
    if axis == 0:
        moved[there] = rgba[here]
    else:
        moved[:, there] = rgba[:, here]
    return moved


def plant_specks(rgba: RGBA, severity: float, rng: np.random.Generator) -> RGBA:
    """Debris: 1 to 24 small blots, alpha 0.3 to 1, outside the subject, in the subject's own colours."""
    alpha = _alpha(rgba)
    free = np.argwhere(cv2.dilate(alpha, _disc(2)) < 0.05)
    if not len(free):
        return rgba.copy()
    count = 1 + round(23 * severity)
    points = free[rng.integers(0, len(free), count)]
    radius = 0.6 + 0.012 * _side(rgba)
    blots = np.max([_soft_disc(alpha.shape, point, radius) for point in points], axis=0)
    solid = rgba[alpha > 0.5][:, :3] if (alpha > 0.5).any() else rgba.reshape(-1, 4)[:, :3]
    colour = solid[rng.integers(0, len(solid))].astype(np.float32)
    return _lay_under(rgba, colour, (0.3 + 0.7 * np.float32(severity)) * blots)


def plant_opaque(rgba: RGBA, severity: float, rng: np.random.Generator) -> RGBA:
    """What should be see-through is not: a plain ground under everything, solid at severity 1, a breath at 0.1."""
    ground = np.full(rgba.shape[:2], severity**1.5, np.float32)
    return _lay_under(rgba, rng.integers(30, 226, 3).astype(np.float32), ground)


DEFECTS: Final[Mapping[str, Plant]] = {
    "fringe": plant_fringe, "haze": plant_haze, "holes": plant_holes, "cut": plant_cut, "specks": plant_specks,
    "opaque": plant_opaque,
}  # fmt: skip
"""What can be planted, by name."""

REASONS: Final[Mapping[str, RejectReason]] = {
    "fringe": RejectReason.halo, "haze": RejectReason.residue, "holes": RejectReason.holes,
    "cut": RejectReason.cropped, "specks": RejectReason.residue, "opaque": RejectReason.opaque,
}  # fmt: skip
"""The reason that names each defect best."""


def _alpha(rgba: RGBA) -> Mask:
    return rgba[..., 3].astype(np.float32) / np.float32(255)


def _side(rgba: RGBA) -> int:
    return int(max(rgba.shape[:2]))


def _disc(radius: int) -> NDArray[np.uint8]:
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1)).astype(
        np.uint8
    )


def _soft_disc(shape: tuple[int, ...], middle: NDArray[np.intp], radius: float) -> Mask:
    """1 inside a disc, 0 outside, with an edge one pixel wide."""
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    distance = np.hypot(rows - middle[0], columns - middle[1])
    found: Mask = np.clip(radius + 0.5 - distance, 0, 1).astype(np.float32)
    return found


def _inner_point(alpha: Mask, rng: np.random.Generator) -> NDArray[np.intp]:
    """A point well inside the subject: one of the tenth of its pixels farthest from its edge."""
    depth = cv2.distanceTransform((alpha > 0.5).astype(np.uint8), cv2.DIST_L2, 3)
    deep = (
        np.argwhere(depth >= np.quantile(depth[depth > 0], 0.9))
        if (depth > 0).any()
        else np.argwhere(depth >= 0)
    )
    point: NDArray[np.intp] = deep[rng.integers(0, len(deep))]
    return point


def _blend_colour(rgba: RGBA, colour: Mask, share: Mask) -> RGBA:
    """Colours moved towards one colour by a share per pixel; alpha stays."""
    moved = rgba.astype(np.float32)
    moved[..., :3] += (colour - moved[..., :3]) * share[..., None]
    return np.rint(moved).astype(np.uint8)


def _with_alpha(rgba: RGBA, alpha: Mask) -> RGBA:
    changed = rgba.copy()
    changed[..., 3] = np.rint(255 * alpha).astype(np.uint8)
    return changed


def _lay_under(rgba: RGBA, colour: Mask, veil: Mask) -> RGBA:
    """The layer over a veil of one colour and this alpha (source over, W3C compositing, straight alpha out)."""
    above = _alpha(rgba)
    below = veil * (1 - above)
    alpha = above + below
    weight = np.divide(below, alpha, out=np.zeros_like(alpha), where=alpha > 0)
    mixed = rgba.astype(np.float32)
    mixed[..., :3] += (colour - mixed[..., :3]) * weight[..., None]
    mixed[..., 3] = 255 * alpha
    return np.rint(mixed).astype(np.uint8)
