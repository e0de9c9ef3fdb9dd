"""TIFF export with one page per layer: layers in GIMP, pages in image libraries."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from curation.scenes.blending import place_on_canvas
from curation.scenes.layer_stack import LayerStack, StackLayer

DESCRIPTION, PAGE_NAME, SUBFILE_TYPE = 270, 285, 254
PAGE = 2
"""The subfile type of one page of several."""


def write_tiff(path: Path, stack: LayerStack) -> None:
    """Write 8-bit RGBA pages of the canvas size, lowest layer first, deflate-compressed.

    Alpha is unassociated (straight). Layers are placed on the canvas, since positions in a TIFF
    cannot be negative and few programs use them. Values without a TIFF tag (opacity, the layer's
    own offset and size) are JSON in each page's ImageDescription.
    """
    pages = []
    for index, layer in enumerate(stack.layers):
        page = Image.fromarray(place_on_canvas(layer.rgba, layer.offset, stack.size), "RGBA")
        page.encoderinfo = {"tiffinfo": _tags(index, layer)}
        pages.append(page)
    # Pillow takes the tags of the first page as an argument, the others from `encoderinfo`.
    first = pages[0].encoderinfo["tiffinfo"]
    pages[0].save(
        path,
        "TIFF",
        save_all=True,
        append_images=pages[1:],
        compression="tiff_adobe_deflate",
        tiffinfo=first,
    )


def _tags(index: int, layer: StackLayer) -> ImageFileDirectory_v2:
    height, width = layer.rgba.shape[:2]
    description = {
        "layer": index,
        "name": layer.name,
        "opacity": round(layer.opacity / 255, 6),
        "offset": layer.offset,
        "size": (width, height),
    }
    tags = ImageFileDirectory_v2()
    tags[SUBFILE_TYPE] = PAGE
    # As bytes: Pillow would write letters beyond ASCII as question marks.
    tags[PAGE_NAME] = layer.name.encode()
    tags[DESCRIPTION] = json.dumps(description)
    return tags
