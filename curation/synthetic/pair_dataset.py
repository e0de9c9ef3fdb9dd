"""The synthetic seed set of pairs: drawing, prompts, and agreement with texts and within pairs."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from curation.domain import Prompt, canonical_json
from curation.images.codec import encode_layer
from curation.ports import RGBA
from curation.synthetic.backgrounds import (
    COLORS_IN_PAIRS,
    GROUNDS,
    MIN_BRIGHTNESS,
    PAIR_SUBJECTS,
    SyntheticBackground,
    draw_pair,
    make_light,
    sample_scene,
)  # fmt: skip
from curation.synthetic.dataset import classify_shape, rgb_to_lab, seed_row, write_if_changed
from curation.synthetic.shapes import COLORS

SIZE: Final = 128
"""Image size of the pairs in pixels."""

Floats = NDArray[np.float64]

_VIEW: Final = 64  # pairs are compared at this image size
# The grid of brightnesses and tints among which a pair's light is searched.
_TIMES: Final = np.linspace(MIN_BRIGHTNESS * 0.9, 1.05, 12)
_TINTS: Final = np.linspace(-1, 1, 11)
_STRAY: Final = 40.0  # allowed distance of a background's two colors from its text, in levels
_STEP: Final = 8.0  # smallest color step at a ground line, in Lab units


@dataclass(frozen=True)
class PairAgreement:
    """Whether a pair shows its texts, and whether its layers agree where no text does.

    `light_gap` is the distance of the subject's mean color from its named color under the
    background's light, root mean square in levels; `foot_gap` the distance of its lowest point from
    the ground line, as a share of the height. Both are None if the background shows no ground,
    `foot_gap` also if there is no subject.
    """

    color: bool
    shape: bool
    ground: bool
    light_gap: float | None
    foot_gap: float | None


def draw_pair_seed_set(folder: Path, pairs: int, singles: int = 0, seed: int = 0) -> None:
    """Draw captioned pairs and single layers into a folder, with metadata.jsonl written last.

    Pair k depends only on (seed, k), a single layer on its own index as in
    curation.synthetic.dataset; an interrupted run can be repeated.

    Args:
        folder: The output folder.
        pairs: The number of pairs.
        singles: The number of single layers.
        seed: The RNG seed.
    """
    for part in ("pairs", "images"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    lines = [canonical_json(_draw_pair(folder, seed, index)) for index in range(pairs)]
    lines += [canonical_json(seed_row(folder, seed, index)) for index in range(singles)]
    write_if_changed(folder / "metadata.jsonl", "".join(line + "\n" for line in lines).encode())


def sample_pair_prompts(count: int, seed: int) -> list[Prompt]:
    """Return `count` prompts of the grammar; prompt k depends only on (seed, k).

    Args:
        count: The number of prompts.
        seed: The RNG seed.
    """
    return [sample_scene(np.random.default_rng([seed, index, 3])).prompt for index in range(count)]


def check_pair(foreground: RGBA, background: RGBA, prompt: Prompt) -> PairAgreement | None:
    """Return how a pair agrees with its prompt and within itself; None outside the grammar.

    Colors are compared under every light of the domain, since the light of a pair is unknown: the
    named color is the nearest to the subject's mean color and to half of its pixels. The background
    must have the two colors of its text under one light, and its pattern; the best fitting light is
    then taken as the light of the background.

    Args:
        foreground: H x W x 4 uint8.
        background: H x W x 4 uint8.
        prompt: The three texts.
    """
    subject = PAIR_SUBJECTS.get(" ".join((prompt.foreground or "").split()))
    ground = GROUNDS.get(" ".join((prompt.background or "").split()))
    if subject is None or ground is None:
        return None
    # The foreground: shape and color of its subject.
    shape_matches = classify_shape(foreground[..., 3]) == subject.shape
    mean_color = _mean_color(foreground)
    color_matches = (
        mean_color is not None and _color_in_any_light(foreground, mean_color) == subject.color
    )
    # The background: two fields, whose colors and pattern must fit its text best.
    ground_line = find_ground_line(background)
    if ground_line is None:
        return PairAgreement(
            color_matches, shape_matches, ground=False, light_gap=None, foot_gap=None
        )
    fields = _fields_of(background, ground_line)
    distances = {text: _fit(np.stack(other.fields), fields)[0] for text, other in GROUNDS.items()}
    light = _fit(np.stack(ground.fields), fields)[1]
    nearest = min(distances.values())
    colors_fit = distances[ground.text] <= min(nearest + 1e-9, _STRAY)
    fits = colors_fit and _pattern_of(background, ground_line) == _looks(ground)
    # The pair: one light on both layers, and the subject's foot on the ground line.
    gap = (
        None
        if mean_color is None
        else float(np.sqrt(np.mean((mean_color - np.array(COLORS[subject.color]) * light) ** 2)))
    )
    rows = np.flatnonzero((foreground[..., 3] > 127).any(axis=1))
    foot = abs((int(rows[-1]) + 1) / foreground.shape[0] - ground_line) if len(rows) else None
    return PairAgreement(color_matches, shape_matches, fits, gap, foot)


def find_ground_line(background: RGBA) -> float | None:
    """Return the ground line as a share of the height from the top.

    None if nothing in the lower half looks like one.

    Args:
        background: H x W x 4 uint8.
    """
    height = background.shape[0]
    rows = rgb_to_lab(background[..., :3].astype(np.float64).mean(axis=1))
    window = max(1, round(0.06 * height))
    # Compare the mean colors of a window above and below each row, by cumulative sums.
    sums = np.cumsum(np.vstack([np.zeros((1, 3)), rows]), axis=0)
    lines = np.arange(max(window, height // 2), height - window + 1)
    above, below = sums[lines] - sums[lines - window], sums[lines + window] - sums[lines]
    steps = np.linalg.norm(above - below, axis=1) / window
    best = int(np.argmax(steps))
    return float(lines[best]) / height if steps[best] > _STEP else None


def _draw_pair(folder: Path, seed: int, index: int) -> dict[str, str]:
    """Draw the files of one pair and return its row of the metadata."""
    rng = np.random.default_rng([seed, index, 2])
    scene = sample_scene(rng)
    row = {"text": scene.prompt.text, "licence": "CC0-1.0", "source": "Layerloop procedural pairs"}
    for role, layer in draw_pair(scene, rng, SIZE).items():
        data = encode_layer(layer)
        row[role] = f"pairs/{index:05d}-{role}.webp"
        row[f"{role}_sha256"] = hashlib.sha256(data).hexdigest()
        write_if_changed(folder / row[role], data)
    return row | {
        "text_foreground": str(scene.prompt.foreground),
        "text_background": str(scene.prompt.background),
    }


def _mean_color(foreground: RGBA) -> Floats | None:
    weight = foreground[..., 3].astype(np.float64).ravel() / 255
    if weight.sum() < 1:
        return None
    mean: Floats = weight @ foreground[..., :3].reshape(-1, 3).astype(np.float64) / weight.sum()
    return mean


def _color_in_any_light(foreground: RGBA, mean: Floats) -> str | None:
    """Return the named color nearest to the mean in any light, if half of the pixels agree."""
    names, references = _references()
    pixels = cv2.resize(foreground, (24, 24), interpolation=cv2.INTER_AREA).reshape(-1, 4)
    pixels = pixels[pixels[:, 3] > 127] if (pixels[:, 3] > 127).any() else pixels[pixels[:, 3] > 0]
    colors = rgb_to_lab(np.vstack([mean, pixels[:, :3]]).astype(np.float64))
    # References are grouped by color, so the quotient is the index of the color.
    nearest = np.argmin(np.linalg.norm(colors[:, None] - references, axis=2), axis=1) // (
        len(_TIMES) * len(_TINTS)
    )
    agreed = np.mean(nearest[1:] == nearest[0]) if len(nearest) > 1 else 0
    return names[int(nearest[0])] if agreed >= 0.5 else None


@cache
def _references() -> tuple[tuple[str, ...], NDArray[np.float32]]:
    """Return color names, and their Lab colors in every light, grouped by color."""
    colors = np.array([COLORS[name] for name in COLORS_IN_PAIRS], np.float64)
    return COLORS_IN_PAIRS, rgb_to_lab(
        np.clip((colors[:, None] * _lights()).reshape(-1, 3), 0, 255)
    )


@cache
def _lights() -> Floats:
    """Return the N x 3 channel gains of all lights searched."""
    return np.array([make_light(float(times), float(tint)) for times in _TIMES for tint in _TINTS])


def _fit(colors: Floats, seen: Floats) -> tuple[float, Floats]:
    """Return the distance in levels of 2 x 3 colors under the best light, and that light."""
    distances = np.sqrt(np.mean((colors * _lights()[:, None] - seen) ** 2, axis=(1, 2)))
    best = int(np.argmin(distances))
    return float(distances[best]), _lights()[best]


def _fields_of(background: RGBA, line: float) -> Floats:
    """Return the mean colors above and below the line as 2 x 3, without a margin around it."""
    height = background.shape[0]
    # The line itself is blurred by grain and rounding.
    row, margin = round(line * height), max(1, round(0.02 * height))
    rgb = background[..., :3].astype(np.float64)
    above, below = rgb[: max(1, row - margin)], rgb[min(height - 1, row + margin) :]
    return np.stack([above.mean(axis=(0, 1)), below.mean(axis=(0, 1))])


def _pattern_of(background: RGBA, line: float) -> str:
    """Return the pattern of the field above the line: "plain", "striped" or "checked"."""
    above = (
        background[: max(2, round(line * background.shape[0]) - 1), :, :3]
        .astype(np.float32)
        .mean(axis=2)
    )
    view = cv2.resize(above, (_VIEW, max(2, round(_VIEW * line))), interpolation=cv2.INTER_AREA)
    # Divide by row means, which removes the vertical gradient of a sky.
    normalized = view / np.maximum(view.mean(axis=1, keepdims=True), 1) - 1
    if normalized.mean(axis=0).std() > 0.055:
        return "striped"
    return "checked" if cv2.GaussianBlur(normalized, (0, 0), 1.0).std() > 0.045 else "plain"


def _looks(ground: SyntheticBackground) -> str:
    return "plain" if ground.land else ground.pattern
