"""A small snapshot for the tests of training: synthetic shapes in a folder store."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from curation.datasets.manifest import Manifest, Part
from curation.domain import Kind, LayerRole, Sample, Split
from curation.images.codec import encode_layer, pixel_hash
from curation.object_store import FolderStore
from curation.ports import RGBA

COLORS = {
    "red": (220, 40, 40),
    "green": (40, 180, 60),
    "blue": (50, 70, 220),
    "yellow": (240, 220, 40),
}


def draw_shape(number: int, side: int = 48) -> tuple[RGBA, str]:
    """Return a soft-edged shape, sometimes translucent, with a wrong color under alpha 0."""
    rng = np.random.default_rng(number)
    name, color = list(COLORS.items())[number % 4]
    mask = np.zeros((side, side), np.float32)
    centre = tuple(int(v) for v in rng.integers(side // 3, 2 * side // 3, 2))
    radius = int(rng.integers(side // 6, side // 3))
    shape = "circle" if number % 2 else "square"
    if shape == "circle":
        cv2.circle(mask, centre, radius, 1.0, -1)
    else:
        cv2.rectangle(
            mask,
            (centre[0] - radius, centre[1] - radius),
            (centre[0] + radius, centre[1] + radius),
            1.0,
            -1,
        )
    alpha = cv2.GaussianBlur(mask, (0, 0), 1.0) * (0.5 if number % 5 == 0 else 1.0)
    rgba = np.empty((side, side, 4), np.uint8)
    rgba[..., :3] = np.where(alpha[..., None] > 0, color, (255, 0, 255))
    rgba[..., 3] = np.rint(alpha * 255)
    return rgba, f"a {name} {shape}"


def freeze(store: FolderStore, numbers: range, heldout_every: int = 5) -> str:
    """Store a snapshot of shapes, every fifth of them held out; return its ID."""
    samples = []
    for number in numbers:
        rgba, caption = draw_shape(number)
        split = Split.heldout if heldout_every and number % heldout_every == 4 else Split.train
        visible = pixel_hash(rgba)
        layers = {LayerRole.foreground: store.put(encode_layer(rgba))}
        samples.append(
            Sample(
                f"{number:064x}", Kind.single, caption, "CC0-1.0", "test", split, 0, visible, layers
            )
        )
    lines = [sample.line() for sample in sorted(samples, key=lambda sample: sample.id)]
    part = Part("", store.put("".join(line + "\n" for line in lines).encode()), len(lines))
    return store.put(Manifest((part,), {}).bytes())


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "objects")


@pytest.fixture
def snapshot(store: FolderStore) -> str:
    return freeze(store, range(30))


@pytest.fixture
def freeze_shapes(store: FolderStore) -> Callable[[range], str]:
    return lambda numbers: freeze(store, numbers)


@pytest.fixture
def freeze_sized(store: FolderStore) -> Callable[[list[tuple[int, int]]], str]:
    """Return a function that stores a snapshot of noise of given heights and widths."""

    def freeze_them(sizes: list[tuple[int, int]]) -> str:
        samples = []
        for number, (height, width) in enumerate(sizes):
            rgba = np.random.default_rng(number).integers(0, 256, (height, width, 4), np.uint8)
            layers = {LayerRole.foreground: store.put(encode_layer(rgba))}
            known = (f"noise {number}", "CC0-1.0", "test", Split.train, 0, pixel_hash(rgba))
            samples.append(Sample(f"{number:064x}", Kind.single, *known, layers))
        part = Part(
            "",
            store.put("".join(sample.line() + "\n" for sample in samples).encode()),
            len(samples),
        )
        return store.put(Manifest((part,), {}).bytes())

    return freeze_them
