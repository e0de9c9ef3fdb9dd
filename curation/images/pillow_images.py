"""Images that a program holds as PIL images, made sRGB by the same color policy as files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFile, ImageOps

from curation.image_limits import LIMITS, Limits
from curation.images.colors import choose_conversion, from_inks, to_eight_bits
from curation.images.decoding import decode_image
from curation.images.headers import BadFile, ColorInfo
from curation.images.opening import READERS, open_with_pillow
from curation.input_files import open_inside
from curation.ports import RGBA


def from_path(path: str | Path, limits: Limits = LIMITS) -> RGBA:
    """Decode a file in this process.

    Returns:
        The image as upright straight sRGB, H x W x 4 uint8; what has no alpha is opaque.

    Raises:
        UnsafeFile: There is no such regular file.
        BadFile: It is no image that is read, or too large.
    """
    at = Path(path).resolve()
    with open_inside(at.parent, at.name) as file:
        return decode_image(file.read(limits.bytes + 1), at.name, limits).rgba


def from_pillow(image: Image.Image, limits: Limits = LIMITS) -> RGBA:
    """Return a PIL image as upright straight sRGB, H x W x 4 uint8; what has no alpha is opaque.

    An image that was opened from a file and not changed since is decoded from that file's bytes, because Pillow drops
    what the policy needs (cICP, the low bytes of 16 bits, the depth of a color key). Of any other image its `info`
    tells profile, gamma, color key and orientation.

    Raises:
        BadFile: Its samples are no colors of 8 or 16 bits.
    """
    data = _source(image, limits)
    if data is not None:
        return decode_image(data, "", limits).rgba
    return _from_memory(image)


def _source(image: Image.Image, limits: Limits) -> bytes | None:
    """The bytes of the file that an image was opened from, None where it was changed or its file is not at hand."""
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
        again = open_with_pillow(data, image.format or "")
        same = (again.mode, again.size) == (
            image.mode,
            image.size,
        ) and again.tobytes() == image.tobytes()
    except (
        Exception
    ):  # its file has gone, or is another one by now: the image itself is what counts
        return None
    return data if same else None


def _pixels_pending(image: ImageFile.ImageFile) -> bool:
    """Whether Pillow has decoded nothing yet, so that nothing can have been changed."""
    return getattr(image, "_im", None) is None


def _bytes_of(image: ImageFile.ImageFile, limits: Limits) -> bytes | None:
    """Read an image's file from its beginning: the open one, else the one with its name."""
    file: Any = image.fp
    if file is not None and not getattr(file, "closed", False) and image.format != "AVIF":
        at = file.tell()
        file.seek(0)
        data: bytes = file.read(limits.bytes + 1)
        file.seek(at)
        return data
    if not image.filename:
        return None
    path = Path(
        image.filename if isinstance(image.filename, str) else image.filename.decode()
    ).resolve()
    with open_inside(path.parent, path.name) as opened:
        return opened.read(limits.bytes + 1)


def _from_memory(image: Image.Image) -> RGBA:
    upright = ImageOps.exif_transpose(image)
    info, grey = (
        _color_info(upright),
        upright.mode in {"1", "L", "LA", "La"} or upright.mode.startswith("I;16"),
    )
    samples = _deep(upright)
    if samples is None:
        if upright.mode in {"F", "I"}:
            raise BadFile(
                "unsupported_format",
                "its samples have 32 bits: give an image of 8 or 16 bits a channel",
            )
        if upright.mode == "CMYK":
            upright, _ = from_inks(upright, info.icc)
            info = ColorInfo()
        samples = np.asarray(_with_alpha(upright))
    color, alpha = samples[..., :3], samples[..., 3]
    convert, _ = choose_conversion(info, grey=grey)
    levels = to_eight_bits(color) if convert is None else convert(color)
    return np.dstack([levels, to_eight_bits(alpha)])


def _deep(image: Image.Image) -> np.ndarray[Any, np.dtype[np.uint16]] | None:
    """The samples of a grey image of 16 bits as R, G, B and alpha, with its color key; None for another image."""
    array = np.asarray(image)
    wide = (
        image.mode == "I"
        and array.size
        and int(array.min()) >= 0
        and 255 < int(array.max()) <= 65_535
    )
    if not (image.mode.startswith("I;16") or wide):
        return None
    grey = array.astype(np.uint16)
    key = image.info.get("transparency")
    alpha = (
        np.where(grey == key, 0, 65_535) if isinstance(key, int) else np.full(grey.shape, 65_535)
    )
    return np.dstack([grey, grey, grey, alpha.astype(np.uint16)])


def _with_alpha(image: Image.Image) -> Image.Image:
    """An image of 8 bits as RGBA; its color key is compared by Pillow, a premultiplied alpha divided out."""
    if image.mode == "La":
        image = image.convert("LA")
    if image.mode in {"RGB", "L"} and isinstance(
        key := image.info.get("transparency"), tuple | int
    ):
        top = max(key) if isinstance(key, tuple) else key
        if top > 255:  # a key of 16 bits beside samples that have been cut to 8
            image = image.copy()
            image.info["transparency"] = (
                tuple(v >> 8 for v in key) if isinstance(key, tuple) else key >> 8
            )
    return image.convert("RGBA")


def _color_info(image: Image.Image) -> ColorInfo:
    """What Pillow has kept of what the file said of its colors."""
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
