"""Pillow's readers of single formats, called by name: nothing is guessed, and no global limit of Pillow's applies."""

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
"""Importing this module imports every reader: a confined process can import nothing later."""

AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # a confined process can start no thread


def open_with_pillow(data: bytes, kind: str) -> Image.Image:
    """Read the headers of an image whose format is known; whatever its reader raises comes through.

    Sizes must be checked by the caller before the pixels are loaded.
    """
    return READERS[kind](io.BytesIO(data))
