"""Layers as pixels: lossless WebP with exact colours, the hash of what can be seen, and composites over backgrounds."""

from __future__ import annotations

import hashlib
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from curation.errors import Corrupt
from curation.ports import RGBA

BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "black": (0, 0, 0),
    "grey": (128, 128, 128),
    "white": (255, 255, 255),
    "red": (255, 0, 0),
    "green": (0, 255, 0),
    "blue": (0, 0, 255),
    "yellow": (255, 255, 0),
    "cyan": (0, 255, 255),
    "magenta": (255, 0, 255),
}
"""The nine solid backgrounds of the ALPHA benchmark (AlphaVAE, arXiv 2507.09308, section 3.1), sRGB 0..255."""

MAX_SIDE = 16_383
"""WebP's own limit on width and height."""


def encode_layer(rgba: RGBA) -> bytes:
    """One H x W x 4 uint8 image as lossless WebP whose colours under alpha 0 are kept to the bit.

    Method 0: in the table of ARCHITECTURE.md the slower methods save little and cost many times the CPU.
    """
    out = io.BytesIO()
    Image.fromarray(rgba, "RGBA").save(out, "WEBP", lossless=True, exact=True, quality=0, method=0)
    return out.getvalue()


def decode_layer(stored: bytes) -> RGBA:
    """The H x W x 4 uint8 pixels of a stored layer. Raises Corrupt where the bytes are no image."""
    try:
        with Image.open(io.BytesIO(stored), formats=["WEBP", "PNG"]) as image:
            return np.asarray(image.convert("RGBA"))
    except (OSError, ValueError, SyntaxError) as error:
        raise Corrupt(
            f"a stored layer cannot be decoded: {error}", "run 'layerloop doctor'"
        ) from error


def as_png(stored: bytes) -> bytes:
    """A stored layer as PNG, for programs that read no WebP."""
    out = io.BytesIO()
    Image.fromarray(decode_layer(stored), "RGBA").save(out, "PNG", compress_level=1)
    return out.getvalue()


def small_layer(stored: bytes, side: int) -> bytes:
    """A stored layer as WebP whose longer side has at most `side` pixels: alpha is exact, colours lose a little.

    Averaged with colour premultiplied, or what hides under alpha 0 would come back as a fringe. Raises Corrupt.
    """
    image = Image.fromarray(decode_layer(stored), "RGBA").convert("RGBa")
    image.thumbnail((side, side), Image.Resampling.BOX)
    out = io.BytesIO()
    image.convert("RGBA").save(out, "WEBP", quality=90, alpha_quality=100, method=2)
    return out.getvalue()


def without_hidden_colour(rgba: RGBA) -> RGBA:
    """The same picture with colour 0 wherever alpha is 0: what cannot be seen carries nothing."""
    packed = np.ascontiguousarray(rgba).view(
        np.uint32
    )  # one word a pixel: four times fewer to choose between
    return np.where(rgba[..., 3:] == 0, np.uint32(0), packed).view(np.uint8)


def visible_hash(rgba: RGBA) -> str:
    """The sha256 of size and visible pixels: equal for files that blend alike, whatever their format."""
    height, width = rgba.shape[:2]
    seen = np.ascontiguousarray(without_hidden_colour(rgba))
    return hashlib.sha256(f"{width}x{height}:".encode() + seen.tobytes()).hexdigest()


def over(rgba: RGBA, background: tuple[int, int, int] | RGBA) -> NDArray[np.uint8]:
    """The layer blended over a colour or over an opaque image of its size: H x W x 3 uint8, rounded."""
    alpha = rgba[..., 3:].astype(np.float32) / 255.0
    below = np.asarray(background, np.float32)[..., :3]
    blended = rgba[..., :3] * alpha + below * (1.0 - alpha)
    rounded: NDArray[np.uint8] = np.rint(blended).astype(np.uint8)
    return rounded
