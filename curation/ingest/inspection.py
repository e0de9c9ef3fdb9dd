"""One hostile file in, one clean layer or one plain refusal out; nothing survives but the visible pixels."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from curation.domain import LayerRole
from curation.image_limits import LIMITS, Limits
from curation.images.codec import encode_layer, visible_hash, without_hidden_colour
from curation.images.decoding import check_pixels, check_side, decode
from curation.images.headers import BadFile, Header
from curation.images.perceptual_hash import fingerprint
from curation.images.recognition import read_header
from curation.ingest.archives import Member
from curation.ports import RGBA
from curation.screening import signals


class Outcome(StrEnum):
    """What became of a file, from best to worst; a file with several findings has the worst of their outcomes."""

    accept = "accept"
    accept_strip = "accept_strip"  # something that is not visible was left out
    accept_warn = "accept_warn"  # a sample, flagged
    review = "review"  # stored, and shown to people
    partial = "partial"  # an archive or a manifest: the good parts were taken
    duplicate = "duplicate"  # of a layer that is there already
    reject = "reject"


FINDINGS: Final[dict[str, tuple[Outcome, str]]] = {
    "alpha_inverted": (
        Outcome.review,
        "the frame is opaque and the middle is clear: alpha may be inverted",
    ),
    "cut_at_border": (Outcome.review, "the subject touches the border: it may be cut"),
    "alpha_haze": (Outcome.review, "a faint veil covers the background up to the border"),
    "alpha_noise": (Outcome.review, "alpha is grainy inside the subject"),
    "binary_alpha": (Outcome.accept_warn, "alpha is 0 or 255 everywhere: no soft edge"),
    "greyscale": (Outcome.accept_warn, "the file is greyscale"),
    "odd_colour_space": (
        Outcome.accept_warn,
        "its colours are told without a profile (cICP, gAMA, inks) and were converted to sRGB as far as they are known",
    ),
    "bad_icc": (
        Outcome.accept_warn,
        "its colour profile is broken or not for RGB, and was left out",
    ),
    "colour_converted": (
        Outcome.accept_warn,
        "its colours were converted from their own profile to sRGB",
    ),
    "ios_png": (
        Outcome.accept_warn,
        "a PNG of an iOS app (CgBI): its colours were divided by alpha again",
    ),
    "lossy_source": (Outcome.accept_warn, "its colours were compressed with loss"),
    "maybe_premultiplied": (
        Outcome.accept_warn,
        "colours seem to be multiplied by alpha: dark fringes are likely",
    ),
    "matte_fringe": (
        Outcome.accept_warn,
        "edge colours are mixed with white: a light halo over dark backgrounds",
    ),
    "blend_inexact": (
        Outcome.accept_warn,
        "the blended image is not exactly foreground over background",
    ),
    "hidden_rgb": (Outcome.accept_strip, "colours hidden under alpha 0 were left out"),
    "text_chunk_dropped": (Outcome.accept_strip, "text in the file was left out unread"),
    "trailing_data": (Outcome.accept_strip, "data behind the end of the image was left out"),
}
"""What may be said of a file that is stored: the outcome it asks for and the sentence that people read."""

# Bounds of the findings, set on the 1,395 real layers of the seed set (beside each: the share of them that it flags).
LOOKED_AT = (
    "border_touch", "cut_share", "hole_frac", "frame_haze", "haze", "alpha_grain", "premultiplied_gain",
    "contam_white",
)  # fmt: skip
CUT_AT_BORDER = 0.10  # 0.0 %
FRAME_HAZE, HAZE = 0.5, 0.02  # 0.0 %
ALPHA_GRAIN = 0.07  # 0.2 %
PREMULTIPLIED_GAIN = 0.4  # 0.3 %
WHITE_FRINGE, WHITE_FRINGE_DE = 0.45, 25.0  # 1.2 %


@dataclass(frozen=True)
class Beside:
    """Another encoded layer of a pair, of the same size, and the hash of what can be seen of it."""

    layer: bytes = field(repr=False)
    visible: str


@dataclass(frozen=True)
class Intake:
    """What became of one file, or of a pair's files. `layer` is its encoded clean layer, None unless it is stored.

    Of a pair, `layer` is the blended image, by which pairs are told apart, and the others lie `beside`.
    """

    name: str
    outcome: Outcome
    codes: tuple[str, ...] = ()
    sentence: str = ""
    layer: bytes | None = field(default=None, repr=False)
    width: int = 0
    height: int = 0
    visible: str = ""
    fingerprint: bytes = field(default=b"", repr=False)
    beside: Mapping[LayerRole, Beside] = field(default_factory=dict)

    @property
    def code(self) -> str:
        """The code that decided the outcome; "" where there is nothing to say."""
        return self.codes[0] if self.codes else ""


@dataclass(frozen=True)
class Judged:
    """What a file's own bytes say of it, and its clean pixels: one layer, three of a pair, none where refused."""

    outcome: Outcome
    codes: tuple[str, ...] = ()
    sentence: str = ""
    layers: Mapping[LayerRole, RGBA] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class Item:
    """One thing to be judged: a file, a pair's files, a member of an archive, or what is known already.

    `files` are names inside the folder: one, or those of a pair's foreground, background and, where there is one,
    blended image.
    """

    name: str
    files: tuple[str, ...]
    stamp: str
    place: int  # how many files of the list are reached with it
    member: Member | None = None
    others: tuple[
        Member, ...
    ] = ()  # of a pair in an archive: its background and, where there is one, its blended
    known: Intake | None = None


