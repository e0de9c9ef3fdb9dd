"""TIFF with a page for every layer: what GIMP opens as layers, and image libraries as pages."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from curation.scenes.blending import on_canvas
from curation.scenes.layer_stack import LayerStack, StackLayer

DESCRIPTION, PAGE_NAME, SUBFILE_TYPE = 270, 285, 254
PAGE = 2
"""A subfile that is one page of several."""


def write_tiff(path: Path, stack: LayerStack) -> None:
    """Write 8-bit RGBA pages of the canvas's size, lowest first, alpha unassociated (straight), deflated without loss.

    Layers are laid out on the canvas, since a TIFF's positions cannot be negative and few programs heed them. What the
    format has no tag for (opacity, the layer's own offset and size) is JSON in each page's ImageDescription.
    """
    pages = []
    for number, sheet in enumerate(stack.sheets):
        page = Image.fromarray(on_canvas(sheet.rgba, sheet.offset, stack.size), "RGBA")
        page.encoderinfo = {"tiffinfo": _tags(number, sheet)}
        pages.append(page)
    first = pages[0].encoderinfo["tiffinfo"]
    pages[0].save(
        path,
        "TIFF",
        save_all=True,
        append_images=pages[1:],
        compression="tiff_adobe_deflate",
        tiffinfo=first,
    )


def _tags(number: int, sheet: StackLayer) -> ImageFileDirectory_v2:
    height, width = sheet.rgba.shape[:2]
    told = {
        "layer": number,
        "name": sheet.name,
        "opacity": round(sheet.opacity / 255, 6),
        "offset": sheet.offset,
        "size": (width, height),
    }
    tags = ImageFileDirectory_v2()
    tags[SUBFILE_TYPE] = PAGE
    tags[PAGE_NAME] = (
        sheet.name.encode()
    )  # as bytes: Pillow would write letters beyond ASCII as question marks
    tags[DESCRIPTION] = json.dumps(told)
    return tags
