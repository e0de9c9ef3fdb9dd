"""The one decoder of people's images: from a file's bytes to upright straight sRGB with 8 bits a channel.

Pure: it takes bytes and returns pixels. Whoever decodes files of strangers runs it where a decoder may do its worst.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from curation.image_limits import LIMITS, Limits
from curation.images.codec import MAX_SIDE, without_hidden_colour
from curation.images.colors import Samples, choose_conversion, from_inks, to_eight_bits
from curation.images.headers import BadFile, Header
from curation.images.opening import open_with_pillow
from curation.images.recognition import read_header
from curation.ports import RGBA

BAND: Final = 1 << 18
"""Pixels that are converted at a time, so that wide numbers take little memory."""
GREY, GREY_ALPHA, RGB, RGB_ALPHA = 1, 2, 3, 4


@dataclass(frozen=True)
class Decoded:
    """An upright H x W x 4 image in sRGB, color 0 under alpha 0, its header, and the codes of what was found."""

    rgba: RGBA = field(repr=False)
    header: Header
    found: tuple[str, ...]


@dataclass(frozen=True)
class Raw:
    """Samples as the file has them, H x W x 1 to 4, grey or RGB with or without alpha; `key` is its clear color."""

    samples: Samples = field(repr=False)
    key: tuple[int, ...] | None = None
    found: tuple[str, ...] = ()
    inks: bool = False


def decode_image(data: bytes, name: str = "", limits: Limits = LIMITS) -> Decoded:
    """Decode any image that is read: PNG, WebP, GIF, JPEG, TIFF, AVIF, and the merged picture of Photoshop files.

    Args:
        data: The whole file.
        name: The file's name, for the sentence of a refusal alone.
        limits: The bounds of bytes and pixels; an image of any shape is taken.

    Raises:
        BadFile: It is broken, too large, or nothing that is read.
    """
    if len(data) > limits.bytes:
        raise BadFile("too_many_bytes", f"the file is larger than {limits.bytes >> 20} MiB")
    header = read_header(data, name)
    check_pixels(header, limits)
    check_side(header)
    rgba, found = decode(header)
    return Decoded(without_hidden_colour(rgba), header, tuple(found))


def check_pixels(header: Header, limits: Limits) -> None:
    """Refuse, before a pixel is decoded, what is too large or holds several images. Raises BadFile."""
    width, height = header.size
    if width * height > limits.pixels:
        raise BadFile(
            "too_many_pixels",
            f"{width} x {height} pixels are more than {limits.pixels / 1e6:g} million",
        )
    if min(width, height) < 1:
        raise BadFile("bad_dimensions", f"the header says {width} x {height} pixels")
    if header.animated:
        raise BadFile("animated", "the file has several frames")


def check_side(header: Header) -> None:
    """Refuse what is longer than a stored layer may be. Raises BadFile."""
    if max(header.size) > MAX_SIDE:
        raise BadFile(
            "bad_dimensions", f"{header.width} x {header.height} is longer than {MAX_SIDE} pixels"
        )


def decode(header: Header) -> tuple[RGBA, list[str]]:
    """Return the upright H x W x 4 pixels in sRGB, and what was found on the way. Raises BadFile."""
    try:
        raw = _samples(header)
    except BadFile:
        raise
    except Exception as error:  # decoders raise anything for broken files
        cut = "truncated" in str(error)
        message = "the pixels end too soon" if cut else "the pixels cannot be decoded"
        raise BadFile("truncated" if cut else "corrupt", message) from error
    try:
        convert, said = choose_conversion(header.color, grey=header.grey, inks=raw.inks)
    except BadFile:
        raise
    except Exception:  # numbers that name no color space
        convert, said = None, ["odd_colour_space"]
    found = (["lossy_source"] if header.lossy else []) + (["greyscale"] if header.grey else [])
    found += (["ios_png"] if header.ios else []) + [*raw.found, *said]
    # Of a TIFF with 8 bits Pillow has divided the colors by alpha already.
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


def _samples(header: Header) -> Raw:
    """The samples as they are in the file, at its own depth."""
    if header.bits == 16:
        return _with_key(header, _decode_deep(header))
    image = open_with_pillow(header.pixels, header.format)
    with image:
        # The size was checked in the header: a decoder that finds another one was lied to.
        if not _same_size(image.size, header):
            raise ValueError(
                f"decoded {image.size}, the header says {header.width} x {header.height}"
            )
        image.load()
        if header.format == "PNG":
            return _from_png(header, image)
        if image.mode == "CMYK":
            converted, found = from_inks(image, header.color.icc)
            return Raw(np.asarray(converted), found=tuple(found), inks=True)
        if header.format == "PSD" and header.alpha:
            return Raw(_off_white(np.asarray(image.convert("RGBA"))))
        return Raw(_plain(image, header))


def _same_size(size: tuple[int, ...], header: Header) -> bool:
    """Whether a decoder found the size that the header says; that of a TIFF may have been turned."""
    return size == header.size or (header.orientation > 4 and size == header.size[::-1])


def _decode_deep(header: Header) -> NDArray[np.uint16]:
    """Samples of 16 bits: Pillow keeps only their high bytes, OpenCV gives them whole."""
    deep = cv2.imdecode(np.frombuffer(header.pixels, np.uint8), cv2.IMREAD_UNCHANGED)
    if deep is None:
        raise ValueError("image file is truncated or broken")
    if deep.ndim == 2:
        deep = deep[..., None]
    channels = deep.shape[2]
    if (
        deep.dtype != np.uint16
        or channels not in {GREY, RGB, RGB_ALPHA}
        or not _same_size(deep.shape[1::-1], header)
    ):
        raise ValueError("decoded something else than the header says")
    if channels == RGB_ALPHA and not header.alpha:
        deep = deep[..., :RGB]  # a fourth channel that is not said to be transparency
    if channels >= RGB:
        deep = deep[..., [2, 1, 0, 3][: deep.shape[2]]]
    return np.asarray(deep, np.uint16)


def _from_png(header: Header, image: Image.Image) -> Raw:
    """The samples of a PNG with at most 8 bits, grey of fewer spread over 0..255; its palette looked up."""
    samples = np.asarray(image)
    if header.palette is not None:
        return Raw(_palette(header)[samples])
    if samples.dtype == np.bool_:
        samples = samples.astype(np.uint8) * 255
    if header.ios and samples.ndim == 3 and samples.shape[2] >= RGB:
        samples = samples[..., [2, 1, 0, 3][: samples.shape[2]]]
    return _with_key(header, samples if samples.ndim == 3 else samples[..., None])


def _with_key(header: Header, samples: Samples) -> Raw:
    """The samples with the color that a PNG says is clear, at the file's own depth."""
    channels, told = samples.shape[2], header.transparency or b""
    if header.format != "PNG" or channels not in {GREY, RGB} or len(told) < 2 * channels:
        return Raw(samples)
    # Samples of fewer than 8 bits have been spread over 0..255 without loss, and so is the key.
    spread = 255 // (2**header.bits - 1) if header.bits < 8 else 1
    mask = 2**header.bits - 1
    return Raw(
        samples,
        tuple(
            (int.from_bytes(told[2 * n : 2 * n + 2], "big") & mask) * spread
            for n in range(channels)
        ),
    )


