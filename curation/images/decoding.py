"""The decoder of imported images: from a file's bytes to upright, straight, 8-bit sRGB.

It takes bytes and returns pixels, without side effects. Files of untrusted origin are decoded in a
confined process.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from curation.image_limits import DEFAULT_LIMITS, ImageLimits
from curation.images.codec import MAX_DIMENSION, clear_hidden_colors
from curation.images.colors import Samples, choose_conversion, cmyk_to_srgb, to_eight_bits
from curation.images.headers import ImageHeader, InvalidImage
from curation.images.opening import open_with_pillow
from curation.images.recognition import read_header
from curation.ports import RGBA

BAND: Final = 1 << 18
"""Number of pixels that are converted at a time, to limit the memory of wide integers."""
GRAY, GRAY_ALPHA, RGB, RGB_ALPHA = 1, 2, 3, 4


@dataclass(frozen=True)
class Decoded:
    """A decoded image: upright H x W x 4 sRGB (color 0 under alpha 0), header and remark codes."""

    rgba: RGBA = field(repr=False)
    header: ImageHeader
    found: tuple[str, ...]


@dataclass(frozen=True)
class Raw:
    """The samples of a file, H x W x 1 to 4: gray or RGB with or without alpha.

    Attributes:
        samples: 8 or 16 bits, as in the file.
        key: The color that is transparent, if any.
        found: The codes of remarks.
        from_cmyk: Whether the samples were converted from CMYK.
    """

    samples: Samples = field(repr=False)
    key: tuple[int, ...] | None = None
    found: tuple[str, ...] = ()
    from_cmyk: bool = False


def decode_image(data: bytes, name: str = "", limits: ImageLimits = DEFAULT_LIMITS) -> Decoded:
    """Decode an image: PNG, WebP, GIF, JPEG, TIFF, AVIF, or the merged image of a Photoshop file.

    Args:
        data: The whole file.
        name: The file's name, used in error messages only.
        limits: The limits of bytes and pixels.

    Returns:
        The image with its header and remark codes.

    Raises:
        InvalidImage: It is broken, too large, or of an unsupported format.
    """
    if len(data) > limits.bytes:
        raise InvalidImage("too_many_bytes", f"the file is larger than {limits.bytes >> 20} MiB")
    header = read_header(data, name)
    check_pixels(header, limits)
    check_dimensions(header)
    rgba, found = decode(header)
    return Decoded(clear_hidden_colors(rgba), header, tuple(found))


def check_pixels(header: ImageHeader, limits: ImageLimits) -> None:
    """Check size and number of frames before decoding. Raises InvalidImage."""
    width, height = header.size
    if width * height > limits.pixels:
        raise InvalidImage(
            "too_many_pixels",
            f"{width} x {height} pixels are more than {limits.pixels / 1e6:g} million",
        )
    if min(width, height) < 1:
        raise InvalidImage(
            "bad_dimensions", f"invalid size in the header: {width} x {height} pixels"
        )
    if header.animated:
        raise InvalidImage("animated", "the file has several frames")


def check_dimensions(header: ImageHeader) -> None:
    """Check that width and height are within the limit of stored layers. Raises InvalidImage."""
    if max(header.size) > MAX_DIMENSION:
        raise InvalidImage(
            "bad_dimensions",
            f"{header.width} x {header.height} exceeds {MAX_DIMENSION} pixels in width or height",
        )


def decode(header: ImageHeader) -> tuple[RGBA, list[str]]:
    """Decode the pixels of an image whose header was read and checked.

    Args:
        header: The header, with the bytes to decode.

    Returns:
        The upright H x W x 4 uint8 image in sRGB, and the codes of remarks.

    Raises:
        InvalidImage: The pixels cannot be decoded.
    """
    # The samples as the file has them.
    try:
        raw = _samples(header)
    except InvalidImage:
        raise
    except Exception as error:  # decoders raise anything for broken files
        cut = "truncated" in str(error)
        message = "the pixels end too soon" if cut else "the pixels cannot be decoded"
        raise InvalidImage("truncated" if cut else "corrupt", message) from error

    # The conversion to sRGB, and the remarks.
    try:
        convert, remarks = choose_conversion(
            header.color, gray=header.gray, from_cmyk=raw.from_cmyk
        )
    except InvalidImage:
        raise
    except Exception:  # values that define no color space
        convert, remarks = None, ["odd_colour_space"]
    found = (["lossy_source"] if header.lossy else []) + (["greyscale"] if header.gray else [])
    found += (["ios_png"] if header.ios else []) + [*raw.found, *remarks]

    # Straight 8-bit sRGB, band by band. Pillow divides the colors of an 8-bit TIFF by alpha itself.
    multiplied = header.premultiplied and (header.ios or header.bits == 16)
    rgba = np.empty((*raw.samples.shape[:2], 4), np.uint8)
    for rows in _bands(*raw.samples.shape[:2]):
        color, alpha = _split(raw.samples[rows], raw.key)
        if multiplied:
            color = _straight(color, alpha)
        rgba[rows, :, :3] = to_eight_bits(color) if convert is None else convert(color)
        rgba[rows, :, 3] = to_eight_bits(alpha)
    return _turn(rgba, header), found


def _bands(height: int, width: int) -> Iterator[slice]:
    step = max(1, BAND // width)
    return (slice(top, min(top + step, height)) for top in range(0, height, step))


def _samples(header: ImageHeader) -> Raw:
    """Decode the samples of a file at its own bit depth."""
    if header.bits == 16:
        return _with_key(header, _decode_deep(header))
    image = open_with_pillow(header.pixels, header.format)
    with image:
        # Only the size of the header was checked against the limits.
        if not _same_size(image.size, header):
            raise ValueError(
                f"decoded {image.size}, but the header has {header.width} x {header.height}"
            )
        image.load()
        if header.format == "PNG":
            return _from_png(header, image)
        if image.mode == "CMYK":
            converted, found = cmyk_to_srgb(image, header.color.icc)
            return Raw(np.asarray(converted), found=tuple(found), from_cmyk=True)
        if header.format == "PSD" and header.alpha:
            return Raw(_off_white(np.asarray(image.convert("RGBA"))))
        return Raw(_plain(image, header))


def _same_size(size: tuple[int, ...], header: ImageHeader) -> bool:
    """Return whether a decoded size equals the header's; a TIFF may have been rotated."""
    return size == header.size or (header.orientation > 4 and size == header.size[::-1])


