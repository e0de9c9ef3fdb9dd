"""Layers as image files of other programs: with alpha, composited, or with a mask beside them."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from curation.errors import Refused
from curation.images.codec import BACKGROUNDS, composite_over, decode_layer

_HEX = re.compile(r"#?([0-9a-fA-F]{6})")


class Alpha(StrEnum):
    """The treatment of the alpha channel of pulled images."""

    keep = "keep"  # RGBA, exact
    composite = "composite"  # RGB over a background
    mask = "mask"  # RGB over a background, and alpha as a grayscale image of its own


class ImageType(StrEnum):
    """The file type of pulled images."""

    png = "png"
    webp = "webp"  # lossless; with alpha the stored bytes, unchanged


@dataclass(frozen=True)
class Treatment:
    """How layers become image files.

    Attributes:
        alpha: The treatment of the alpha channel.
        background: The color behind composited images, 0..255 each.
        image_type: The file type.
    """

    alpha: Alpha = Alpha.keep
    background: tuple[int, int, int] = (255, 255, 255)
    image_type: ImageType = ImageType.png

    def record(self) -> dict[str, Any]:
        """Return the treatment as JSON; the background only where it matters."""
        row: dict[str, Any] = {"alpha": str(self.alpha), "image_type": str(self.image_type)}
        if self.alpha is not Alpha.keep:
            row["background"] = "#{:02x}{:02x}{:02x}".format(*self.background)
        return row

    @property
    def key(self) -> str:
        """The treatment as a short text: equal texts give equal pixels."""
        color = "" if self.alpha is Alpha.keep else "{:02x}{:02x}{:02x}".format(*self.background)
        return f"{'rgba' if self.alpha is Alpha.keep else 'rgb'}{color}.{self.image_type}"

    def render(self, stored: bytes) -> bytes:
        """Return the image file of a stored layer.

        Args:
            stored: The bytes of a layer in an object store.

        Raises:
            Corrupt: The layer cannot be decoded.
        """
        rgba = decode_layer(stored)
        if self.alpha is Alpha.keep:
            is_stored_type = self.image_type is ImageType.webp and stored[8:12] == b"WEBP"
            return stored if is_stored_type else _encode(rgba, self.image_type)
        return _encode(composite_over(rgba, self.background), self.image_type)


def render_mask(stored: bytes) -> bytes:
    """Return the alpha channel of a stored layer as a grayscale PNG. Raises Corrupt."""
    return _encode(decode_layer(stored)[..., 3], ImageType.png)


def parse_background(text: str) -> tuple[int, int, int]:
    """Parse a color: one of the names of the ALPHA benchmark's backgrounds, or #rrggbb.

    Args:
        text: A name, as white, black or gray, or six hex digits.

    Raises:
        Refused: It is neither.
    """
    names = BACKGROUNDS | {"gray": BACKGROUNDS["grey"]}
    if text.lower() in names:
        return names[text.lower()]
    match = _HEX.fullmatch(text)
    if match is None:
        raise Refused(f"{text[:40]!r} is not a color", "give #rrggbb, white, black or gray")
    red, green, blue = bytes.fromhex(match.group(1))
    return red, green, blue


def _encode(pixels: NDArray[np.uint8], image_type: ImageType) -> bytes:
    out = io.BytesIO()
    image = Image.fromarray(np.ascontiguousarray(pixels))
    if image_type is ImageType.webp:
        image.save(out, "WEBP", lossless=True, exact=True, quality=0, method=0)
    else:
        image.save(out, "PNG", compress_level=1)
    return out.getvalue()