@dataclass(frozen=True)
class Loaded:
    """An item with the bytes of its files, as they are handed to a confined process."""

    item: Item
    parts: tuple[bytes, ...] = field(default=(), repr=False)
    limits: Limits = LIMITS


def examine(data: bytes, name: str, limits: Limits = LIMITS) -> Intake:
    """Judge one file by its bytes and make it a clean layer: straight sRGB, 8 bit, upright, no colour under alpha 0.

    Never raises for what is in the file. Hostile files are judged in a process of its own (curation.ingest.confined),
    because a decoder that is attacked may do worse than raise.
    """
    return finish(name, judge_file(data, name, limits))


def judge_file(data: bytes, name: str, limits: Limits = LIMITS) -> Judged:
    """Return what there is to say of a file's bytes, and its clean pixels; what is refused has none."""
    try:
        header = read_header(check_size(data, limits), name)
        check_header(header, name, limits)
        rgba, found = decode(header)
        layer = without_hidden_colour(rgba)
        found += _look(rgba, layer, header)
    except BadFile as bad:
        return Judged(Outcome.reject, (bad.code,), bad.sentence)
    except MemoryError:
        return Judged(
            Outcome.reject, ("out_of_memory",), "decoding it needs more memory than a worker has"
        )
    codes = sorted(
        set(found), key=lambda code: (-list(Outcome).index(FINDINGS[code][0]), found.index(code))
    )
    sentences = [FINDINGS[code][1] for code in codes] + (
        ["16 bits were rounded to 8"] if header.bits == 16 else []
    )
    outcome = FINDINGS[codes[0]][0] if codes else Outcome.accept
    return Judged(outcome, tuple(codes), "; ".join(sentences), {LayerRole.foreground: layer})


def finish(name: str, judged: Judged) -> Intake:
    """Encode what was judged, and hash what can be seen of it."""
    if not judged.layers:
        return Intake(name, judged.outcome, judged.codes, judged.sentence)
    main = LayerRole.blended if len(judged.layers) > 1 else LayerRole.foreground
    layer = judged.layers[main]
    return Intake(
        name,
        judged.outcome,
        judged.codes,
        judged.sentence,
        encode_layer(layer),
        layer.shape[1],
        layer.shape[0],
        visible_hash(layer),
        fingerprint(layer),
        {
            role: Beside(encode_layer(one), visible_hash(one))
            for role, one in judged.layers.items()
            if role is not main
        },
    )


