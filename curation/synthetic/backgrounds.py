"""The backgrounds of the synthetic domain, subjects in front of them, and their shared light.

A background is one field above a ground line and one below. Neither the height of the line nor the
light is part of any text: only a model that generates both layers together can make them agree.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from curation.domain import LayerRole, Prompt
from curation.images.pairs import composite
from curation.ports import RGBA
from curation.synthetic.shapes import FAMILIES, Subject, draw_subject

Field = NDArray[np.float64]
RGBColor = tuple[int, int, int]

SKIES: Final[dict[str, RGBColor]] = {
    "blue": (110, 165, 235),
    "pink": (240, 165, 195),
    "grey": (165, 170, 180),
}
LANDS: Final[dict[str, RGBColor]] = {
    "grass": (85, 150, 55),
    "sand": (220, 190, 125),
    "snow": (240, 243, 248),
    "earth": (110, 75, 50),
}
WALLS: Final[dict[str, RGBColor]] = {
    "yellow": (235, 210, 110),
    "green": (120, 190, 150),
    "blue": (110, 140, 205),
    "red": (200, 105, 95),
}
PATTERNS: Final = ("plain", "striped", "checked")
FLOOR: Final[RGBColor] = (150, 105, 65)

MIN_LINE, MAX_LINE = 0.7, 0.86
"""The range of ground lines, as a share of the height from the top."""
MIN_BRIGHTNESS: Final = 0.5
"""The lowest brightness of a light; the highest is 1."""
WARM_GAINS: Final = np.array([1.0, 0.9, 0.72])
COLD_GAINS: Final = np.array([0.76, 0.91, 1.0])
"""The ends of the tint range as gains of R, G and B; daylight (1, 1, 1) is in the middle."""

SHAPES_IN_PAIRS: Final = ("solid", "glass", "letter")
COLORS_IN_PAIRS: Final = ("red", "orange", "yellow", "green", "blue", "purple", "white")
"""Colors of subjects in pairs.

