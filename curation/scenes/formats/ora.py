"""OpenRaster (.ora), the exchange format of Krita, GIMP and MyPaint: a zip of PNGs with an index.

Specification: openraster.org/baseline/file-layout-spec.html and layer-stack-spec.html.
"""

from __future__ import annotations

import html
import io
import zipfile
from pathlib import Path

from PIL import Image

from curation.scenes.layer_stack import LayerStack

THUMBNAIL = 256
"""The maximum width and height of the thumbnail, as the specification requires."""

# The specification lists layers from top to bottom.
_STACK = """<?xml version="1.0" encoding="UTF-8"?>
<image version="0.0.3" w="{width}" h="{height}" xres="72" yres="72">
<stack>
{layers}
</stack>
</image>
"""
_LAYER = (
    '<layer name="{name}" src="data/layer{index}.png" x="{x}" y="{y}" opacity="{opacity:.6f}" '
    'visibility="visible" composite-op="svg:src-over"/>'
)


def write_ora(path: Path, stack: LayerStack) -> None:
    """Write straight RGBA PNGs and their index, which lists the uppermost layer first."""
    rows = [
        _LAYER.format(
            name=html.escape(layer.name),
            index=index,
            x=layer.offset[0],
            y=layer.offset[1],
            opacity=layer.opacity / 255,
        )
        for index, layer in enumerate(stack.layers)
    ]
    stack_xml = _STACK.format(
        width=stack.size[0], height=stack.size[1], layers="\n".join(reversed(rows))
    )
    # The thumbnail is of the blend, as file browsers show it.
    thumbnail = Image.fromarray(stack.merged, "RGBA")
    thumbnail.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    with zipfile.ZipFile(path, "w") as archive:
        # First and uncompressed, so that the file type is recognizable from the first bytes.
        _add(archive, "mimetype", b"image/openraster")
        _add(archive, "stack.xml", stack_xml.encode())
        for index, layer in enumerate(stack.layers):
            _add(archive, f"data/layer{index}.png", _png(Image.fromarray(layer.rgba, "RGBA")))
        _add(archive, "mergedimage.png", _png(Image.fromarray(stack.merged, "RGBA")))
        _add(archive, "Thumbnails/thumbnail.png", _png(thumbnail))


def _add(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    """Add a member with a fixed date, so that equal scenes are equal files; PNGs are compressed
    already.
    """
    archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), data)


def _png(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()
