"""Inspection of the files of a pair: the result is three matching clean layers or a refusal."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np

from curation.domain import LayerRole
from curation.image_limits import DEFAULT_LIMITS, ImageLimits
from curation.images import pairs
from curation.images.decoding import decode
from curation.images.headers import InvalidImage
from curation.images.recognition import read_header
from curation.ingest.inspection import check_header, check_size, encode_result, inspect_file
from curation.ingest.inspection_result import (
    FINDINGS,
    InspectedFile,
    InspectionOutcome,
    InspectionResult,
)
from curation.ports import RGBA
from curation.screening.pairs.signals import compute_pair_signals
from curation.screening.rules import PAIR_RULES, apply_rules

OPAQUE_MIN_ALPHA: Final = 0.98 * 255
"""Smallest alpha of an opaque image, of 255."""
MAX_BLEND_ERROR: Final = 0.5
"""RMS difference, in levels of 255, above which a blended image does not match its layers."""


def inspect_and_encode_pair(
    foreground: bytes,
    background: bytes,
    blended: bytes | None,
    name: str,
    limits: ImageLimits = DEFAULT_LIMITS,
) -> InspectionResult:
    """Inspect the files of a pair in this process, and encode its layers.

    Args:
        foreground: Bytes of the foreground, an image with alpha.
        background: Bytes of the background, an opaque image.
        blended: Bytes of the blended image, or None to composite it.
        name: Name of the pair, for messages.
        limits: Limits of the images.

    Returns:
        The outcome, whose `layer` is the blended image; the other layers are in `beside`. No
        content of a file raises an exception.
    """
    return encode_result(name, inspect_pair(foreground, background, blended, name, limits))


def inspect_pair(
    foreground: bytes,
    background: bytes,
    blended: bytes | None,
    name: str,
    limits: ImageLimits = DEFAULT_LIMITS,
) -> InspectedFile:
    """Inspect the files of a pair without encoding them.

    The foreground is inspected like a single layer, the others as opaque images of the same size,
    then the pair as a whole.

    Args:
        foreground: Bytes of the foreground, an image with alpha.
        background: Bytes of the background, an opaque image.
        blended: Bytes of the blended image, or None for curation.images.pairs.composite.
        name: Name of the pair, for messages.
        limits: Limits of the images.

    Returns:
        The findings, and three H x W x 4 layers unless the pair is refused.
    """
    front = inspect_file(foreground, f"{name} (foreground)", limits)
    if not front.layers:
        return replace(front, sentence=f"foreground: {front.sentence}")
    # Read the opaque images, then apply the rules for pairs.
    try:
        straight = front.layers[LayerRole.foreground]
        back, flagged = _read_opaque(background, "background", limits)
        whole = None
        if blended is not None:
            whole, more = _read_opaque(blended, "blended", limits)
            flagged += more
        kept, found = _blend(straight, back, whole)
    except InvalidImage as bad:
        return InspectedFile(InspectionOutcome.reject, (bad.code,), bad.sentence)
    except MemoryError:
        return InspectedFile(
            InspectionOutcome.reject,
            ("out_of_memory",),
            "decoding it needs more memory than a worker has",
        )
    # The worst finding of all three files comes first and decides the outcome.
    codes = sorted(
        {*front.codes, *found, *flagged},
        key=lambda code: -list(InspectionOutcome).index(FINDINGS[code][0]),
    )
    layers = {LayerRole.foreground: straight, LayerRole.background: back, LayerRole.blended: kept}
    outcome = FINDINGS[codes[0]][0] if codes else InspectionOutcome.accept
    return InspectedFile(
        outcome, tuple(codes), "; ".join(FINDINGS[code][1] for code in codes), layers
    )


def _read_opaque(data: bytes, role: str, limits: ImageLimits) -> tuple[RGBA, list[str]]:
    """Decode a background or blended image, set its alpha to 255, and return its findings.

    Any opaque format is accepted, including JPEG.
    """
    try:
        header = read_header(check_size(data, limits), "")
        check_header(header, "", limits, alpha=False)
        rgba, found = decode(header)
    except InvalidImage as bad:
        raise InvalidImage(bad.code, f"{role}: {bad.sentence}") from bad
    if rgba[..., 3].min() < OPAQUE_MIN_ALPHA:
        raise InvalidImage(f"{role}_not_opaque", f"the {role} is not opaque")
    solid = np.full((*rgba.shape[:2], 1), 255, np.uint8)
    # A grayscale background is no flaw.
    flagged = [code for code in found if code != "greyscale"]
    return np.concatenate([rgba[..., :3], solid], axis=2), flagged


def _blend(foreground: RGBA, background: RGBA, blended: RGBA | None) -> tuple[RGBA, list[str]]:
    """Return the blended image, composited if none is given, and the findings of the pair.

    The rules are those for generated pairs. Raises InvalidImage with the code of the first
    violation.
    """
    if blended is None:
        # Layers of different sizes cannot be composited; the rules below refuse them.
        blended = (
            pairs.composite(foreground, background)
            if foreground.shape == background.shape
            else background
        )
    layers = dict(zip(LayerRole, (foreground, background, blended), strict=True))
    signals = compute_pair_signals(layers)
    broken = apply_rules(signals, PAIR_RULES)
    if broken is not None:
        raise InvalidImage(broken.rule, broken.sentence)
    return blended, ["blend_inexact"] if (signals["blended_error"] or 0) > MAX_BLEND_ERROR else []
