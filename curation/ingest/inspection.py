"""Inspection of one untrusted file: the result is a clean layer or a refusal with a reason.

Only the visible pixels are kept.
"""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from curation.domain import LayerRole
from curation.image_limits import DEFAULT_LIMITS, ImageLimits
from curation.images.codec import clear_hidden_colors, encode_layer, pixel_hash
from curation.images.decoding import check_dimensions, check_pixels, decode
from curation.images.headers import ImageHeader, InvalidImage
from curation.images.perceptual_hash import fingerprint
from curation.images.recognition import read_header
from curation.ingest.inspection_result import (
    FINDINGS,
    CompanionLayer,
    InspectedFile,
    InspectionOutcome,
    InspectionResult,
)
from curation.ports import RGBA
from curation.screening import signals

# Thresholds, set on the 1,395 real layers of the seed set; after each, the share that it flags.
SIGNALS = (
    "border_touch", "cut_share", "hole_frac", "frame_haze", "haze", "alpha_grain",
    "premultiplied_gain", "contam_white",
)  # fmt: skip
"""Signals that are computed for every file."""
CUT_AT_BORDER = 0.10  # 0.0 %
FRAME_HAZE, HAZE = 0.5, 0.02  # 0.0 %
ALPHA_GRAIN = 0.07  # 0.2 %
PREMULTIPLIED_GAIN = 0.4  # 0.3 %
WHITE_FRINGE, WHITE_FRINGE_DE = 0.45, 25.0  # 1.2 %


def inspect_and_encode(
    data: bytes, name: str, limits: ImageLimits = DEFAULT_LIMITS
) -> InspectionResult:
    """Inspect one file in this process, and encode its clean layer.

    The layer is straight-alpha 8-bit sRGB, upright, with color 0 under alpha 0. Untrusted files are
    inspected in a separate process instead (curation.ingest.confined), because an exploited decoder
    may do more than raise.

    Args:
        data: Bytes of the file.
        name: Its name, for messages.
        limits: Limits of the image.

    Returns:
        The outcome; no content of a file raises an exception.
    """
    return encode_result(name, inspect_file(data, name, limits))


def inspect_file(data: bytes, name: str, limits: ImageLimits = DEFAULT_LIMITS) -> InspectedFile:
    """Inspect one file without encoding its layer.

    Args:
        data: Bytes of the file.
        name: Its name, for messages.
        limits: Limits of the image.

    Returns:
        The findings, and the H x W x 4 foreground unless the file is refused.
    """
    try:
        header = read_header(check_size(data, limits), name)
        check_header(header, name, limits)
        rgba, found = decode(header)
        layer = clear_hidden_colors(rgba)
        found += _look(rgba, layer, header)
    except InvalidImage as bad:
        return InspectedFile(InspectionOutcome.reject, (bad.code,), bad.sentence)
    except MemoryError:
        return InspectedFile(
            InspectionOutcome.reject,
            ("out_of_memory",),
            "decoding it needs more memory than a worker has",
        )
    # The worst finding comes first and decides the outcome.
    codes = sorted(
        set(found),
        key=lambda code: (-list(InspectionOutcome).index(FINDINGS[code][0]), found.index(code)),
    )
    sentences = [FINDINGS[code][1] for code in codes] + (
        ["its 16 bits per channel were rounded to 8"] if header.bits == 16 else []
    )
    outcome = FINDINGS[codes[0]][0] if codes else InspectionOutcome.accept
    return InspectedFile(outcome, tuple(codes), "; ".join(sentences), {LayerRole.foreground: layer})


