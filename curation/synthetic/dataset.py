"""The seed set the project draws itself, prompts of the same grammar, and whether a drawn layer shows its prompt."""

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
from curation.object_store import write_file
from curation.ports import RGBA
from curation.synthetic.shapes import COLOURS, FIGURES, SUBJECTS, choose_subject, draw

SIZE: Final = 128
"""Width and height of a seed picture in pixels."""

Descriptor = NDArray[np.float32]

_VIEW: Final = 64  # alpha is judged at this size, whatever the layer's own
_FRAME: Final = 20  # the matte, moved to its own centre and scale
_EXAMPLES: Final = 60  # pictures drawn to know a figure by
_FORGIVEN: Final = (
    0.3  # how far any layer may lie from its figure: blurred or bent so much, people still name it
)


@dataclass(frozen=True)
class PromptAgreement:
    """Whether a layer has the colour and the shape that its prompt names."""

    colour: bool
    shape: bool


def draw_seed(folder: Path, count: int, seed: int = 0) -> None:
    """Draw `count` captioned layers into `folder`: images/*.webp (lossless) and metadata.jsonl, written last.

    Picture k depends on nothing but (seed, k), so running again finishes what was interrupted: files that are already
    right are kept, others are replaced whole.
    """
    (folder / "images").mkdir(parents=True, exist_ok=True)
    lines = [canonical_json(seed_row(folder, seed, index)) for index in range(count)]
    write_whole(folder / "metadata.jsonl", "".join(line + "\n" for line in lines).encode())


def seed_row(folder: Path, seed: int, index: int) -> dict[str, str]:
    """Draw one picture into the folder and return its row of the metadata."""
    rng = np.random.default_rng([seed, index])
    subject = choose_subject(rng)
    data = encode_layer(draw(subject, rng, SIZE))
    name = f"images/{index:05d}.webp"
    write_whole(folder / name, data)
    return {
        "file_name": name,
        "text": subject.text,
        "licence": "CC0-1.0",
        "source": "Layerloop procedural seed",
        "sha256": hashlib.sha256(data).hexdigest(),
    }


def prompts(count: int, seed: int) -> list[str]:
    """`count` texts of the seed's grammar in the seed's proportions; prompt k depends on nothing but (seed, k)."""
    return [choose_subject(np.random.default_rng([seed, index, 1])).text for index in range(count)]


def shows_prompt(rgba: RGBA, text: str) -> PromptAgreement | None:
    """Whether a drawn layer (H x W x 4 uint8) shows what `text` asks for; None for a text outside the grammar.

    Colour: the alpha-weighted mean colour has the named colour as its nearest in CIE Lab, and so have at least half of
    the visible pixels by alpha (a mixture whose mean happens to fit does not pass). Shape: the alpha matte, moved to a
    standard place and scale, lies nearest to pictures of the named figure among freshly drawn ones of all figures, and
    not too far from them (noise lies far from everything and shows nothing).
    """
    subject = SUBJECTS.get(" ".join(text.split()))
    if subject is None:
        return None
    return PromptAgreement(
        _colour_of(rgba) == subject.colour, figure_of(rgba[..., 3]) == subject.figure
    )


def write_whole(path: Path, data: bytes) -> None:
    """Put a file in its place whole, unless it is there already."""
    if not path.exists() or path.read_bytes() != data:
        write_file(path, data)


def _colour_of(rgba: RGBA) -> str | None:
    """The one named colour of what can be seen, or None."""
    weight = rgba[..., 3].astype(np.float64).ravel() / 255
    if weight.sum() < 1:
        return None
    pixels = rgba[..., :3].reshape(-1, 3).astype(np.float64)
    mean = weight @ pixels / weight.sum()
    names = list(COLOURS)
    palette = lab(np.array([COLOURS[name] for name in names], np.float64))
    nearest = int(np.argmin(np.linalg.norm(palette - lab(mean[None]), axis=1)))
    each = np.argmin(np.linalg.norm(lab(pixels)[:, None] - palette, axis=2), axis=1)
    share = weight[each == nearest].sum() / weight.sum()
    return names[nearest] if share >= 0.5 else None


