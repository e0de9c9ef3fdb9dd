"""Synthetic defects of pairs: of the foreground, the background, and their shared light."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import cv2
import numpy as np

from curation.domain import LayerRole, RejectReason
from curation.errors import Refused
from curation.images.pairs import composite
from curation.ports import RGBA, Layers
from curation.screening.defects import add_defect

FOREGROUND, BACKGROUND, BLENDED = LayerRole.foreground, LayerRole.background, LayerRole.blended

PairDefectFunction = Callable[[RGBA, RGBA, float, np.random.Generator], tuple[RGBA, RGBA]]
"""Foreground, background, severity and RNG to a new foreground and background."""


def add_pair_defect(
    layers: Layers, defect: str, severity: float, rng: np.random.Generator
) -> Layers:
    """Return a copy of a pair with one defect; at severity 0 the same pixels.

    The blended image is composed again as for generated pairs (pairs.composite), so that the defect
    shows where it would, and the composition error itself reveals nothing.

    Args:
        layers: The three layers, H x W x 4 uint8.
        defect: A key of PAIR_DEFECTS.
        severity: The severity in [0, 1].
        rng: Source of the defect's position and color.

    Raises:
        Refused: The defect is unknown, or the severity out of range.
    """
    if defect not in PAIR_DEFECTS:
        raise Refused(f"unknown pair defect {defect!r}", "choose from " + ", ".join(PAIR_DEFECTS))
    if not 0 <= severity <= 1:
        raise Refused(f"severity {severity:g} is outside [0, 1]")
    front, back = layers[FOREGROUND].copy(), layers[BACKGROUND].copy()
    if severity > 0:
        front, back = PAIR_DEFECTS[defect](front, back, severity, rng)
    return {FOREGROUND: front, BACKGROUND: back, BLENDED: composite(front, back)}


def add_leak(
    front: RGBA, back: RGBA, severity: float, rng: np.random.Generator
) -> tuple[RGBA, RGBA]:
    """Leave the subject in the background: a faint ghost at first, complete at severity 1."""
    del rng
    ghost = front.copy()
    ghost[..., 3] = np.rint(severity * front[..., 3].astype(np.float32)).astype(np.uint8)
    return front, composite(ghost, back)


def add_seam(
    front: RGBA, back: RGBA, severity: float, rng: np.random.Generator
) -> tuple[RGBA, RGBA]:
    """Surround the subject in the background by a lighter or darker region, as poor inpainting.

    The region reaches 2 % of the image size beyond the subject; its step is up to 90 levels at
    severity 1, towards the side with more room.
    """
    size = max(front.shape[:2])
    reach = 1 + round(0.02 * size)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    region = cv2.dilate((front[..., 3] > 5).astype(np.uint8), disc) > 0
    colors = back[region][:, :3].astype(np.float32)
    tint = rng.uniform(0.8, 1, 3)
    # A slightly tinted step; dark regions get lighter and light ones darker.
    step = 90 * severity * tint * (1 if colors.size and colors.mean() < 128 else -1)
    seamed = back.copy()
    seamed[region, :3] = np.clip(np.rint(colors + step), 0, 255).astype(np.uint8)
    return front, seamed


def add_light_mismatch(
    front: RGBA, back: RGBA, severity: float, rng: np.random.Generator
) -> tuple[RGBA, RGBA]:
    """Change the light on the subject: warmer or colder, and brighter or dimmer.

    At severity 1 the tint changes channels by up to a half, the brightness by a third.
    """
    warm, bright = rng.choice([-1, 1], 2)
    # Gains of R, G and B: warm raises red and lowers blue, cold the reverse.
    gains = (1 + severity * np.array([0.5, 0.0, -0.5]) * warm) * (1 + severity * bright / 3)
    lit = front.copy()
    lit[..., :3] = np.clip(np.rint(front[..., :3] * gains), 0, 255).astype(np.uint8)
    return lit, back


def _on_foreground(defect: str) -> PairDefectFunction:
    def plant_on_foreground(
        front: RGBA, back: RGBA, severity: float, rng: np.random.Generator
    ) -> tuple[RGBA, RGBA]:
        # The background stays unchanged.
        return add_defect(front, defect, severity, rng), back

    return plant_on_foreground


PAIR_DEFECTS: Final[Mapping[str, PairDefectFunction]] = {
    "fringe": _on_foreground("fringe"),
    "haze": _on_foreground("haze"),
    "holes": _on_foreground("holes"),
    "leak": add_leak,
    "seam": add_seam,
    "light": add_light_mismatch,
}
"""Defects of pairs by name; the first three are those of single layers."""

PAIR_DEFECT_REASONS: Final[Mapping[str, tuple[RejectReason, LayerRole]]] = {
    "fringe": (RejectReason.halo, FOREGROUND),
    "haze": (RejectReason.residue, FOREGROUND),
    "holes": (RejectReason.holes, FOREGROUND),
    "leak": (RejectReason.residue, BACKGROUND),
    "seam": (RejectReason.residue, BACKGROUND),
    "light": (RejectReason.clash, BLENDED),
}
"""The best matching reject reason of each defect, and the layer it concerns."""
