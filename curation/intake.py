"""One hostile file in, one clean layer or one plain refusal out; nothing of the file survives but its visible pixels."""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from curation import duplicates, signals
from curation.headers import BadFile, Header, read_header
from curation.layers import MAX_SIDE, encode_layer, visible_hash, without_hidden_colour
from curation.ports import RGBA


class Outcome(StrEnum):
    """What became of a file, from best to worst; a file with several findings has the worst of their outcomes."""

    accept = "accept"
    accept_strip = "accept_strip"  # something that is not visible was left out
    accept_warn = "accept_warn"  # a sample, flagged
    review = "review"  # stored, and shown to people
    partial = "partial"  # an archive or a manifest: the good parts were taken
    duplicate = "duplicate"  # of a layer that is there already
    reject = "reject"


@dataclass(frozen=True)
class Limits:
    """What a single file may ask for. Forty megapixels are 160 MB decoded, which a worker's memory limit allows for."""

    bytes: int = 64 << 20
    pixels: int = 40_000_000
    shortest: int = 16
    aspect: float = 16.0


LIMITS: Final = Limits()

FINDINGS: Final[dict[str, tuple[Outcome, str]]] = {
    "alpha_inverted": (Outcome.review, "the frame is opaque and the middle is clear: alpha may be inverted"),
    "cut_at_border": (Outcome.review, "the subject touches the border: it may be cut"),
    "alpha_haze": (Outcome.review, "a faint veil covers the background up to the border"),
    "alpha_noise": (Outcome.review, "alpha is grainy inside the subject"),
    "binary_alpha": (Outcome.accept_warn, "alpha is 0 or 255 everywhere: no soft edge"),
    "greyscale": (Outcome.accept_warn, "the file is greyscale"),
    "odd_colour_space": (Outcome.accept_warn, "its gamma differs from sRGB and was not applied"),
    "bad_icc": (Outcome.accept_warn, "its colour profile is broken or not for RGB, and was left out"),
    "colour_converted": (Outcome.accept_warn, "its colours were converted from their own profile to sRGB"),
    "lossy_source": (Outcome.accept_warn, "its colours were compressed with loss"),
    "maybe_premultiplied": (Outcome.accept_warn, "colours seem to be multiplied by alpha: dark fringes are likely"),
    "matte_fringe": (Outcome.accept_warn, "edge colours are mixed with white: a light halo over dark backgrounds"),
    "hidden_rgb": (Outcome.accept_strip, "colours hidden under alpha 0 were left out"),
    "text_chunk_dropped": (Outcome.accept_strip, "text in the file was left out unread"),
    "trailing_data": (Outcome.accept_strip, "data behind the end of the image was left out"),
}
"""What may be said of a file that is stored: the outcome it asks for and the sentence that people read."""

# Bounds of the findings, set on the 1,395 real layers of the seed set (beside each: the share of them that it flags).
CUT_AT_BORDER = 0.10  # 0.0 %
FRAME_HAZE, HAZE = 0.5, 0.02  # 0.0 %
ALPHA_GRAIN = 0.07  # 0.2 %
PREMULTIPLIED_GAIN = 0.4  # 0.3 %
WHITE_FRINGE, WHITE_FRINGE_DE = 0.45, 25.0  # 1.2 %


@dataclass(frozen=True)
class Intake:
    """What became of one file. `layer` is its encoded clean layer, None unless the file is stored."""

    name: str
    outcome: Outcome
    codes: tuple[str, ...] = ()
    sentence: str = ""
    layer: bytes | None = field(default=None, repr=False)
    width: int = 0
    height: int = 0
    visible: str = ""
    fingerprint: bytes = field(default=b"", repr=False)

    @property
    def code(self) -> str:
        """The code that decided the outcome; "" where there is nothing to say."""
        return self.codes[0] if self.codes else ""


def examine(source: bytes | Path, name: str, limits: Limits = LIMITS) -> Intake:
    """Judge one file by its bytes and make it a clean layer: straight sRGB, 8 bit, upright, no colour under alpha 0.

    Never raises for what is in the file. Meant for a process of its own (curation.sandbox), because a decoder that is
    attacked may do worse than raise.
    """
    try:
        header = read_header(_read(source, limits), name)
        _check(header, name, limits)
        rgba, found = _decode(header)
        layer = without_hidden_colour(rgba)
        found += _look(rgba, layer, header)
    except BadFile as bad:
        return Intake(name, Outcome.reject, (bad.code,), bad.sentence)
    except MemoryError:
        return Intake(name, Outcome.reject, ("out_of_memory",), "decoding it needs more memory than a worker has")
    codes = sorted(set(found), key=lambda code: (-list(Outcome).index(FINDINGS[code][0]), found.index(code)))
    return Intake(
        name,
        FINDINGS[codes[0]][0] if codes else Outcome.accept,
        tuple(codes),
        "; ".join([FINDINGS[code][1] for code in codes] + (["16 bits were rounded to 8"] if header.bits == 16 else [])),
        encode_layer(layer),
        layer.shape[1],
        layer.shape[0],
        visible_hash(layer),
        duplicates.fingerprint(layer),
    )


