"""Comparison grids: images, their reconstructions and differences, over several backgrounds."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from curation.images.codec import composite_over
from curation.ports import RGBA
from training.data.letterbox import letterbox
from training.sample_grid import GAP, TEXT, checkerboard

TILE_SIZE, AMPLIFICATION = 128, 4
"""Size of a tile in pixels, and the factor by which differences are amplified."""

Pixels = NDArray[np.uint8]


def comparison_grid(images: Sequence[RGBA], reconstructions: Sequence[RGBA]) -> bytes:
    """Draw a grid as PNG: per image the truth, the reconstruction and their difference, four times.

    The four groups of columns are composites over black, white and a checkerboard, and alpha.
    Images are fitted into tiles of 128 pixels. Differences are multiplied by 4, so those of 64
    levels and more are white.

    Args:
        images: Images, H x W x 4 uint8 each.
        reconstructions: Their reconstructions.
    """
    names = [
        f"{column}, {ground}"
        for ground in ("black", "white", "checker", "alpha")
        for column in ("truth", "decoded", "x4")
    ]
    rows = [
        _row(letterbox(truth, TILE_SIZE), letterbox(again, TILE_SIZE))
        for truth, again in zip(images, reconstructions, strict=True)
    ]
    grid = Image.new(
        "RGB",
        (len(names) * (TILE_SIZE + GAP) + GAP, len(rows) * (TILE_SIZE + GAP) + GAP + TEXT),
        (255, 255, 255),
    )
    # Column titles, then the tiles.
    pen, font = ImageDraw.Draw(grid), ImageFont.load_default(size=9)
    for column, name in enumerate(names):
        pen.text((GAP + column * (TILE_SIZE + GAP), 1), name, fill=(0, 0, 0), font=font)
    for y, row in enumerate(rows):
        for x, tile in enumerate(row):
            position = (GAP + x * (TILE_SIZE + GAP), TEXT + GAP + y * (TILE_SIZE + GAP))
            grid.paste(Image.fromarray(tile), position)
    out = io.BytesIO()
    grid.save(out, "PNG")
    return out.getvalue()


def _row(truth: RGBA, again: RGBA) -> list[Pixels]:
    """Return the tiles of one image: three composites and alpha, each compared."""
    tiles: list[Pixels] = []
    for ground in ((0, 0, 0), (255, 255, 255), checkerboard(TILE_SIZE)):
        tiles += _compared(composite_over(truth, ground), composite_over(again, ground))
    alphas = (np.repeat(image[..., 3:], 3, axis=2) for image in (truth, again))
    return tiles + _compared(*alphas)


def _compared(truth: Pixels, again: Pixels) -> list[Pixels]:
    # 16 bits, since differences of uint8 wrap around.
    difference = (
        np.abs(truth.astype(np.int16) - again).clip(0, 255 // AMPLIFICATION) * AMPLIFICATION
    )
    return [truth, again, difference.astype(np.uint8)]
