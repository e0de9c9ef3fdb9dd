"""A sheet of pictures beside what came back of them: over black, white and a checkerboard, alpha, and differences."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from curation.images.codec import over
from curation.ports import RGBA
from training.data.dataset import letterbox
from training.sample_grid import GAP, TEXT, checkerboard

SIDE, TIMES = 128, 4
"""Pixels of a tile's side, and how much differences are strengthened."""

Pixels = NDArray[np.uint8]


def draw_comparison(truths: Sequence[RGBA], agains: Sequence[RGBA]) -> bytes:
    """A PNG with a row for each picture: truth, reconstruction and 4 x their difference, four times (see the module).

    Pictures (H x W x 4 uint8) are fitted into tiles of 128 pixels; a difference of 64 levels is as bright as any.
    """
    names = [
        f"{what}, {ground}"
        for ground in ("black", "white", "checker", "alpha")
        for what in ("truth", "again", "x4")
    ]
    rows = [
        _row(letterbox(truth, SIDE), letterbox(again, SIDE))
        for truth, again in zip(truths, agains, strict=True)
    ]
    sheet = Image.new(
        "RGB",
        (len(names) * (SIDE + GAP) + GAP, len(rows) * (SIDE + GAP) + GAP + TEXT),
        (255, 255, 255),
    )
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=9)
    for column, name in enumerate(names):
        pen.text((GAP + column * (SIDE + GAP), 1), name, fill=(0, 0, 0), font=font)
    for y, row in enumerate(rows):
        for x, tile in enumerate(row):
            sheet.paste(
                Image.fromarray(tile), (GAP + x * (SIDE + GAP), TEXT + GAP + y * (SIDE + GAP))
            )
    out = io.BytesIO()
    sheet.save(out, "PNG")
    return out.getvalue()


def _row(truth: RGBA, again: RGBA) -> list[Pixels]:
    tiles: list[Pixels] = []
    for ground in ((0, 0, 0), (255, 255, 255), checkerboard(SIDE)):
        tiles += _compared(over(truth, ground), over(again, ground))
    alphas = (np.repeat(picture[..., 3:], 3, axis=2) for picture in (truth, again))
    return tiles + _compared(*alphas)


def _compared(truth: Pixels, again: Pixels) -> list[Pixels]:
    difference = np.abs(truth.astype(np.int16) - again).clip(0, 255 // TIMES) * TIMES
    return [truth, again, difference.astype(np.uint8)]
