"""The data of an image's own headers, read before a decoder sees any pixel of it, and the refusal of bad files."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

MAX_ICC: Final = 4 << 20  # honest profiles are a few KB; printers' lookup tables reach about 2 MiB
MAX_EXIF: Final = 64 << 10


class BadFile(Exception):
    """A file that is refused: `code` for the report, the sentence for a person."""

    def __init__(self, code: str, sentence: str) -> None:
        super().__init__(code, sentence)
        self.code = code
        self.sentence = sentence

    def __str__(self) -> str:
        return self.sentence


@dataclass(frozen=True)
class ColorInfo:
    """What a file says of its colors; `curation.images.colors` decides which of it counts."""

    cicp: tuple[int, int, int, int] | None = (
        None  # primaries, transfer, matrix, full range (ITU-T H.273)
    )
    icc: bytes | None = None  # b"" where there is a profile that cannot even be unpacked
    srgb: bool = False
    gamma: float | None = None
    chromaticities: tuple[float, ...] | None = None  # x and y of white, red, green and blue


@dataclass(frozen=True)
class Header:
    """What stands in a file's own headers, and `pixels`: the same file with as little beside its pixels as needed."""

    format: str  # PNG, WEBP, GIF, JPEG, TIFF, PSD, AVIF
    width: int
    height: int
    pixels: bytes = field(repr=False, default=b"")
    bits: int = 8  # per channel
    grey: bool = False
    alpha: bool = True  # whether the file can carry transparency at all
    premultiplied: bool = False
    lossy: bool = False
    animated: bool = False
    text: bool = False  # text, XMP or time stamps were left out
    trailing: bool = False  # bytes behind the end of the image were left out
    palette: bytes | None = field(repr=False, default=None)  # PNG's, R G B each
    transparency: bytes | None = field(repr=False, default=None)  # PNG's tRNS chunk
    ios: bool = False  # a PNG of an iOS app (CgBI): its colors are in the order B G R
    color: ColorInfo = ColorInfo()
    exif: bytes | None = field(repr=False, default=None)
    orientation: int = 1  # where it is told beside EXIF

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.width, self.height