def refuse(name: str, bad: BadFile) -> Intake:
    """The outcome of a file that is refused."""
    return Intake(name, Outcome.reject, (bad.code,), bad.sentence)


def check_size(data: bytes, limits: Limits) -> bytes:
    """Return the same bytes. Raises BadFile where they are more than allowed."""
    if len(data) > limits.bytes:
        raise BadFile("too_many_bytes", f"the file is larger than {limits.bytes >> 20} MiB")
    return data


def check_header(header: Header, name: str, limits: Limits, *, alpha: bool = True) -> None:
    """Everything that can be refused before a pixel is decoded; `alpha` asks for transparency. Raises BadFile."""
    width, height = header.size
    check_pixels(header, limits)
    if alpha and not header.alpha:
        named = Path(name).suffix.lower() in {".jpg", ".jpeg", "." + header.format.lower()}
        raise BadFile(
            "no_alpha",
            f"a {header.format} without transparency"
            + ("" if named else ", whatever its name says"),
        )
    if max(width, height) > limits.aspect * min(width, height):
        raise BadFile("bad_aspect", f"{width} x {height} is longer than {limits.aspect:g} to 1")
    if min(width, height) < limits.shortest:
        raise BadFile("too_small", f"{width} x {height} is smaller than {limits.shortest} pixels")
    check_side(header)


def _look(rgba: RGBA, layer: RGBA, header: Header) -> list[str]:
    """What the pixels themselves tell. Raises BadFile where there is nothing to see, or nothing to see through."""
    alpha = rgba[..., 3]
    lowest, highest = int(alpha.min()), int(alpha.max())
    if highest < 0.02 * 255:
        raise BadFile("empty_alpha", f"nothing can be seen: the largest alpha is {highest} of 255")
    if lowest > 0.98 * 255:
        raise BadFile(
            "no_transparency", f"nothing is transparent: the smallest alpha is {lowest} of 255"
        )
    found = ["text_chunk_dropped"] if header.text else []
    found += ["trailing_data"] if header.trailing else []
    hidden = rgba[..., :3][alpha == 0]
    if not header.lossy and _worth_hiding(hidden):
        found.append("hidden_rgb")
    if not ((alpha > 0) & (alpha < 255)).any():
        found.append("binary_alpha")
    measured = {name: value or 0.0 for name, value in signals.measure(layer, LOOKED_AT).items()}
    if measured["border_touch"] > 0.9 and measured["hole_frac"] > 0.2:
        found.append("alpha_inverted")
    elif measured["cut_share"] > CUT_AT_BORDER:
        found.append("cut_at_border")
    if measured["frame_haze"] > FRAME_HAZE and measured["haze"] > HAZE:
        found.append("alpha_haze")
    if measured["alpha_grain"] > ALPHA_GRAIN:
        found.append("alpha_noise")
    if measured["premultiplied_gain"] > PREMULTIPLIED_GAIN:
        found.append("maybe_premultiplied")
    if measured["contam_white"] > WHITE_FRINGE and (_fringe(layer) or 0) > WHITE_FRINGE_DE:
        found.append("matte_fringe")
    return found


def _fringe(layer: RGBA) -> float | None:
    """The dearest of the signals, asked for only where a cheaper one suspects it."""
    return signals.measure(layer, ["fringe_dE"])["fringe_dE"]


def _worth_hiding(hidden: NDArray[np.uint8]) -> bool:
    """Whether N x 3 unseen colours carry more than flat or smeared padding, which most programs write: 8 bits a pixel.

    Padding takes 0.01 to 0.6 bytes a pixel on the seed set, noise 3.
    """
    some = hidden[: 1 << 18]
    return len(some) >= 64 and len(zlib.compress(some.tobytes(), 1)) > len(some)