def encode_result(name: str, judged: InspectedFile) -> InspectionResult:
    """Encode the layers of an inspected file and hash their visible pixels.

    Args:
        name: The file.
        judged: Its findings and pixels.
    """
    if not judged.layers:
        return InspectionResult(name, judged.outcome, judged.codes, judged.sentence)
    main = LayerRole.blended if len(judged.layers) > 1 else LayerRole.foreground
    layer = judged.layers[main]
    return InspectionResult(
        name,
        judged.outcome,
        judged.codes,
        judged.sentence,
        encode_layer(layer),
        layer.shape[1],
        layer.shape[0],
        pixel_hash(layer),
        fingerprint(layer),
        {
            role: CompanionLayer(encode_layer(other), pixel_hash(other))
            for role, other in judged.layers.items()
            if role is not main
        },
    )


def check_size(data: bytes, limits: ImageLimits) -> bytes:
    """Return the bytes unchanged.

    Raises:
        InvalidImage: There are more bytes than the limits allow.
    """
    if len(data) > limits.bytes:
        raise InvalidImage("too_many_bytes", f"the file is larger than {limits.bytes >> 20} MiB")
    return data


def check_header(
    header: ImageHeader, name: str, limits: ImageLimits, *, alpha: bool = True
) -> None:
    """Check everything that can be checked before a pixel is decoded.

    Args:
        header: The parsed header.
        name: The file's name: a suffix of another format is mentioned in the error.
        limits: Limits of the image.
        alpha: Whether the image must have an alpha channel.

    Raises:
        InvalidImage: The image is refused.
    """
    width, height = header.size
    check_pixels(header, limits)
    if alpha and not header.alpha:
        suffix_fits = Path(name).suffix.lower() in {".jpg", ".jpeg", "." + header.format.lower()}
        raise InvalidImage(
            "no_alpha",
            f"a {header.format} without transparency"
            + ("" if suffix_fits else ", despite its file extension"),
        )
    if max(width, height) > limits.aspect * min(width, height):
        raise InvalidImage(
            "bad_aspect", f"the aspect ratio of {width} x {height} exceeds {limits.aspect:g} to 1"
        )
    if min(width, height) < limits.shortest:
        raise InvalidImage(
            "too_small", f"{width} x {height} is smaller than {limits.shortest} pixels"
        )
    check_dimensions(header)


def _look(rgba: RGBA, layer: RGBA, header: ImageHeader) -> list[str]:
    """Return the codes of the findings in the pixels.

    Args:
        rgba: The decoded H x W x 4 pixels.
        layer: The same with color 0 under alpha 0.
        header: The file's header.

    Raises:
        InvalidImage: The image is fully transparent or fully opaque.
    """
    alpha = rgba[..., 3]
    lowest, highest = int(alpha.min()), int(alpha.max())
    if highest < 0.02 * 255:
        raise InvalidImage(
            "empty_alpha", f"nothing is visible: the largest alpha is {highest} of 255"
        )
    if lowest > 0.98 * 255:
        raise InvalidImage(
            "no_transparency", f"nothing is transparent: the smallest alpha is {lowest} of 255"
        )
    # Findings of the container and of hidden data.
    found = ["text_chunk_dropped"] if header.text else []
    found += ["trailing_data"] if header.trailing else []
    hidden = rgba[..., :3][alpha == 0]
    if not header.lossy and _has_content(hidden):
        found.append("hidden_rgb")
    # Findings of the alpha channel and the colors, by thresholds on the screening signals.
    if not ((alpha > 0) & (alpha < 255)).any():
        found.append("binary_alpha")
    measured = {
        name: value or 0.0 for name, value in signals.compute_signals(layer, SIGNALS).items()
    }
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
    """Measure the most expensive signal, only where a cheaper one suggests it."""
    return signals.compute_signals(layer, ["fringe_dE"])["fringe_dE"]


def _has_content(hidden: NDArray[np.uint8]) -> bool:
    """Return whether N x 3 invisible colors compress to more than a byte per pixel.

    Flat or smeared padding, which most programs write, takes 0.01 to 0.6 bytes per pixel on the
    seed set; noise takes 3.
    """
    part = hidden[: 1 << 18]
    return len(part) >= 64 and len(zlib.compress(part.tobytes(), 1)) > len(part)
