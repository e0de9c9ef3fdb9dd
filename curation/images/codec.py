"""The codec of stored layers: lossless WebP, a hash of visible pixels, and compositing."""

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
"""The nine solid backgrounds of the ALPHA benchmark (AlphaVAE, arXiv 2507.09308, section 3.1)."""

MAX_DIMENSION = 16_383
"""The limit of WebP on width and height, in pixels."""


def encode_layer(rgba: RGBA) -> bytes:
    """Encode an H x W x 4 uint8 image as lossless WebP that keeps the colors under alpha 0."""
    out = io.BytesIO()
    # Slower methods save little space and cost many times the CPU time.
    Image.fromarray(rgba, "RGBA").save(out, "WEBP", lossless=True, exact=True, quality=0, method=0)
    return out.getvalue()


def decode_layer(stored: bytes) -> RGBA:
    """Decode a stored layer to H x W x 4 uint8. Raises Corrupt if the bytes are not an image."""
    try:
        with Image.open(io.BytesIO(stored), formats=["WEBP", "PNG"]) as image:
            return np.asarray(image.convert("RGBA"))
    except (OSError, ValueError, SyntaxError) as error:
        raise Corrupt(
            f"a stored layer cannot be decoded: {error}", "run 'layerloop doctor'"
        ) from error


def to_png(stored: bytes) -> bytes:
    """Convert a stored layer to PNG, for programs that do not read WebP."""
    out = io.BytesIO()
    Image.fromarray(decode_layer(stored), "RGBA").save(out, "PNG", compress_level=1)
    return out.getvalue()


def make_thumbnail(stored: bytes, side: int) -> bytes:
    """Make a thumbnail of a stored layer.

    Args:
        stored: The stored layer.
        side: The maximum width and height in pixels.

    Returns:
        A WebP with lossless alpha and lossy colors.

    Raises:
        Corrupt: The layer cannot be decoded.
    """
    # Averaged with premultiplied colors, or hidden colors under alpha 0 would appear as a fringe.
    image = Image.fromarray(decode_layer(stored), "RGBA").convert("RGBa")
    image.thumbnail((side, side), Image.Resampling.BOX)
    out = io.BytesIO()
    image.convert("RGBA").save(out, "WEBP", quality=90, alpha_quality=100, method=2)
    return out.getvalue()


def clear_hidden_colors(rgba: RGBA) -> RGBA:
    """Return an image with color 0 wherever alpha is 0."""
    # One 32-bit word per pixel is faster than four bytes.
    packed = np.ascontiguousarray(rgba).view(np.uint32)
    return np.where(rgba[..., 3:] == 0, np.uint32(0), packed).view(np.uint8)


def pixel_hash(rgba: RGBA) -> str:
    """Return the sha256 of size and visible pixels, equal for images that blend equally."""
    height, width = rgba.shape[:2]
    visible = np.ascontiguousarray(clear_hidden_colors(rgba))
    return hashlib.sha256(f"{width}x{height}:".encode() + visible.tobytes()).hexdigest()


def composite_over(rgba: RGBA, background: tuple[int, int, int] | RGBA) -> NDArray[np.uint8]:
    """Composite a layer over a color or an opaque image.

    Args:
        rgba: H x W x 4 uint8, straight alpha.
        background: An RGB color in 0..255, or an opaque H x W x 4 image.

    Returns:
        H x W x 3 uint8, rounded to nearest.
    """
    alpha = rgba[..., 3:].astype(np.float32) / 255.0
    base = np.asarray(background, np.float32)[..., :3]
    blended = rgba[..., :3] * alpha + base * (1.0 - alpha)
    rounded: NDArray[np.uint8] = np.rint(blended).astype(np.uint8)
    return rounded
