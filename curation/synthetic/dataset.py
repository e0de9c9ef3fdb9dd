"""The synthetic seed set: drawing, prompts of its grammar, and the check of layers against them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from curation.domain import canonical_json
from curation.images.codec import encode_layer
from curation.object_store import write_file_atomically
from curation.ports import RGBA
from curation.synthetic.shapes import COLORS, SHAPES, SUBJECTS, draw_subject, sample_subject

SIZE: Final = 128
"""Image size of the seeds in pixels."""

Descriptor = NDArray[np.float32]

_VIEW: Final = 64  # alpha is compared at this image size
_FRAME: Final = 20  # size of the normalized matte
_EXAMPLES: Final = 60  # reference images per shape
_MIN_RADIUS: Final = 0.3  # people still recognize a shape at this distance, as of a blurred one


@dataclass(frozen=True)
class PromptAgreement:
    """Whether a layer has the color and the shape that its prompt names."""

    color: bool
    shape: bool


def draw_seed_set(folder: Path, count: int, seed: int = 0) -> None:
    """Draw `count` captioned layers into a folder: images/*.webp (lossless) and metadata.jsonl.

    Image k depends only on (seed, k), so an interrupted run can be repeated: correct files are
    kept, others replaced atomically. The metadata is written last.

    Args:
        folder: The output folder.
        count: The number of layers.
        seed: The RNG seed.
    """
    (folder / "images").mkdir(parents=True, exist_ok=True)
    lines = [canonical_json(seed_row(folder, seed, index)) for index in range(count)]
    write_if_changed(folder / "metadata.jsonl", "".join(line + "\n" for line in lines).encode())


def seed_row(folder: Path, seed: int, index: int) -> dict[str, str]:
    """Draw one image into the folder and return its row of the metadata."""
    rng = np.random.default_rng([seed, index])
    subject = sample_subject(rng)
    data = encode_layer(draw_subject(subject, rng, SIZE))
    name = f"images/{index:05d}.webp"
    write_if_changed(folder / name, data)
    return {
        "file_name": name,
        "text": subject.text,
        "licence": "CC0-1.0",
        "source": "Layerloop procedural seed",
        "sha256": hashlib.sha256(data).hexdigest(),
    }


def sample_prompts(count: int, seed: int) -> list[str]:
    """Return `count` captions of the grammar with the frequencies of the seed set.

    Prompt k depends only on (seed, k).

    Args:
        count: The number of captions.
        seed: The RNG seed.
    """
    return [sample_subject(np.random.default_rng([seed, index, 1])).text for index in range(count)]


def check_prompt(rgba: RGBA, text: str) -> PromptAgreement | None:
    """Return whether a layer shows its prompt; None for a text outside the grammar.

    Color: the named color is the nearest, in CIE Lab, to the alpha-weighted mean color, and to at
    least half of the visible pixels by alpha (so a mixture with a matching mean fails). Shape: the
    alpha matte, normalized for position and scale, is nearest to reference images of the named
    shape, and not too far from them (noise is far from everything).

    Args:
        rgba: The layer, H x W x 4 uint8.
        text: Its prompt.
    """
    # Only exact captions of the grammar can be checked.
    subject = SUBJECTS.get(" ".join(text.split()))
    if subject is None:
        return None
    return PromptAgreement(
        _color_of(rgba) == subject.color, classify_shape(rgba[..., 3]) == subject.shape
    )


def write_if_changed(path: Path, data: bytes) -> None:
    """Write a file atomically, unless it has this content already."""
    if not path.exists() or path.read_bytes() != data:
        write_file_atomically(path, data)


def _color_of(rgba: RGBA) -> str | None:
    """Return the named color of the visible pixels, or None if there is no single one."""
    weight = rgba[..., 3].astype(np.float64).ravel() / 255
    if weight.sum() < 1:
        return None
    pixels = rgba[..., :3].reshape(-1, 3).astype(np.float64)
    mean = weight @ pixels / weight.sum()
    names = list(COLORS)
    palette = rgb_to_lab(np.array([COLORS[name] for name in names], np.float64))
    nearest = int(np.argmin(np.linalg.norm(palette - rgb_to_lab(mean[None]), axis=1)))
    # The pixels must agree with the mean: two colors can average to a third.
    nearest_of_pixel = np.argmin(
        np.linalg.norm(rgb_to_lab(pixels)[:, None] - palette, axis=2), axis=1
    )
    share = weight[nearest_of_pixel == nearest].sum() / weight.sum()
    return names[nearest] if share >= 0.5 else None


def rgb_to_lab(rgb: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return N x 3 sRGB colors in 0..255 as CIE Lab (D65), a perceptually uniform space."""
    unit = (rgb[None] / 255).astype(np.float32)
    converted: NDArray[np.float32] = cv2.cvtColor(unit, cv2.COLOR_RGB2LAB)[0]
    return converted


def classify_shape(alpha: NDArray[np.uint8]) -> str | None:
    """Return the shape whose reference images are nearest to a matte.

    None if no shape is near enough, or the matte runs off the canvas.

    Args:
        alpha: The matte, H x W uint8.
    """
    described = _describe(alpha)
    if described is None:
        return None
    examples, radii = _examples()
    # shapes x examples -> shapes
    distances = np.linalg.norm(examples - described, axis=2).min(axis=1)
    nearest = int(np.argmin(distances))
    return SHAPES[nearest] if distances[nearest] <= radii[nearest] else None


@cache
def _examples() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return reference descriptors (shapes x examples x features), and each shape's radius.

    The radius of a shape is the largest usual distance between neighboring examples (strokes and
    smoke vary most), and at least _MIN_RADIUS; noise begins at about 0.44.
    """
    described = np.zeros((len(SHAPES), _EXAMPLES, _FRAME * _FRAME + 3), np.float32)
    for row, shape in enumerate(SHAPES):
        subject = next(subject for subject in SUBJECTS.values() if subject.shape == shape)
        for column in range(_EXAMPLES):
            rng = np.random.default_rng([2**32, row, column])
            descriptor = _describe(draw_subject(subject, rng, _VIEW)[..., 3])
            # Every reference image has its matte inside the canvas, so None does not occur.
            described[row, column] = np.inf if descriptor is None else descriptor
    # Distances between examples of one shape, without each to itself.
    distances = np.linalg.norm(described[:, :, None] - described[:, None], axis=3)
    distances[:, np.arange(_EXAMPLES), np.arange(_EXAMPLES)] = np.inf
    return described, np.maximum(
        _MIN_RADIUS, 1.2 * np.quantile(distances.min(axis=2), 0.98, axis=1)
    ).astype(np.float32)


def _describe(alpha: NDArray[np.uint8]) -> Descriptor | None:
    """Return a descriptor: the normalized matte, and its density, softness and roughness.

    None if the matte touches the border or is almost empty. The frame is centered on the matte's
    center of mass and reaches 2.6 standard deviations to each side, so that position and size do
    not count; rotation does, since the shapes are upright.
    """
    view = cv2.resize(alpha, (_VIEW, _VIEW), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    border = np.concatenate([view[0], view[-1], view[:, 0], view[:, -1]])
    mass = float(view.sum())
    if mass < 8 or view.max() < 0.1 or border.mean() > 0.1:
        return None
    # Moments give the center and the scale of the frame.
    row_grid, column_grid = np.mgrid[:_VIEW, :_VIEW]
    y, x = float((view * row_grid).sum()) / mass, float((view * column_grid).sum()) / mass
    spread = float(
        np.sqrt((view * ((row_grid - y) ** 2 + (column_grid - x) ** 2)).sum() / mass / 2)
    )
    step = 2 * 2.6 * spread / _FRAME
    # Resample the matte in this frame, smoothed against aliasing.
    transform = np.array(
        [[step, 0, x - step * (_FRAME - 1) / 2], [0, step, y - step * (_FRAME - 1) / 2]]
    )
    smooth = cv2.GaussianBlur(view, (0, 0), max(step / 2, 0.5))
    frame = cv2.warpAffine(
        smooth, transform, (_FRAME, _FRAME), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    )
    # Softness and roughness separate glow, glass and smoke from solid shapes.
    is_visible = view > 0.05
    density = float(view[is_visible].mean())
    rough = float(np.abs(view - cv2.GaussianBlur(view, (0, 0), 1.0)).sum()) / mass
    compactness = mass / (2 * np.pi * spread**2)  # 1 for a Gaussian, small for lines
    shape = frame / max(float(np.linalg.norm(frame)), 1e-6)
    return np.concatenate([shape.ravel(), [density * 0.6, rough * 0.6, compactness * 0.3]]).astype(
        np.float32
    )
