"""Defects planted in sound pairs: of the foreground, of the background behind it, and of the light they share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import cv2
import numpy as np

from curation.domain import LayerRole, RejectReason
from curation.errors import Refused
from curation.images.pairs import composite
from curation.ports import RGBA, Layers
from curation.screening.defects import plant

FRONT, BACK, WHOLE = LayerRole.foreground, LayerRole.background, LayerRole.blended

PlantPair = Callable[[RGBA, RGBA, float, np.random.Generator], tuple[RGBA, RGBA]]
"""Foreground and background, severity and coins; both come back."""


def plant_pair(layers: Layers, defect: str, severity: float, rng: np.random.Generator) -> Layers:
    """A copy of a pair (three layers, H x W x 4 uint8) with one of PAIR_DEFECTS at a severity in [0, 1].

    The blended image is composed anew, as drawn pairs have it (pairs.composite), so that the defect shows where it
    would, and its own error never tells. At 0 foreground and background are the same pixels. Raises Refused for an
    unknown defect or severity.
    """
    if defect not in PAIR_DEFECTS:
        raise Refused(
            f"there is no defect {defect!r} of pairs", "one of " + ", ".join(PAIR_DEFECTS)
        )
    if not 0 <= severity <= 1:
        raise Refused(f"a severity lies in [0, 1], not at {severity:g}")
    front, back = layers[FRONT].copy(), layers[BACK].copy()
    if severity > 0:
        front, back = PAIR_DEFECTS[defect](front, back, severity, rng)
    return {FRONT: front, BACK: back, WHOLE: composite(front, back)}


def plant_leak(
    front: RGBA, back: RGBA, severity: float, rng: np.random.Generator
) -> tuple[RGBA, RGBA]:
    """The subject left in the background, as strongly as the severity says: a ghost at first, at 1 all of it."""
    del rng
    ghost = front.copy()
    ghost[..., 3] = np.rint(severity * front[..., 3].astype(np.float32)).astype(np.uint8)
    return front, composite(ghost, back)


def plant_seam(
    front: RGBA, back: RGBA, severity: float, rng: np.random.Generator
) -> tuple[RGBA, RGBA]:
    """An inpainted region that ends in a step: all within 2 % of the side around the subject is lighter or darker.

    By up to 90 levels at severity 1, towards the side where there is room.
    """
    side = max(front.shape[:2])
    reach = 1 + round(0.02 * side)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    region = cv2.dilate((front[..., 3] > 5).astype(np.uint8), disc) > 0
    colour = back[region][:, :3].astype(np.float32)
    tint = rng.uniform(0.8, 1, 3)
    step = 90 * severity * tint * (1 if colour.size and colour.mean() < 128 else -1)
    seamed = back.copy()
    seamed[region, :3] = np.clip(np.rint(colour + step), 0, 255).astype(np.uint8)
    return front, seamed


def plant_light(
    front: RGBA, back: RGBA, severity: float, rng: np.random.Generator
) -> tuple[RGBA, RGBA]:
    """Another light on the subject: warm or cold, and brighter or dimmer; up to half and a third at severity 1."""
    warm, bright = rng.choice([-1, 1], 2)
    gains = (1 + severity * np.array([0.5, 0.0, -0.5]) * warm) * (1 + severity * bright / 3)
    lit = front.copy()
    lit[..., :3] = np.clip(np.rint(front[..., :3] * gains), 0, 255).astype(np.uint8)
    return lit, back


def _in_front(defect: str) -> PlantPair:
    def plant_in_front(
        front: RGBA, back: RGBA, severity: float, rng: np.random.Generator
    ) -> tuple[RGBA, RGBA]:  # what stands behind stays as it is
        return plant(front, defect, severity, rng), back

    return plant_in_front


PAIR_DEFECTS: Final[Mapping[str, PlantPair]] = {
    "fringe": _in_front("fringe"), "haze": _in_front("haze"), "holes": _in_front("holes"),
    "leak": plant_leak, "seam": plant_seam, "light": plant_light,
}  # fmt: skip
"""What can be planted in a pair, by name; the first three are those of single layers, seen before a background."""

PAIR_REASONS: Final[Mapping[str, tuple[RejectReason, LayerRole]]] = {
    "fringe": (RejectReason.halo, FRONT), "haze": (RejectReason.residue, FRONT), "holes": (RejectReason.holes, FRONT),
    "leak": (RejectReason.residue, BACK), "seam": (RejectReason.residue, BACK), "light": (RejectReason.clash, WHOLE),
}  # fmt: skip
"""The reason that names each best, and the layer that it concerns."""