def _decode_deep(header: ImageHeader) -> NDArray[np.uint16]:
    """Decode 16-bit samples with OpenCV, since Pillow keeps only their high bytes."""
    deep = cv2.imdecode(np.frombuffer(header.pixels, np.uint8), cv2.IMREAD_UNCHANGED)
    if deep is None:
        raise ValueError("image file is truncated or broken")
    if deep.ndim == 2:
        deep = deep[..., None]
    channels = deep.shape[2]
    if (
        deep.dtype != np.uint16
        or channels not in {GRAY, RGB, RGB_ALPHA}
        or not _same_size(deep.shape[1::-1], header)
    ):
        raise ValueError("the decoded samples do not match the header")
    # A fourth channel is alpha only if the header declares it.
    if channels == RGB_ALPHA and not header.alpha:
        deep = deep[..., :RGB]
    # OpenCV returns B G R.
    if channels >= RGB:
        deep = deep[..., [2, 1, 0, 3][: deep.shape[2]]]
    return np.asarray(deep, np.uint16)


def _from_png(header: ImageHeader, image: Image.Image) -> Raw:
    """Return the samples of a PNG of up to 8 bits, with its palette applied and gray in 0..255."""
    samples = np.asarray(image)
    if header.palette is not None:
        return Raw(_palette(header)[samples])
    if samples.dtype == np.bool_:
        samples = samples.astype(np.uint8) * 255
    # PNGs of iOS apps are B G R.
    if header.ios and samples.ndim == 3 and samples.shape[2] >= RGB:
        samples = samples[..., [2, 1, 0, 3][: samples.shape[2]]]
    return _with_key(header, samples if samples.ndim == 3 else samples[..., None])


