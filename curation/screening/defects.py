"""Synthetic defects of layers, each a function of a severity from 0 (none) to 1 (unmissable)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from curation.domain import RejectReason
from curation.errors import Refused
from curation.ports import RGBA

DefectFunction = Callable[[RGBA, float, np.random.Generator], RGBA]
Mask = NDArray[np.float32]


def add_defect(rgba: RGBA, defect: str, severity: float, rng: np.random.Generator) -> RGBA:
    """Return a copy of a layer with one defect; at severity 0 the same pixels.

    Args:
        rgba: The layer, H x W x 4 uint8.
        defect: A key of DEFECTS.
        severity: The severity in [0, 1].
        rng: Source of the defect's position and color.

    Raises:
        Refused: The defect is unknown, or the severity out of range.
    """
    if defect not in DEFECTS:
        raise Refused(f"unknown defect {defect!r}", "choose from " + ", ".join(DEFECTS))
    if not 0 <= severity <= 1:
        raise Refused(f"severity {severity:g} is outside [0, 1]")
    return rgba.copy() if severity == 0 else DEFECTS[defect](rgba, severity, rng)


def add_fringe(rgba: RGBA, severity: float, rng: np.random.Generator) -> RGBA:
    """Add a light or dark halo.

    The colors of the soft edge, and of a rim of 1 pixel plus 2 % of the image size, shift towards
    it.
    """
    alpha = _alpha(rgba)
    reach = 1 + round(0.02 * _size(rgba) * severity)
    # Only the rim and the soft edge change; the solid inside keeps its colors.
    inside = cv2.erode(alpha, _disc(reach))
    rim = (alpha > 0.02) * (1 - inside)
    color = np.float32(255 if rng.random() < 0.5 else 0)
    return _blend_color(rgba, np.full(3, color), rim * np.float32(severity))


def add_haze(rgba: RGBA, severity: float, rng: np.random.Generator) -> RGBA:
    """Add background residue: a cloudy veil of one color, alpha up to 0.4 at severity 1."""
    height, width = rgba.shape[:2]
    # A smooth random field, as uneven as the remains of a real background.
    clouds = cv2.resize(
        rng.random((4, 4), dtype=np.float32), (width, height), interpolation=cv2.INTER_CUBIC
    )
    veil = np.clip(0.4 * severity * (0.4 + 0.6 * np.clip(clouds, 0, 1)), 0, 1).astype(np.float32)
    return _lay_under(rgba, rng.integers(40, 216, 3).astype(np.float32), veil)


def add_holes(rgba: RGBA, severity: float, rng: np.random.Generator) -> RGBA:
    """Cut a soft hole into the subject, up to 20 % of its area at severity 1."""
    alpha = _alpha(rgba)
    area = 0.2 * severity * float((alpha > 0.5).sum())
    mask = _soft_disc(alpha.shape, _inner_point(alpha, rng), np.sqrt(area / np.pi))
    return _with_alpha(rgba, alpha * (1 - mask))


def add_cut(rgba: RGBA, severity: float, rng: np.random.Generator) -> RGBA:
    """Move the subject across a border, by up to 40 % of its extent at severity 1."""
    axis, forward = int(rng.integers(0, 2)), bool(rng.random() < 0.5)
    occupied = np.flatnonzero((_alpha(rgba) > 0.1).any(axis=1 - axis))
    if not len(occupied):
        return rgba.copy()
    cut_length = max(1, round(0.4 * severity * (occupied[-1] + 1 - occupied[0])))
    size = rgba.shape[axis]
    # Towards the far border, or the near one: the subject's extent ends beyond it.
    shift = size - 1 - int(occupied[-1]) + cut_length if forward else -int(occupied[0]) - cut_length
    # Move by slices; the exposed side stays transparent.
    source, target = (
        (slice(0, size - shift), slice(shift, size))
        if shift > 0
        else (slice(-shift, size), slice(0, size + shift))
    )
    moved = np.zeros_like(rgba)
    if axis == 0:
        moved[target] = rgba[source]
    else:
        moved[:, target] = rgba[:, source]
    return moved


def add_specks(rgba: RGBA, severity: float, rng: np.random.Generator) -> RGBA:
    """Add debris: 1 to 24 blots of alpha 0.3 to 1 outside the subject, in its own colors."""
    alpha = _alpha(rgba)
    # Only where the subject is not, with a margin.
    free = np.argwhere(cv2.dilate(alpha, _disc(2)) < 0.05)
    if not len(free):
        return rgba.copy()
    count = 1 + round(23 * severity)
    points = free[rng.integers(0, len(free), count)]
    radius = 0.6 + 0.012 * _size(rgba)
    blots = np.max([_soft_disc(alpha.shape, point, radius) for point in points], axis=0)
    solid_colors = rgba[alpha > 0.5][:, :3] if (alpha > 0.5).any() else rgba.reshape(-1, 4)[:, :3]
    color = solid_colors[rng.integers(0, len(solid_colors))].astype(np.float32)
    return _lay_under(rgba, color, (0.3 + 0.7 * np.float32(severity)) * blots)


def add_opaque_ground(rgba: RGBA, severity: float, rng: np.random.Generator) -> RGBA:
    """Add an opaque layer below everything: solid at severity 1, faint at 0.1."""
    ground = np.full(rgba.shape[:2], severity**1.5, np.float32)
    return _lay_under(rgba, rng.integers(30, 226, 3).astype(np.float32), ground)


DEFECTS: Final[Mapping[str, DefectFunction]] = {
    "fringe": add_fringe,
    "haze": add_haze,
    "holes": add_holes,
    "cut": add_cut,
    "specks": add_specks,
    "opaque": add_opaque_ground,
}
"""Defects by name."""

DEFECT_REASONS: Final[Mapping[str, RejectReason]] = {
    "fringe": RejectReason.halo,
    "haze": RejectReason.residue,
    "holes": RejectReason.holes,
    "cut": RejectReason.cropped,
    "specks": RejectReason.residue,
    "opaque": RejectReason.opaque,
}
"""The best matching reject reason of each defect."""


def _alpha(rgba: RGBA) -> Mask:
    return rgba[..., 3].astype(np.float32) / np.float32(255)


def _size(rgba: RGBA) -> int:
    return int(max(rgba.shape[:2]))


def _disc(radius: int) -> NDArray[np.uint8]:
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1)).astype(
        np.uint8
    )


def _soft_disc(shape: tuple[int, ...], middle: NDArray[np.intp], radius: float) -> Mask:
    """Return 1 inside a disc and 0 outside, with an edge one pixel wide."""
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    distance = np.hypot(rows - middle[0], columns - middle[1])
    found: Mask = np.clip(radius + 0.5 - distance, 0, 1).astype(np.float32)
    return found


def _inner_point(alpha: Mask, rng: np.random.Generator) -> NDArray[np.intp]:
    """Return a point well inside the subject: of the tenth of its pixels farthest from its edge."""
    depth = cv2.distanceTransform((alpha > 0.5).astype(np.uint8), cv2.DIST_L2, 3)
    deep = (
        np.argwhere(depth >= np.quantile(depth[depth > 0], 0.9))
        if (depth > 0).any()
        else np.argwhere(depth >= 0)
    )
    point: NDArray[np.intp] = deep[rng.integers(0, len(deep))]
    return point


def _blend_color(rgba: RGBA, color: Mask, share: Mask) -> RGBA:
    """Shift colors towards one color by a share per pixel; alpha stays."""
    moved = rgba.astype(np.float32)
    moved[..., :3] += (color - moved[..., :3]) * share[..., None]
    return np.rint(moved).astype(np.uint8)


def _with_alpha(rgba: RGBA, alpha: Mask) -> RGBA:
    changed = rgba.copy()
    changed[..., 3] = np.rint(255 * alpha).astype(np.uint8)
    return changed


def _lay_under(rgba: RGBA, color: Mask, veil: Mask) -> RGBA:
    """Composite the layer over a veil of one color (source over, straight alpha out)."""
    # Source over with straight alpha: the mixed color weights the veil by its visible share.
    above = _alpha(rgba)
    below = veil * (1 - above)
    alpha = above + below
    weight = np.divide(below, alpha, out=np.zeros_like(alpha), where=alpha > 0)
    mixed = rgba.astype(np.float32)
    mixed[..., :3] += (color - mixed[..., :3]) * weight[..., None]
    mixed[..., 3] = 255 * alpha
    return np.rint(mixed).astype(np.uint8)