def _read(source: bytes | Path, limits: Limits) -> bytes:
    """The file's bytes, never more than allowed, whatever its size was said to be."""
    try:
        with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as file:
            data = file.read(limits.bytes + 1)
    except OSError as error:
        raise BadFile("unreadable", f"the file cannot be read: {error.strerror}") from error
    if len(data) > limits.bytes:
        raise BadFile("too_many_bytes", f"the file is larger than {limits.bytes >> 20} MiB")
    return data


def _check(header: Header, name: str, limits: Limits) -> None:
    """Everything that can be refused before a pixel is decoded. Raises BadFile."""
    width, height = header.width, header.height
    if width * height > limits.pixels:
        raise BadFile("too_many_pixels", f"{width} x {height} pixels are more than {limits.pixels / 1e6:g} million")
    if header.animated:
        raise BadFile("animated", "the file has several frames")
    if not header.alpha:
        named = Path(name).suffix.lower() in {".jpg", ".jpeg", "." + header.format.lower()}
        raise BadFile("no_alpha", f"a {header.format} without transparency" + ("" if named else ", whatever its name says"))
    if max(width, height) > limits.aspect * min(width, height):
        raise BadFile("bad_aspect", f"{width} x {height} is longer than {limits.aspect:g} to 1")
    if min(width, height) < limits.shortest:
        raise BadFile("too_small", f"{width} x {height} is smaller than {limits.shortest} pixels")
    if max(width, height) > MAX_SIDE:
        raise BadFile("bad_dimensions", f"{width} x {height} is longer than {MAX_SIDE} pixels")


def _decode(header: Header) -> tuple[RGBA, list[str]]:
    """The upright H x W x 4 pixels in sRGB, and what was found on the way. Raises BadFile."""
    found = ["lossy_source"] if header.lossy else []
    try:
        # Pillow keeps only the high byte of 16-bit channels, OpenCV gives them whole.
        deep = header.format == "PNG" and header.bits == 16 and header.colour_type in {4, 6}
        image = Image.fromarray(_decode_deep(header.pixels)) if deep else _decode_plain(header)
    except (OSError, ValueError, SyntaxError, EOFError, IndexError, KeyError, struct.error, zlib.error) as error:
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
    with Image.open(io.BytesIO(header.pixels), formats=[header.format]) as image:
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


def _look(rgba: RGBA, layer: RGBA, header: Header) -> list[str]:
    """What the pixels themselves tell. Raises BadFile where there is nothing to see, or nothing to see through."""
    alpha = rgba[..., 3]
    lowest, highest = int(alpha.min()), int(alpha.max())
    if highest < 0.02 * 255:
        raise BadFile("empty_alpha", f"nothing can be seen: the largest alpha is {highest} of 255")
    if lowest > 0.98 * 255:
        raise BadFile("no_transparency", f"nothing is transparent: the smallest alpha is {lowest} of 255")
    found = ["text_chunk_dropped"] if header.text else []
    found += ["trailing_data"] if header.trailing else []
    hidden = rgba[..., :3][alpha == 0]
    if not header.lossy and _worth_hiding(hidden):
        found.append("hidden_rgb")
    if not ((alpha > 0) & (alpha < 255)).any():
        found.append("binary_alpha")
    measured = {name: value or 0.0 for name, value in signals.measure(layer).items()}
    if measured["border_touch"] > 0.9 and measured["hole_frac"] > 0.2:
        found.append("alpha_inverted")
    elif measured["border_touch"] > CUT_AT_BORDER:
        found.append("cut_at_border")
    if measured["frame_haze"] > FRAME_HAZE and measured["haze"] > HAZE:
        found.append("alpha_haze")
    if measured["alpha_grain"] > ALPHA_GRAIN:
        found.append("alpha_noise")
    if measured["premultiplied_gain"] > PREMULTIPLIED_GAIN:
        found.append("maybe_premultiplied")
    if measured["contam_white"] > WHITE_FRINGE and measured["fringe_dE"] > WHITE_FRINGE_DE:
        found.append("matte_fringe")
    return found


def _worth_hiding(hidden: NDArray[np.uint8]) -> bool:
    """Whether N x 3 unseen colours carry more than flat or smeared padding, which most programs write: 8 bits a pixel.

    Padding takes 0.01 to 0.6 bytes a pixel on the seed set, noise 3.
    """
    some = hidden[: 1 << 18]
    return len(some) >= 64 and len(zlib.compress(some.tobytes(), 1)) > len(some)