def _with_key(header: ImageHeader, samples: Samples) -> Raw:
    """Return the samples with the transparent color of a PNG, at the file's bit depth."""
    channels, transparency_chunk = samples.shape[2], header.transparency or b""
    if (
        header.format != "PNG"
        or channels not in {GRAY, RGB}
        or len(transparency_chunk) < 2 * channels
    ):
        return Raw(samples)
    # Samples of fewer than 8 bits were scaled to 0..255 exactly; so is the transparent color.
    spread = 255 // (2**header.bits - 1) if header.bits < 8 else 1
    mask = 2**header.bits - 1
    return Raw(
        samples,
        tuple(
            (int.from_bytes(transparency_chunk[2 * n : 2 * n + 2], "big") & mask) * spread
            for n in range(channels)
        ),
    )


def _palette(header: ImageHeader) -> RGBA:
    """Return the palette of a PNG as 256 RGBA colors; missing entries are opaque black."""
    table = np.zeros((256, 4), np.uint8)
    table[:, 3] = 255
    colors = np.frombuffer(header.palette or b"", np.uint8)
    colors = colors[: len(colors) // 3 * 3].reshape(-1, 3)[:256]
    table[: len(colors), :3] = colors
    clear = np.frombuffer(header.transparency or b"", np.uint8)[:256]
    table[: len(clear), 3] = clear
    return table


def _plain(image: Image.Image, header: ImageHeader) -> NDArray[np.uint8]:
    """Return the samples of an image as Pillow decodes them, with alpha if it is declared."""
    if header.alpha:
        # Pillow applies a GIF's palette transparency and divides premultiplied colors by alpha.
        image = image.convert("LA" if image.mode in {"La", "LA"} else "RGBA")
    else:
        image = image.convert("L" if header.gray else "RGB")
    samples = np.asarray(image)
    return samples if samples.ndim == 3 else samples[..., None]


def _off_white(rgba: RGBA) -> RGBA:
    """Return straight colors of an image that is blended with white (Photoshop's convention)."""
    color, alpha = rgba[..., :3].astype(np.int32), rgba[..., 3:].astype(np.int32)
    straight = ((color + alpha - 255) * 510 + alpha) // np.maximum(2 * alpha, 1)
    return np.concatenate([straight.clip(0, 255), alpha], axis=2).astype(np.uint8)


def _split(samples: Samples, key: tuple[int, ...] | None) -> tuple[Samples, Samples]:
    """Split samples into colors (H x W x 3) and alpha (H x W) of the same bit depth."""
    channels, top = samples.shape[2], np.iinfo(samples.dtype).max
    color = np.repeat(samples[..., :1], 3, axis=2) if channels <= GRAY_ALPHA else samples[..., :3]
    if channels in {GRAY_ALPHA, RGB_ALPHA}:
        return color, samples[..., -1]
    if key is None:
        return color, np.full(samples.shape[:2], top, samples.dtype)
    clear = (samples == np.array(key, samples.dtype)).all(axis=2)
    return color, np.where(clear, 0, top).astype(samples.dtype)


def _straight(color: Samples, alpha: Samples) -> Samples:
    """Divide premultiplied colors by alpha, rounded to nearest."""
    top = int(np.iinfo(color.dtype).max)
    wide_alpha = alpha.astype(np.int64)[..., None]
    divided = (color.astype(np.int64) * (2 * top) + wide_alpha) // np.maximum(2 * wide_alpha, 1)
    return np.where(wide_alpha > 0, np.minimum(divided, top), 0).astype(color.dtype)


TURNS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation (tag 0x0112) -> the transposition that makes the image upright."""


def _turn(rgba: RGBA, header: ImageHeader) -> RGBA:
    """Rotate an image upright by its EXIF orientation."""
    # Pillow and OpenCV apply the orientation of a TIFF themselves.
    turn = TURNS.get(_exif_orientation(header.exif)) if header.format != "TIFF" else None
    return rgba if turn is None else np.asarray(Image.fromarray(rgba).transpose(turn))


def _exif_orientation(exif: bytes | None) -> int:
    if not exif:
        return 1
    tags = Image.Exif()
    try:
        tags.load(exif if exif.startswith(b"Exif\0\0") else b"Exif\0\0" + exif)
        return int(tags.get(0x0112, 1))
    except Exception:  # broken EXIF is ignored
        return 1
