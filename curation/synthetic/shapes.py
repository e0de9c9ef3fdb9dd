"""The shapes of the synthetic domain: a small grammar of captions, drawn as signed distance fields.

Every shape is a formula over the plane, so that its alpha is exact: coverage of a soft edge,
absorption of a glass wall, density of a cloud. Coordinates are complex numbers, x to the right and
y down, with the canvas from -1 to 1.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from curation.ports import RGBA

Plane = NDArray[np.complex128]
Field = NDArray[np.float64]

COLORS: Final[dict[str, tuple[int, int, int]]] = {
    "red": (215, 35, 40),
    "orange": (245, 140, 25),
    "yellow": (250, 225, 50),
    "green": (40, 165, 70),
    "blue": (40, 90, 220),
    "purple": (140, 50, 175),
    "black": (25, 25, 28),
    "white": (245, 245, 242),
    "grey": (130, 130, 130),
}
"""The named colors in sRGB; each drawn shape varies slightly around its own."""

SOLIDS: Final = ("circle", "square", "triangle", "star", "ring", "heart")
LETTERS: Final = ("A", "H", "L", "T", "X")
_BRIGHT: Final = ("red", "orange", "yellow", "green", "blue", "purple", "white")
_PAINTS: Final = (*_BRIGHT, "black")

FAMILIES: Final[dict[str, tuple[float, tuple[str, ...], tuple[str, ...]]]] = {
    "solid": (0.75, SOLIDS, _PAINTS),
    "glass": (0.06, ("glass ball",), _BRIGHT),
    "glow": (0.06, ("glow",), _BRIGHT),
    "smoke": (0.04, ("smoke",), ("grey", "white", "black")),
    "strokes": (0.05, ("strokes",), _PAINTS),
    "letter": (0.04, LETTERS, _PAINTS),
}
"""Family: its share of all images, its shapes and its colors.

Most are solid shapes, so that a tiny model can be trained.
"""


@dataclass(frozen=True)
class Subject:
    """The content of an image of this domain."""

    shape: str
    color: str

    @property
    def text(self) -> str:
        """The caption: "a red circle", "grey smoke", "thin green strokes", "the letter A in
        purple".
        """
        if self.shape in LETTERS:
            return f"the letter {self.shape} in {self.color}"
        if self.shape == "strokes":
            return f"thin {self.color} strokes"
        if self.shape == "smoke":
            return f"{self.color} smoke"
        return f"{'an' if self.color == 'orange' else 'a'} {self.color} {self.shape}"


SUBJECTS: Final[dict[str, Subject]] = {
    subject.text: subject
    for _, shapes, colors in FAMILIES.values()
    for subject in (Subject(shape, color) for shape in shapes for color in colors)
}
"""Every caption of the grammar with its subject."""

SHAPES: Final[tuple[str, ...]] = tuple(
    dict.fromkeys(subject.shape for subject in SUBJECTS.values())
)


def sample_subject(rng: np.random.Generator) -> Subject:
    """Return a random subject: families by their shares, shapes and colors uniformly."""
    shares = [share for share, _, _ in FAMILIES.values()]
    _, shapes, colors = list(FAMILIES.values())[int(rng.choice(len(shares), p=shares))]
    return Subject(shapes[int(rng.integers(len(shapes)))], colors[int(rng.integers(len(colors)))])


def draw_subject(subject: Subject, rng: np.random.Generator, size: int = 128) -> RGBA:
    """Draw a subject at a random position, scale and rotation.

    Args:
        subject: The subject.
        rng: The source of randomness.
        size: The image size in pixels.

    Returns:
        size x size x 4 uint8, straight color, 0 where alpha is 0.
    """
    alpha, light = _matte(subject.shape, rng, size)
    paint = np.clip(np.array(COLORS[subject.color], np.float64) + rng.uniform(-10, 10, 3), 0, 255)
    # Shading mixes the paint with white or black.
    tone = np.where(light > 0, 255.0, 0.0)[..., None]
    color = paint + (tone - paint) * np.abs(light)[..., None]
    alpha_8 = np.rint(np.clip(alpha, 0, 1) * 255)
    return np.dstack([np.where(alpha_8[..., None] > 0, np.rint(color), 0), alpha_8]).astype(
        np.uint8
    )


def _matte(shape: str, rng: np.random.Generator, size: int) -> tuple[Field, Field]:
    """Return alpha in 0..1, and shading: 1 is white, -1 black, 0 the subject's own color."""
    axis = (np.arange(size) + 0.5) * 2 / size - 1
    # Pixel centers as complex coordinates, shifted to a random position.
    plane = axis[None, :] + 1j * axis[:, None]
    plane = plane - complex(*rng.uniform(-0.08, 0.08, 2))
    if shape == "smoke":
        return _smoke(plane, rng)
    if shape == "strokes":
        return _strokes(plane, rng, size), np.zeros(plane.shape)
    radius = float(rng.uniform(0.52, 0.68))
    posed = plane * np.exp(-1j * rng.uniform(-0.15, 0.15)) / radius
    if shape == "glow":
        return _glow(posed)
    if shape == "glass ball":
        return _glass(posed, radius, size)
    # An edge at least one pixel wide, at most a few.
    softness = max(2.0 / size, float(rng.uniform(0.015, 0.06)))
    alpha = _coverage(_DISTANCES[shape](posed) * radius, softness)
    return alpha, np.clip(-0.12 * posed.imag, -0.15, 0.15)  # lit a little from above