def _palette(header: Header) -> RGBA:
    """A PNG's palette as 256 colors with alpha; places beyond its end are opaque black."""
    table = np.zeros((256, 4), np.uint8)
    table[:, 3] = 255
    colors = np.frombuffer(header.palette or b"", np.uint8)
    colors = colors[: len(colors) // 3 * 3].reshape(-1, 3)[:256]
    table[: len(colors), :3] = colors
    clear = np.frombuffer(header.transparency or b"", np.uint8)[:256]
    table[: len(clear), 3] = clear
    return table


def _plain(image: Image.Image, header: Header) -> NDArray[np.uint8]:
    """The samples of an image that Pillow decodes rightly: with alpha where the header says so, else without."""
    if header.alpha:
        # Alpha is what Pillow calls it, or what it found in a GIF's palette; a premultiplied one it has divided out.
        image = image.convert("LA" if image.mode in {"La", "LA"} else "RGBA")
    else:
        image = image.convert("L" if header.grey else "RGB")
    samples = np.asarray(image)
    return samples if samples.ndim == 3 else samples[..., None]


def _off_white(rgba: RGBA) -> RGBA:
    """Straight colors of a merged picture that lies on white (Photoshop's convention)."""
    color, alpha = rgba[..., :3].astype(np.int32), rgba[..., 3:].astype(np.int32)
    straight = ((color + alpha - 255) * 510 + alpha) // np.maximum(2 * alpha, 1)
    return np.concatenate([straight.clip(0, 255), alpha], axis=2).astype(np.uint8)


def _split(samples: Samples, key: tuple[int, ...] | None) -> tuple[Samples, Samples]:
    """Colors (H x W x 3) and alpha (H x W) of some rows, both at their own depth."""
    channels, top = samples.shape[2], np.iinfo(samples.dtype).max
    color = np.repeat(samples[..., :1], 3, axis=2) if channels <= GREY_ALPHA else samples[..., :3]
    if channels in {GREY_ALPHA, RGB_ALPHA}:
        return color, samples[..., -1]
    if key is None:
        return color, np.full(samples.shape[:2], top, samples.dtype)
    clear = (samples == np.array(key, samples.dtype)).all(axis=2)
    return color, np.where(clear, 0, top).astype(samples.dtype)


def _straight(color: Samples, alpha: Samples) -> Samples:
    """Colors that were multiplied by alpha, divided by it and rounded."""
    top = int(np.iinfo(color.dtype).max)
    wide = alpha.astype(np.int64)[..., None]
    divided = (color.astype(np.int64) * (2 * top) + wide) // np.maximum(2 * wide, 1)
    return np.where(wide > 0, np.minimum(divided, top), 0).astype(color.dtype)


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


def _turn(rgba: RGBA, header: Header) -> RGBA:
    """The image upright; both readers of TIFF have turned it already."""
    turn = TURNS.get(_exif_orientation(header.exif)) if header.format != "TIFF" else None
    return rgba if turn is None else np.asarray(Image.fromarray(rgba).transpose(turn))


def _exif_orientation(exif: bytes | None) -> int:
    if not exif:
        return 1
    tags = Image.Exif()
    try:
        tags.load(exif if exif.startswith(b"Exif\0\0") else b"Exif\0\0" + exif)
        return int(tags.get(0x0112, 1))
    except Exception:  # broken EXIF tells nothing
        return 1
