"""The seed of pairs that the project draws itself, and whether drawn pairs show their texts and belong together."""

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
    COLOURS_IN_PAIRS,
    DARKEST,
    GROUNDS,
    PAIR_SUBJECTS,
    Ground,
    choose_scene,
    draw_scene,
    make_light,
)  # fmt: skip
from curation.synthetic.dataset import figure_of, lab, seed_row, write_whole
from curation.synthetic.shapes import COLOURS

SIZE: Final = 128
"""Width and height of a drawn pair in pixels."""

Floats = NDArray[np.float64]

_VIEW: Final = 64  # pairs are judged at this size, whatever their own
_TIMES: Final = np.linspace(
    DARKEST * 0.9, 1.05, 12
)  # brightnesses and tints that a light is looked for among
_TINTS: Final = np.linspace(-1, 1, 11)
_STRAY: Final = (
    40.0  # levels that a background's two colours may lie from those of its text in any light
)
_STEP: Final = 8.0  # Lab units that land must differ from what is above it


@dataclass(frozen=True)
class PairAgreement:
    """Whether a pair shows its texts, and whether its layers agree in what no text says.

    `light_gap` is how far the figure's mean colour is from what the background's light would make of it, root mean
    square in levels; `foot_gap` how far its lowest point is from the ground line, as a share of the height. Both are
    None where the background shows no ground of its text, `foot_gap` also where there is no figure.
    """

    colour: bool
    shape: bool
    ground: bool
    light_gap: float | None
    foot_gap: float | None