Gray and black are left out, since they equal white in less light.
"""


@dataclass(frozen=True)
class SyntheticBackground:
    """The content of a background: a sky over land (pattern "sky"), or a wall over a floor."""

    pattern: str
    color: str
    land: str = ""

    @property
    def text(self) -> str:
        """The caption: "grass under a blue sky", "a striped green wall"."""
        if self.pattern == "sky":
            return f"{self.land} under a {self.color} sky"
        return f"a {self.pattern} {self.color} wall"

    @property
    def fields(self) -> tuple[Field, Field]:
        """The colors above and below the ground line in daylight, R, G, B in 0..255."""
        above, below = (
            (SKIES[self.color], LANDS[self.land]) if self.land else (WALLS[self.color], FLOOR)
        )
        return np.array(above, np.float64), np.array(below, np.float64)


GROUNDS: Final[dict[str, SyntheticBackground]] = {
    ground.text: ground
    for ground in [
        *(SyntheticBackground("sky", sky, land) for sky in SKIES for land in LANDS),
        *(SyntheticBackground(pattern, wall) for pattern in PATTERNS for wall in WALLS),
    ]
}
"""Every caption of a background with its content."""

PAIR_SUBJECTS: Final[dict[str, Subject]] = {
    subject.text: subject
    for family in SHAPES_IN_PAIRS
    for shape in FAMILIES[family][1]
    for subject in (Subject(shape, color) for color in COLORS_IN_PAIRS)
}
"""Every caption of a subject in a pair."""


@dataclass(frozen=True)
class SyntheticScene:
    """One pair to draw: the content of its texts, and the properties that no text names."""

    subject: Subject
    ground: SyntheticBackground
    line: float  # the ground line, a share MIN_LINE..MAX_LINE of the image height
    light: Field  # gains of R, G and B in 0..1, on both layers

    @property
    def prompt(self) -> Prompt:
        """The three texts of the pair.

        Such as "a red star on grass under a blue sky" or "a red star in front of a striped green
        wall".
        """
        return join_texts(self.subject.text, self.ground.text)


def join_texts(foreground: str, background: str) -> Prompt:
    """Return the prompt of a pair from the texts of its layers."""
    ground = GROUNDS.get(background)
    between = "on" if ground is not None and ground.land else "in front of"
    return Prompt(f"{foreground} {between} {background}", foreground, background)


def make_light(brightness: float, tint: float) -> Field:
    """Return the gains of a light for R, G and B.

    Args:
        brightness: MIN_BRIGHTNESS..1.
        tint: From -1 (cold) over 0 (daylight) to 1 (warm).
    """
    end = WARM_GAINS if tint > 0 else COLD_GAINS
    return brightness * (1 + (end - 1) * abs(tint))


def sample_scene(rng: np.random.Generator) -> SyntheticScene:
    """Return a random scene.

    Shapes have the frequencies of the single-layer seed set; grounds, lines and lights are uniform.
    """
    # Renormalize the shares of the families that can stand on a ground.
    shares = np.array([FAMILIES[family][0] for family in SHAPES_IN_PAIRS])
    shapes = FAMILIES[SHAPES_IN_PAIRS[int(rng.choice(len(shares), p=shares / shares.sum()))]][1]
    color = COLORS_IN_PAIRS[int(rng.integers(len(COLORS_IN_PAIRS)))]
    subject = Subject(shapes[int(rng.integers(len(shapes)))], color)
    ground = list(GROUNDS.values())[int(rng.integers(len(GROUNDS)))]
    light = make_light(float(rng.uniform(MIN_BRIGHTNESS, 1)), float(rng.uniform(-1, 1)))
    return SyntheticScene(subject, ground, float(rng.uniform(MIN_LINE, MAX_LINE)), light)


def draw_pair(
    scene: SyntheticScene, rng: np.random.Generator, size: int = 128
) -> dict[LayerRole, RGBA]:
    """Draw the three layers of a scene, with the subject on the ground line and one light on both.

    Args:
        scene: The scene.
        rng: The source of randomness.
        size: The image size in pixels.

    Returns:
        Layers of size x size x 4 uint8 by role.
    """
    foreground = _stand(
        draw_subject(scene.subject, rng, round(size * rng.uniform(0.88, 1))), scene.line, rng, size
    )
    background = _draw_ground(scene, rng, size)
    # The light multiplies both layers alike; blending comes after it.
    lit = {LayerRole.foreground: foreground, LayerRole.background: background}
    for layer in lit.values():
        layer[..., :3] = np.rint(layer[..., :3] * scene.light)
    return lit | {LayerRole.blended: composite(foreground, background)}


def _stand(shape: RGBA, line: float, rng: np.random.Generator, size: int) -> RGBA:
    """Place a subject on an empty canvas, horizontally near the middle.

    Its lowest visible row is on the line.
    """
    rows = np.flatnonzero((shape[..., 3] > 127).any(axis=1))
    columns = np.flatnonzero((shape[..., 3] > 0).any(axis=0))
    top = round(line * size) - int(rows[-1]) - 1
    left = round((size - shape.shape[1]) / 2 + size * rng.uniform(-0.02, 0.02))
    left = min(max(left, 1 - int(columns[0])), size - 2 - int(columns[-1]))
    canvas = np.zeros((size, size, 4), np.uint8)
    # Crop the part of the subject beyond the canvas.
    above, before = max(0, -top), max(0, -left)
    kept = shape[above : size - top, before : size - left]
    canvas[
        max(0, top) : max(0, top) + kept.shape[0], max(0, left) : max(0, left) + kept.shape[1]
    ] = kept
    return canvas


def _draw_ground(scene: SyntheticScene, rng: np.random.Generator, size: int) -> RGBA:
    """Draw the background in daylight.

    Skies get paler towards the horizon, walls have patterns, land gets darker to the front.
    """
    above, below = (field + rng.uniform(-6, 6, 3) for field in scene.ground.fields)
    line = round(scene.line * size)
    row_grid, column_grid = np.mgrid[:size, :size]
    # Shading of the upper field by pattern, then the lower field, then grain over both.
    shade = {"sky": 0.9 + 0.2 * row_grid / line, "plain": np.ones((size, size))}
    step = size / 8
    phase = rng.uniform(0, step, 2)
    stripes = [
        np.where(((grid + shift) // step) % 2 < 1, 1.0, 0.82)
        for grid, shift in zip((column_grid, row_grid), phase, strict=True)
    ]
    shade["striped"] = stripes[0]
    shade["checked"] = np.where(stripes[0] == stripes[1], 1.0, 0.82)
    ground_shade = 1.06 - 0.16 * (row_grid - line) / max(1, size - line)
    color = np.where(
        (row_grid < line)[..., None],
        above * shade[scene.ground.pattern][..., None],
        below * ground_shade[..., None],
    )
    grain = cv2.GaussianBlur(rng.normal(0, 6, (size, size)), (0, 0), size / 128)
    color = np.clip(np.rint(color + grain[..., None]), 0, 255)
    return np.dstack([color, np.full((size, size), 255)]).astype(np.uint8)
