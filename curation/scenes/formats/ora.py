"""OpenRaster (.ora), the exchange format of Krita, GIMP and MyPaint: a zip of PNGs with a small table of them.

After the specification: openraster.org/baseline/file-layout-spec.html and layer-stack-spec.html beside it.
"""

from __future__ import annotations

import html
import io
import zipfile
from pathlib import Path

from PIL import Image

from curation.scenes.layer_stack import LayerStack

THUMBNAIL = 256
"""The most pixels on a side of the thumbnail, as the specification demands."""

_STACK = """<?xml version="1.0" encoding="UTF-8"?>
<image version="0.0.3" w="{width}" h="{height}" xres="72" yres="72">
<stack>
{layers}
</stack>
</image>
"""
_LAYER = (
    '<layer name="{name}" src="data/layer{number}.png" x="{x}" y="{y}" opacity="{opacity:.6f}" '
    'visibility="visible" composite-op="svg:src-over"/>'
)


def write_ora(path: Path, stack: LayerStack) -> None:
    """Write straight RGBA PNGs and their table, in which the uppermost layer stands first."""
    rows = [
        _LAYER.format(
            name=html.escape(sheet.name),
            number=number,
            x=sheet.offset[0],
            y=sheet.offset[1],
            opacity=sheet.opacity / 255,
        )
        for number, sheet in enumerate(stack.sheets)
    ]
    table = _STACK.format(
        width=stack.size[0], height=stack.size[1], layers="\n".join(reversed(rows))
    )
    small = Image.fromarray(stack.merged, "RGBA")
    small.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    with zipfile.ZipFile(path, "w") as archive:
        # First and stored, so that the kind of the file can be told from its first bytes.
        _add(archive, "mimetype", b"image/openraster")
        _add(archive, "stack.xml", table.encode())
        for number, sheet in enumerate(stack.sheets):
            _add(archive, f"data/layer{number}.png", _png(Image.fromarray(sheet.rgba, "RGBA")))
        _add(archive, "mergedimage.png", _png(Image.fromarray(stack.merged, "RGBA")))
        _add(archive, "Thumbnails/thumbnail.png", _png(small))


def _add(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    """One member of a fixed date, so that equal scenes are equal files; PNGs are packed already."""
    archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), data)


def _png(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()