def draw_pair_seed(folder: Path, pairs: int, singles: int = 0, seed: int = 0) -> None:
    """Draw captioned pairs, and single layers beside them, into `folder`, with metadata.jsonl written last.

    Pair k depends on nothing but (seed, k), a single layer on its own number as in intake.procedural; running again
    finishes what was interrupted.
    """
    for part in ("pairs", "images"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    lines = [canonical_json(_draw_pair(folder, seed, index)) for index in range(pairs)]
    lines += [canonical_json(seed_row(folder, seed, index)) for index in range(singles)]
    write_whole(folder / "metadata.jsonl", "".join(line + "\n" for line in lines).encode())


def pair_prompts(count: int, seed: int) -> list[Prompt]:
    """`count` prompts of the seed's grammar; prompt k depends on nothing but (seed, k)."""
    return [choose_scene(np.random.default_rng([seed, index, 3])).prompt for index in range(count)]


def shows_pair(foreground: RGBA, background: RGBA, prompt: Prompt) -> PairAgreement | None:
    """How a drawn pair agrees with its prompt and within itself; None where a text is not of this domain's grammar.

    Colours are judged in every light of the domain, since a light may be any: the figure's mean colour has the named
    one as its nearest, and so have half of its pixels. The background has the two colours of its text in one light,
    and the pattern. Its light is then the one that fits best.
    """
    subject = PAIR_SUBJECTS.get(" ".join((prompt.foreground or "").split()))
    ground = GROUNDS.get(" ".join((prompt.background or "").split()))
    if subject is None or ground is None:
        return None
    shape = figure_of(foreground[..., 3]) == subject.figure
    seen = _mean_colour(foreground)
    colour = seen is not None and _colour_in_any_light(foreground, seen) == subject.colour
    line = find_line(background)
    if line is None:
        return PairAgreement(colour, shape, ground=False, light_gap=None, foot_gap=None)
    fields = _fields_of(background, line)
    strays = {text: _fit(np.stack(one.fields), fields)[0] for text, one in GROUNDS.items()}
    light = _fit(np.stack(ground.fields), fields)[1]
    nearest = min(strays.values())
    fits = strays[ground.text] <= min(nearest + 1e-9, _STRAY) and _pattern_of(
        background, line
    ) == _looks(ground)
    gap = (
        None
        if seen is None
        else float(np.sqrt(np.mean((seen - np.array(COLOURS[subject.colour]) * light) ** 2)))
    )
    rows = np.flatnonzero((foreground[..., 3] > 127).any(axis=1))
    foot = abs((int(rows[-1]) + 1) / foreground.shape[0] - line) if len(rows) else None
    return PairAgreement(colour, shape, fits, gap, foot)


def find_line(background: RGBA) -> float | None:
    """The height of the ground line, a share of the height from above; None where nothing in the lower half is one."""
    height = background.shape[0]
    rows = lab(background[..., :3].astype(np.float64).mean(axis=1))
    window = max(1, round(0.06 * height))
    sums = np.cumsum(np.vstack([np.zeros((1, 3)), rows]), axis=0)
    lines = np.arange(max(window, height // 2), height - window + 1)
    above, below = sums[lines] - sums[lines - window], sums[lines + window] - sums[lines]
    steps = np.linalg.norm(above - below, axis=1) / window
    best = int(np.argmax(steps))
    return float(lines[best]) / height if steps[best] > _STEP else None


def _draw_pair(folder: Path, seed: int, index: int) -> dict[str, str]:
    """Draw the files of one pair and return its row of the metadata."""
    rng = np.random.default_rng([seed, index, 2])
    scene = choose_scene(rng)
    row = {"text": scene.prompt.text, "licence": "CC0-1.0", "source": "Layerloop procedural pairs"}
    for role, layer in draw_scene(scene, rng, SIZE).items():
        data = encode_layer(layer)
        row[role] = f"pairs/{index:05d}-{role}.webp"
        row[f"{role}_sha256"] = hashlib.sha256(data).hexdigest()
        write_whole(folder / row[role], data)
    return row | {
        "text_foreground": str(scene.prompt.foreground),
        "text_background": str(scene.prompt.background),
    }


def _mean_colour(foreground: RGBA) -> Floats | None:
    weight = foreground[..., 3].astype(np.float64).ravel() / 255
    if weight.sum() < 1:
        return None
    mean: Floats = weight @ foreground[..., :3].reshape(-1, 3).astype(np.float64) / weight.sum()
    return mean


def _colour_in_any_light(foreground: RGBA, mean: Floats) -> str | None:
    """The named colour that the mean is nearest to in any light, where at least half of what is visible agrees."""
    names, references = _references()
    small = cv2.resize(foreground, (24, 24), interpolation=cv2.INTER_AREA).reshape(-1, 4)
    small = small[small[:, 3] > 127] if (small[:, 3] > 127).any() else small[small[:, 3] > 0]
    colours = lab(np.vstack([mean, small[:, :3]]).astype(np.float64))
    nearest = np.argmin(np.linalg.norm(colours[:, None] - references, axis=2), axis=1) // (
        len(_TIMES) * len(_TINTS)
    )
    agreed = np.mean(nearest[1:] == nearest[0]) if len(nearest) > 1 else 0
    return names[int(nearest[0])] if agreed >= 0.5 else None


@cache
def _references() -> tuple[tuple[str, ...], NDArray[np.float32]]:
    """Every colour of a figure in every light, in Lab, the lights of one colour together."""
    colours = np.array([COLOURS[name] for name in COLOURS_IN_PAIRS], np.float64)
    return COLOURS_IN_PAIRS, lab(np.clip((colours[:, None] * _lights()).reshape(-1, 3), 0, 255))


@cache
def _lights() -> Floats:
    """N x 3 gains: every light that is looked for."""
    return np.array([make_light(float(times), float(tint)) for times in _TIMES for tint in _TINTS])


def _fit(colours: Floats, seen: Floats) -> tuple[float, Floats]:
    """How far two colours (2 x 3) are from those seen in the light that fits best (levels), and that light."""
    apart = np.sqrt(np.mean((colours * _lights()[:, None] - seen) ** 2, axis=(1, 2)))
    best = int(np.argmin(apart))
    return float(apart[best]), _lights()[best]


def _fields_of(background: RGBA, line: float) -> Floats:
    """The mean colours above and below the line, what is close to it left out: 2 x 3."""
    height = background.shape[0]
    at, margin = round(line * height), max(1, round(0.02 * height))
    colour = background[..., :3].astype(np.float64)
    above, below = colour[: max(1, at - margin)], colour[min(height - 1, at + margin) :]
    return np.stack([above.mean(axis=(0, 1)), below.mean(axis=(0, 1))])


def _pattern_of(background: RGBA, line: float) -> str:
    """What the field above the line looks like: "plain", "striped" or "checked"."""
    above = (
        background[: max(2, round(line * background.shape[0]) - 1), :, :3]
        .astype(np.float32)
        .mean(axis=2)
    )
    view = cv2.resize(above, (_VIEW, max(2, round(_VIEW * line))), interpolation=cv2.INTER_AREA)
    even = view / np.maximum(view.mean(axis=1, keepdims=True), 1) - 1
    if even.mean(axis=0).std() > 0.055:
        return "striped"
    return "checked" if cv2.GaussianBlur(even, (0, 0), 1.0).std() > 0.045 else "plain"


def _looks(ground: Ground) -> str:
    return "plain" if ground.land else ground.pattern
