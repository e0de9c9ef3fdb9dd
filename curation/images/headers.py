"""Headers of image files, which are read and checked before any pixel is decoded."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

MAX_ICC: Final = 4 << 20  # typical profiles have a few KB, lookup tables of printers up to 2 MiB
MAX_EXIF: Final = 64 << 10


class InvalidImage(Exception):
    """A file that is refused, with a code for reports and a sentence for people."""

    def __init__(self, code: str, sentence: str) -> None:
        super().__init__(code, sentence)
        self.code = code
        self.sentence = sentence

    def __str__(self) -> str:
        return self.sentence


@dataclass(frozen=True)
class ColorInfo:
    """The color metadata of a file; `curation.images.colors` decides which of it counts."""

    # Primaries, transfer, matrix and full range (ITU-T H.273).
    cicp: tuple[int, int, int, int] | None = None
    icc: bytes | None = None  # b"" for a profile that cannot be unpacked
    srgb: bool = False
    gamma: float | None = None
    chromaticities: tuple[float, ...] | None = None  # x and y of white, red, green and blue


@dataclass(frozen=True)
class ImageHeader:
    """The header of an image file, and `pixels`: the file reduced to what decoding needs."""

    format: str  # PNG, WEBP, GIF, JPEG, TIFF, PSD, AVIF
    width: int
    height: int
    pixels: bytes = field(repr=False, default=b"")
    bits: int = 8  # per channel
    gray: bool = False
    alpha: bool = True  # whether the file can carry transparency at all
    premultiplied: bool = False
    lossy: bool = False
    animated: bool = False
    text: bool = False  # text, XMP or time stamps were removed
    trailing: bool = False  # bytes after the end of the image were removed
    palette: bytes | None = field(repr=False, default=None)  # PNG's, R G B each
    transparency: bytes | None = field(repr=False, default=None)  # PNG's tRNS chunk
    ios: bool = False  # a PNG of an iOS app (CgBI), with colors in the order B G R
    color: ColorInfo = ColorInfo()
    exif: bytes | None = field(repr=False, default=None)
    orientation: int = 1  # from the format's own metadata, not EXIF

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.width, self.height