def lab(rgb: NDArray[np.float64]) -> NDArray[np.float32]:
    """N x 3 sRGB in 0..255 as CIE Lab (D65), where equal distances look about equal."""
    lab: NDArray[np.float32] = cv2.cvtColor(
        (rgb[None] / 255).astype(np.float32), cv2.COLOR_RGB2LAB
    )[0]
    return lab


def figure_of(alpha: NDArray[np.uint8]) -> str | None:
    """The figure whose own pictures lie nearest, or None where none is near or the matte runs off the canvas."""
    described = _describe(alpha)
    if described is None:
        return None
    examples, reaches = _examples()
    distances = np.linalg.norm(examples - described, axis=2).min(
        axis=1
    )  # figures x examples -> figures
    nearest = int(np.argmin(distances))
    return FIGURES[nearest] if distances[nearest] <= reaches[nearest] else None


@cache
def _examples() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Descriptors of freshly drawn pictures (figures x examples x features), and how far each figure reaches.

    A figure reaches as far as its loneliest examples lie from their nearest neighbours (strokes and smoke differ most
    among themselves), and no figure less than what is forgiven to all; noise begins at about 0.44.
    """
    described = np.zeros((len(FIGURES), _EXAMPLES, _FRAME * _FRAME + 3), np.float32)
    for row, figure in enumerate(FIGURES):
        subject = next(subject for subject in SUBJECTS.values() if subject.figure == figure)
        for column in range(_EXAMPLES):
            drawn = _describe(
                draw(subject, np.random.default_rng([2**32, row, column]), _VIEW)[..., 3]
            )
            described[row, column] = (
                np.inf if drawn is None else drawn
            )  # every picture has a matte inside its canvas
    apart = np.linalg.norm(described[:, :, None] - described[:, None], axis=3)
    apart[:, np.arange(_EXAMPLES), np.arange(_EXAMPLES)] = np.inf
    return described, np.maximum(
        _FORGIVEN, 1.2 * np.quantile(apart.min(axis=2), 0.98, axis=1)
    ).astype(np.float32)


def _describe(alpha: NDArray[np.uint8]) -> Descriptor | None:
    """The matte in its own frame, and how dense, how soft and how rough it is; None where it has no border or no body.

    The frame is centred on the matte's mass and 2.6 standard deviations to each side, so that place and size do not
    count; the turn does, since the figures stand upright.
    """
    view = cv2.resize(alpha, (_VIEW, _VIEW), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    border = np.concatenate([view[0], view[-1], view[:, 0], view[:, -1]])
    mass = float(view.sum())
    if mass < 8 or view.max() < 0.1 or border.mean() > 0.1:
        return None
    down, across = np.mgrid[:_VIEW, :_VIEW]
    y, x = float((view * down).sum()) / mass, float((view * across).sum()) / mass
    spread = float(np.sqrt((view * ((down - y) ** 2 + (across - x) ** 2)).sum() / mass / 2))
    step = 2 * 2.6 * spread / _FRAME
    place = np.array(
        [[step, 0, x - step * (_FRAME - 1) / 2], [0, step, y - step * (_FRAME - 1) / 2]]
    )
    smooth = cv2.GaussianBlur(view, (0, 0), max(step / 2, 0.5))
    frame = cv2.warpAffine(
        smooth, place, (_FRAME, _FRAME), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    )
    seen = view > 0.05
    density = float(view[seen].mean())
    rough = float(np.abs(view - cv2.GaussianBlur(view, (0, 0), 1.0)).sum()) / mass
    share = mass / (2 * np.pi * spread**2)  # 1 for a Gaussian's own mass, small for lines
    shape = frame / max(float(np.linalg.norm(frame)), 1e-6)
    return np.concatenate([shape.ravel(), [density * 0.6, rough * 0.6, share * 0.3]]).astype(
        np.float32
    )
