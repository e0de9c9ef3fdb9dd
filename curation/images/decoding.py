"""From a file's pixel data to an upright sRGB picture with 8 bits a channel; run where a decoder may do its worst."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from typing import Final

import cv2
import numpy as np
from PIL import Image, ImageCms

from curation.images.headers import BadFile, Header
from curation.ports import RGBA

BROKEN: Final = (
    OSError, ValueError, SyntaxError, EOFError, IndexError, KeyError, TypeError, OverflowError,
    struct.error, zlib.error, cv2.error, Image.DecompressionBombError, Image.DecompressionBombWarning,
)  # fmt: skip
"""What decoders raise for broken files; anything else is our own mistake and is not hidden."""


def decode(header: Header) -> tuple[RGBA, list[str]]:
    """The upright H x W x 4 pixels in sRGB, and what was found on the way. Raises BadFile."""
    found = ["lossy_source"] if header.lossy else []
    try:
        # Pillow keeps only the high byte of 16-bit channels, OpenCV gives them whole.
        deep = header.format == "PNG" and header.bits == 16 and header.colour_type in {4, 6}
        image = Image.fromarray(_decode_deep(header.pixels)) if deep else _decode_plain(header)
    except BROKEN as error:
        cut = "truncated" in str(error)
        message = "the pixels end too soon" if cut else "the pixels cannot be decoded"
        raise BadFile("truncated" if cut else "corrupt", message) from error
    if header.colour_type in {0, 4}:
        found.append("greyscale")
    if header.icc is not None:
        image, finding = _to_srgb(image, header.icc, grey=header.colour_type in {0, 4})
        found += finding
    elif header.gamma is not None and abs(header.gamma - 1 / 2.2) > 0.01:
        found.append("odd_colour_space")
    return np.asarray(_upright(image, header.exif)), found


def _decode_deep(pixels: bytes) -> RGBA:
    """16 bits a channel, rounded to 8 by value / 257."""
    deep = cv2.imdecode(np.frombuffer(pixels, np.uint8), cv2.IMREAD_UNCHANGED)
    if deep is None or deep.dtype != np.uint16 or deep.ndim != 3 or deep.shape[2] != 4:
        raise OSError("image file is truncated or broken")
    return np.ascontiguousarray(cv2.convertScaleAbs(deep, alpha=1 / 257)[..., [2, 1, 0, 3]])


def _decode_plain(header: Header) -> Image.Image:
    with warnings.catch_warnings():
        # The size was checked in the header: a decoder that finds a larger one was lied to.
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        image = Image.open(io.BytesIO(header.pixels), formats=[header.format])
    with image:
        if image.size != (header.width, header.height):
            raise OSError(f"decoded {image.size}, the header says {header.width} x {header.height}")
        return image.convert("RGBA")


def _to_srgb(image: Image.Image, icc: bytes, *, grey: bool) -> tuple[Image.Image, list[str]]:
    """Colours through a valid RGB profile; a profile that changes nothing by more than two steps is sRGB itself."""
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        space = profile.profile.xcolor_space.strip()
        if grey and space == "GRAY":
            return image, []
        if space != "RGB" or profile.profile.device_class.strip() not in {"mntr", "scnr", "prtr", "spac"}:
            return image, ["bad_icc"]
        transform = ImageCms.buildTransform(profile, ImageCms.createProfile("sRGB"), "RGB", "RGB")
        ladder = np.stack(np.meshgrid(*[np.linspace(0, 255, 6, dtype=np.uint8)] * 3), axis=-1).reshape(6, 36, 3)
        changed = np.asarray(ImageCms.applyTransform(Image.fromarray(ladder), transform)).astype(int)
        if np.abs(changed - ladder).max() <= 2:
            return image, []
        converted = ImageCms.applyTransform(image.convert("RGB"), transform)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError, AttributeError):
        return image, ["bad_icc"]
    if converted is None:
        return image, ["bad_icc"]
    converted.putalpha(image.getchannel("A"))
    return converted, ["colour_converted"]


TURNS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation (tag 0x0112) -> what makes the picture upright."""


def _upright(image: Image.Image, exif: bytes | None) -> Image.Image:
    if not exif:
        return image
    tags = Image.Exif()
    try:
        tags.load(exif if exif.startswith(b"Exif\0\0") else b"Exif\0\0" + exif)
        turn = TURNS.get(tags.get(0x0112, 1))
    except (SyntaxError, ValueError, OSError, KeyError, struct.error, TypeError):
        return image
    return image if turn is None else image.transpose(turn)
