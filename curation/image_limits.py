"""Limits on the size of one image; settings change them, and a decoder's memory is derived."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

MEGAPIXEL: Final = 1_000_000
BASE_MEMORY_BYTES: Final = 256 << 20
"""Bytes of memory that a decoder's process needs in addition to the pixels."""
BYTES_PER_PIXEL: Final = 32
"""Memory for a decoded 16-bit image, its 8-bit copy, and the planes in which it is measured."""


@dataclass(frozen=True)
class ImageLimits:
    """Limits of one image file: its bytes, pixels, shorter side, and longest aspect ratio."""

    bytes: int = 64 << 20
    pixels: int = 40 * MEGAPIXEL
    shortest: int = 16
    aspect: float = 16.0

    @property
    def memory(self) -> int:
        """The address space, in bytes, to decode and measure an image of the largest size."""
        return BASE_MEMORY_BYTES + BYTES_PER_PIXEL * self.pixels


DEFAULT_LIMITS: Final = ImageLimits()