def _coverage(distance: Field, softness: float) -> Field:
    """Return the coverage of a soft edge at signed distances from its middle."""
    covered: Field = np.clip(0.5 - distance / softness, 0, 1)
    return covered


def _glow(posed: Plane) -> tuple[Field, Field]:
    """Return a light that fades to nothing, opaque and white at its center."""
    fade = np.clip(1.25 - np.abs(posed), 0, 1.25) / 1.25
    return 0.98 * fade**1.6, 0.7 * fade**6


def _glass(posed: Plane, radius: float, size: int) -> tuple[Field, Field]:
    """Return a ball of colored glass: thin in the middle, thick at its rim, with a highlight."""
    along = np.abs(posed)
    body = _coverage((along - 1) * radius, 2.0 / size * 1.5)
    window = np.exp(-((np.abs(posed - (-0.38 - 0.42j)) / 0.17) ** 2))
    # The wall of a hollow ball is seen at a flatter angle towards its rim.
    alpha = body * np.maximum(0.28 + 0.55 * np.clip(along, 0, 1) ** 4, 0.95 * window)
    return alpha, 0.95 * window - 0.15 * np.clip(along, 0, 1) ** 8 * (1 - window)


def _smoke(plane: Plane, rng: np.random.Generator) -> tuple[Field, Field]:
    """Return a rising, widening column of soft puffs, each absorbing a share of the light."""
    clear = np.ones(plane.shape)
    for height in np.linspace(0.6, -0.55, 12):
        spread = 0.10 + 0.16 * (0.6 - height)
        center = complex(rng.normal(0, spread), height)
        # Each puff multiplies the transmitted light.
        clear *= 1 - rng.uniform(0.15, 0.4) * np.exp(
            -((np.abs(plane - center) / (0.13 + spread * 0.6)) ** 2)
        )
    inside = _coverage(np.abs(plane) - 0.7, 0.3)  # fade out before the border
    return (1 - clear) * inside, np.zeros(plane.shape)


def _strokes(plane: Plane, rng: np.random.Generator, size: int) -> Field:
    """Return three to five curved hairs from one root, one or two pixels wide at 128 pixels."""
    alpha = np.zeros(plane.shape)
    along = np.linspace(0, 1, 13)
    for _ in range(int(rng.integers(3, 6))):
        start = complex(rng.normal(0, 0.08), 0.7)
        end = complex(rng.uniform(-0.65, 0.65), rng.uniform(-0.7, -0.4))
        bend = complex(rng.uniform(-0.5, 0.5), rng.uniform(-0.1, 0.3))
        curve = (1 - along) ** 2 * start + 2 * along * (1 - along) * bend + along**2 * end
        width = rng.uniform(0.016, 0.032)
        alpha = np.maximum(alpha, _coverage(_to_path(plane, curve) - width / 2, 2.0 / size))
    return alpha


