"""What a single image may ask for; the settings move these limits, and a decoder's memory follows from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

MEGAPIXEL: Final = 1_000_000
BASE_MEMORY: Final = 256 << 20
"""Bytes that a decoder's process needs beside the pixels."""
BYTES_PER_PIXEL: Final = 32
"""A decoded image with 16 bits a channel, its 8-bit copy, and the planes in which it is measured."""


@dataclass(frozen=True)
class Limits:
    """Bounds of one file: its bytes, its pixels, its shorter side, and how many times longer the other may be."""

    bytes: int = 64 << 20
    pixels: int = 40 * MEGAPIXEL
    shortest: int = 16
    aspect: float = 16.0

    @property
    def memory(self) -> int:
        """The address space that a process needs to decode and judge an image of the largest size."""
        return BASE_MEMORY + BYTES_PER_PIXEL * self.pixels


LIMITS: Final = Limits()
