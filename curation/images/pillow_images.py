"""Conversion of PIL images to sRGB by the same color policy as files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFile, ImageOps

from curation.image_limits import DEFAULT_LIMITS, ImageLimits
from curation.images.colors import choose_conversion, cmyk_to_srgb, to_eight_bits
from curation.images.decoding import decode_image
from curation.images.headers import ColorInfo, InvalidImage
from curation.images.opening import READERS, open_with_pillow
from curation.input_files import open_beneath
from curation.ports import RGBA


def from_path(path: str | Path, limits: ImageLimits = DEFAULT_LIMITS) -> RGBA:
    """Decode a file in this process, without confinement.

    Args:
        path: The file.
        limits: The limits of bytes and pixels.

    Returns:
        The image as upright straight sRGB, H x W x 4 uint8, opaque if it has no alpha.

    Raises:
        UnsafeFile: There is no such regular file.
        InvalidImage: It is broken, too large, or of an unsupported format.
    """
    file_path = Path(path).resolve()
    with open_beneath(file_path.parent, file_path.name) as file:
        return decode_image(file.read(limits.bytes + 1), file_path.name, limits).rgba


def from_pillow(image: Image.Image, limits: ImageLimits = DEFAULT_LIMITS) -> RGBA:
    """Convert a PIL image to upright straight sRGB.

    An image that was opened from a file and not changed since is decoded from the file's bytes,
    because Pillow drops data that the policy needs (cICP, the low bytes of 16-bit samples, the
    depth of a transparent color). For any other image, profile, gamma, transparent color and
    orientation come from its `info`.

    Args:
        image: The image, of 8 or 16 bits.
        limits: The limits of bytes and pixels for an image from a file.

    Returns:
        H x W x 4 uint8, opaque if the image has no alpha.

    Raises:
        InvalidImage: Its samples are not colors of 8 or 16 bits.
    """
    data = _source(image, limits)
    if data is not None:
        return decode_image(data, "", limits).rgba
    return _from_memory(image)


def _source(image: Image.Image, limits: ImageLimits) -> bytes | None:
    """Return the bytes of an image's file, None if it was changed or the file is not available."""
    if (
        not isinstance(image, ImageFile.ImageFile)
        or image.format not in READERS
        or getattr(image, "tell", int)() != 0
    ):
        return None
    try:
        data = _bytes_of(image, limits)
        if data is None or len(data) > limits.bytes:
            return None
        if image.tile and _pixels_pending(image):
            return data
        # The pixels were loaded, so compare them with the file's.
        again = open_with_pillow(data, image.format or "")
        same_kind = (again.mode, again.size) == (image.mode, image.size)
        same = same_kind and again.tobytes() == image.tobytes()
    except Exception:  # the file is missing or was replaced: use the image itself
        return None
    return data if same else None


def _pixels_pending(image: ImageFile.ImageFile) -> bool:
    """Return whether Pillow has decoded no pixels yet, so that none can have been changed."""
    return getattr(image, "_im", None) is None


def _bytes_of(image: ImageFile.ImageFile, limits: ImageLimits) -> bytes | None:
    """Read an image's file: the open one if there is one, else the one at its path."""
    file: Any = image.fp
    if file is not None and not getattr(file, "closed", False) and image.format != "AVIF":
        position = file.tell()
        file.seek(0)
        data: bytes = file.read(limits.bytes + 1)
        file.seek(position)
        return data
    if not image.filename:
        return None
    path = Path(
        image.filename if isinstance(image.filename, str) else image.filename.decode()
    ).resolve()
    with open_beneath(path.parent, path.name) as opened:
        return opened.read(limits.bytes + 1)


def _from_memory(image: Image.Image) -> RGBA:
    """Convert an image by its pixels and its `info`."""
    upright = ImageOps.exif_transpose(image)
    info = _color_info(upright)
    gray = upright.mode in {"1", "L", "LA", "La"} or upright.mode.startswith("I;16")

    # RGBA samples of 16 or 8 bits.
    samples = _deep(upright)
    if samples is None:
        if upright.mode in {"F", "I"}:
            raise InvalidImage(
                "unsupported_format",
                "32-bit samples are not supported: use an image of 8 or 16 bits per channel",
            )
        if upright.mode == "CMYK":
            upright, _ = cmyk_to_srgb(upright, info.icc)
            info = ColorInfo()
        samples = np.asarray(_with_alpha(upright))

    # Convert to 8-bit sRGB.
    color, alpha = samples[..., :3], samples[..., 3]
    convert, _ = choose_conversion(info, gray=gray)
    levels = to_eight_bits(color) if convert is None else convert(color)
    return np.dstack([levels, to_eight_bits(alpha)])


def _deep(image: Image.Image) -> np.ndarray[Any, np.dtype[np.uint16]] | None:
    """Return the samples of a 16-bit gray image as RGBA, None for other images."""
    # Pillow may hold 16-bit samples as 32-bit integers.
    array = np.asarray(image)
    is_wide = (
        image.mode == "I"
        and array.size
        and int(array.min()) >= 0
        and 255 < int(array.max()) <= 65_535
    )
    if not (image.mode.startswith("I;16") or is_wide):
        return None
    gray = array.astype(np.uint16)
    key = image.info.get("transparency")
    alpha = (
        np.where(gray == key, 0, 65_535) if isinstance(key, int) else np.full(gray.shape, 65_535)
    )
    return np.dstack([gray, gray, gray, alpha.astype(np.uint16)])


def _with_alpha(image: Image.Image) -> Image.Image:
    """Convert an 8-bit image to straight RGBA, with its transparent color applied."""
    if image.mode == "La":
        image = image.convert("LA")
    if image.mode in {"RGB", "L"} and isinstance(
        key := image.info.get("transparency"), tuple | int
    ):
        top = max(key) if isinstance(key, tuple) else key
        if top > 255:  # a 16-bit transparent color, while Pillow cut the samples to 8 bits
            image = image.copy()
            image.info["transparency"] = (
                tuple(v >> 8 for v in key) if isinstance(key, tuple) else key >> 8
            )
    return image.convert("RGBA")


def _color_info(image: Image.Image) -> ColorInfo:
    """Return the color metadata that Pillow keeps in `info`."""
    icc, gamma, primaries = (
        image.info.get(name) for name in ("icc_profile", "gamma", "chromaticity")
    )
    return ColorInfo(
        icc=icc if isinstance(icc, bytes) and icc else None,
        srgb="srgb" in image.info,
        gamma=float(gamma) if isinstance(gamma, int | float) else None,
        chromaticities=tuple(map(float, primaries))
        if isinstance(primaries, tuple) and len(primaries) == 8
        else None,
    )