def _to_path(plane: Plane, points: Sequence[complex] | Plane) -> Field:
    """Return the distance to the nearest segment of a path."""
    nearest: Field = np.full(plane.shape, np.inf)
    for start, end in itertools.pairwise(points):
        along = end - start
        # Project onto the segment and clamp to its ends.
        position = np.clip(((plane - start) * np.conj(along)).real / abs(along) ** 2, 0, 1)
        nearest = np.minimum(nearest, np.abs(plane - start - position * along))
    return nearest


def _polygon(corners: Sequence[complex] | Plane) -> Callable[[Plane], Field]:
    """Return the signed distance function of a closed outline (even-odd rule)."""
    closed = np.append(np.asarray(corners), corners[0])

    def distance(plane: Plane) -> Field:
        inside = np.zeros(plane.shape, bool)
        # Even-odd rule: count the edges that a ray to the right crosses.
        for a, b in itertools.pairwise(closed):
            if a.imag != b.imag:
                crosses = (a.imag > plane.imag) != (b.imag > plane.imag)
                crossing = a.real + (b.real - a.real) * (plane.imag - a.imag) / (b.imag - a.imag)
                inside ^= crosses & (plane.real < crossing)
        return np.where(inside, -1.0, 1.0) * _to_path(plane, closed)

    return distance


def _letter(*paths: Sequence[complex]) -> Callable[[Plane], Field]:
    """Return the signed distance function of a letter drawn with a broad round pen."""
    return lambda plane: np.minimum.reduce([_to_path(plane, path) for path in paths]) - 0.2


def _corners(count: int, radii: Sequence[float]) -> Plane:
    """Return corners around the center, the first straight up, with the radii in turn."""
    corners: Plane = np.array(
        [radii[k % len(radii)] * -1j * np.exp(2j * np.pi * k / count) for k in range(count)]
    )
    return corners


def _heart() -> Plane:
    """Return the outline of a heart as 40 corners.

    The curve is x = 16 sin^3 t, y = 13 cos t - 5 cos 2t - 2 cos 3t - cos 4t.
    """
    t = np.arange(40) * 2 * np.pi / 40
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    outline: Plane = (16 * np.sin(t) ** 3 - 1j * (y + 2)) / 15.5
    return outline


_DISTANCES: Final[dict[str, Callable[[Plane], Field]]] = {
    "circle": lambda plane: np.abs(plane) - 1,
    "square": _polygon([-0.9 - 0.9j, 0.9 - 0.9j, 0.9 + 0.9j, -0.9 + 0.9j]),
    "triangle": _polygon(_corners(3, [1.2]) + 0.15j),
    "star": _polygon(_corners(10, [1.2, 0.5])),
    "ring": lambda plane: np.abs(np.abs(plane) - 0.78) - 0.24,
    "heart": _polygon(_heart()),
    "A": _letter([-0.7 + 0.9j, -0.9j, 0.7 + 0.9j], [-0.45 + 0.3j, 0.45 + 0.3j]),
    "H": _letter([-0.65 - 0.9j, -0.65 + 0.9j], [0.65 - 0.9j, 0.65 + 0.9j], [-0.65 + 0j, 0.65 + 0j]),
    "L": _letter([-0.5 - 0.9j, -0.5 + 0.9j, 0.6 + 0.9j]),
    "T": _letter([-0.75 - 0.9j, 0.75 - 0.9j], [-0.9j, 0.9j]),
    "X": _letter([-0.7 - 0.9j, 0.7 + 0.9j], [0.7 - 0.9j, -0.7 + 0.9j]),
}
"""Signed distance functions of shapes with a sharp outline, with a radius of about one unit."""
