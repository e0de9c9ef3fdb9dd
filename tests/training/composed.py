"""Composed pairs: a drawn shape over a drawn ground, both in one light that no text tells of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from curation.domain import Kind, LayerRole, Sample, Split
from curation.intake.figures import COLOURS, SUBJECTS, draw
from curation.layers import encode_layer, over, visible_hash
from curation.manifest import Manifest, Part
from curation.objects import FolderStore
from curation.ports import RGBA

GROUNDS: dict[str, tuple[int, int, int]] = {
    "grass": (110, 180, 90),
    "sand": (220, 195, 150),
    "water": (90, 150, 200),
    "brick": (190, 110, 90),
}
"""What backgrounds are named, with their mean colours in plain light."""

SHAPES = [
    subject for subject in SUBJECTS.values() if subject.colour in {"red", "orange", "yellow", "green", "blue", "white"}
]


@dataclass(frozen=True)
class Composed:
    """One pair with its texts and the light it stands in, three factors on the colours in 0..1."""

    foreground: RGBA
    background: RGBA
    texts: Mapping[LayerRole, str]
    light: NDArray[np.float64]

    @property
    def blended(self) -> RGBA:
        """The foreground over the background."""
        return np.dstack([over(self.foreground, self.background), self.background[..., 3]])

    @property
    def caption(self) -> str:
        """The whole picture's."""
        return f"{self.texts[LayerRole.foreground]} over {self.texts[LayerRole.background]}"


def compose(number: int, side: int = 64) -> Composed:
    """Pair `number`: depends on nothing else."""
    rng = np.random.default_rng([77, number])
    subject = SHAPES[int(rng.integers(len(SHAPES)))]
    name = list(GROUNDS)[int(rng.integers(len(GROUNDS)))]
    light = draw_light(rng)
    foreground = draw(subject, rng, side)
    background = _ground(name, rng, side)
    foreground, background = (_lit(layer, light) for layer in (foreground, background))
    texts = {LayerRole.foreground: subject.text, LayerRole.background: f"a field of {name}"}
    return Composed(foreground, background, texts, light)


def draw_light(rng: np.random.Generator) -> NDArray[np.float64]:
    """Warm to cold, and bright to dim: what both layers have in common."""
    warmth, brightness = rng.uniform(-1, 1), rng.uniform(0.35, 1.0)
    tint = np.array([1 + 0.35 * min(warmth, 0), 1 - 0.1 * abs(warmth), 1 - 0.45 * max(warmth, 0)])
    return brightness * tint


def light_of(layer: RGBA, role: LayerRole, text: str) -> NDArray[np.float64] | None:
    """The light that a layer seems to stand in: its mean visible colour over the colour that its text names.

    None where hardly anything is visible.
    """
    weight = layer[..., 3].astype(np.float64) / 255
    if weight.sum() < 8:
        return None
    mean = (layer[..., :3] * weight[..., None]).sum((0, 1)) / weight.sum()
    colour = COLOURS[SUBJECTS[text].colour] if role == LayerRole.foreground else GROUNDS[text.split()[-1]]
    found: NDArray[np.float64] = (mean + 1) / (np.array(colour) + 1)
    return found


def freeze_pairs(
    store: FolderStore, numbers: Iterable[int], singles: int = 0, heldout_every: int = 5, side: int = 64
) -> str:
    """A snapshot of composed pairs, every fifth held out, and of so many foregrounds that have no background."""
    samples = []
    for number in numbers:
        pair = compose(number, side)
        split = Split.heldout if heldout_every and number % heldout_every == 4 else Split.train
        layers = {
            LayerRole.foreground: pair.foreground,
            LayerRole.background: pair.background,
            LayerRole.blended: pair.blended,
        }
        stored = {role: store.put(encode_layer(layer)) for role, layer in layers.items()}
        known = (pair.caption, "CC0-1.0", "test", split, 0, visible_hash(pair.blended), stored)
        samples.append(Sample(f"{number:064x}", Kind.pair, *known, texts=pair.texts))
    for number in range(singles):
        pair = compose(10**6 + number, side)
        stored = {LayerRole.foreground: store.put(encode_layer(pair.foreground))}
        known = (
            pair.texts[LayerRole.foreground],
            "CC0-1.0",
            "test",
            Split.train,
            0,
            visible_hash(pair.foreground),
            stored,
        )
        samples.append(Sample(f"{10**6 + number:064x}", Kind.single, *known))
    lines = "".join(sample.line() + "\n" for sample in sorted(samples, key=lambda sample: sample.id))
    return store.put(Manifest((Part("", store.put(lines.encode()), len(samples)),), {}).bytes())


def _ground(name: str, rng: np.random.Generator, side: int) -> RGBA:
    """A texture of its name around the ground's colour: opaque."""
    noise = rng.normal(size=(side, side)).astype(np.float32)
    stretched = {"grass": (0.8, 3.0), "sand": (0.7, 0.7), "water": (6.0, 0.8), "brick": (0.5, 0.5)}[name]
    texture = cv2.GaussianBlur(noise, (0, 0), sigmaX=stretched[0], sigmaY=stretched[1])
    texture /= max(float(texture.std()), 1e-6)
    if name == "brick":
        rows, columns = np.indices((side, side))
        height = side // 8
        seams = (rows % height == 0) | ((columns + (rows // height % 2) * height) % (2 * height) == 0)
        texture = np.where(seams, 2.5, 0.3 * texture)
    shade = 1 + 0.08 * (texture - texture.mean())
    colour = np.clip(np.array(GROUNDS[name]) * shade[..., None], 0, 255)
    return np.dstack([np.rint(colour), np.full((side, side), 255)]).astype(np.uint8)


def _lit(layer: RGBA, light: NDArray[np.float64]) -> RGBA:
    colour = np.rint(layer[..., :3] * light)
    return np.dstack([colour, layer[..., 3]]).astype(np.uint8)
