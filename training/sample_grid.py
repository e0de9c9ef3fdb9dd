"""Sample grids: images in rows on a checkerboard, with captions, as one PNG."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from curation.images.codec import composite_over
from curation.ports import RGBA

# In pixels: the gap between tiles, the height of a caption, and the minimum size of a tile.
GAP, TEXT, MIN_TILE = 4, 12, 96


def to_uint8_images(rgba_B4HW: Tensor) -> list[RGBA]:
    """Convert a batch in [0, 1] to H x W x 4 uint8 images."""
    batch = (rgba_B4HW.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    return list(batch)


def render_grid(rows: Sequence[Sequence[RGBA]], captions: Sequence[Sequence[str]] = ()) -> bytes:
    """Render rows of images as one PNG.

    Each image is shown over a checkerboard, with its alpha and its caption below it.

    Args:
        rows: Rows of H x W x 4 uint8 images.
        captions: The captions of each row; rows or images without one have none.
    """
    # All tiles have the size of the largest image.
    side = max(MIN_TILE, *(image.shape[0] for row in rows for image in row))
    width = max(len(row) for row in rows) * (side + GAP) + GAP
    height = len(rows) * (2 * side + TEXT + 2 * GAP) + GAP
    # One cell is an image over its alpha over one line of text.
    sheet = Image.new("RGB", (width, height), (255, 255, 255))
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=9)
    for y, row in enumerate(rows):
        for x, image in enumerate(row):
            left, top = GAP + x * (side + GAP), GAP + y * (2 * side + TEXT + 2 * GAP)
            enlarged = np.asarray(
                Image.fromarray(image, "RGBA").resize((side, side), Image.Resampling.NEAREST)
            )
            sheet.paste(Image.fromarray(composite_over(enlarged, checkerboard(side))), (left, top))
            sheet.paste(Image.fromarray(enlarged[..., 3]), (left, top + side))
            if y < len(captions) and x < len(captions[y]):
                pen.text(
                    (left, top + 2 * side), captions[y][x][: side // 5], fill=(0, 0, 0), font=font
                )
    out = io.BytesIO()
    sheet.save(out, "PNG")
    return out.getvalue()


def checkerboard(size: int) -> NDArray[np.uint8]:
    """Return a side x side x 3 checkerboard of 8 x 8 cells around mid-gray, 0.5 +- 0.05."""
    cell = max(1, size // 8)
    rows, columns = np.indices((size, size)) // cell
    gray = np.where((rows + columns) % 2, np.uint8(140), np.uint8(115))
    return np.repeat(gray[..., None], 3, axis=-1)
