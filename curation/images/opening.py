"""Pillow's readers, called by format, without format detection and Pillow's global limits."""

from __future__ import annotations

import io
from typing import Final

from PIL import (
    AvifImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    PsdImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

READERS: Final[dict[str, type[ImageFile.ImageFile]]] = {
    "AVIF": AvifImagePlugin.AvifImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "JPEG": JpegImagePlugin.JpegImageFile,
    "PNG": PngImagePlugin.PngImageFile,
    "PSD": PsdImagePlugin.PsdImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
}
"""Importing this module imports every reader, since a confined process cannot import later."""

# A confined process cannot start threads.
AvifImagePlugin.DEFAULT_MAX_THREADS = 1


def open_with_pillow(data: bytes, kind: str) -> Image.Image:
    """Open an image of a known format; the reader may raise any exception.

    The caller must check the size before the pixels are loaded.
    """
    return READERS[kind](io.BytesIO(data))
