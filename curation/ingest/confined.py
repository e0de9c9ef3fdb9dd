"""Inspection of files in a confined process: request, work and validation of the response."""

from __future__ import annotations

import importlib
import io
import logging
import re
import struct
from dataclasses import asdict
from typing import Any, Final

import cv2
import numpy as np
from PIL import Image, ImageCms

from curation.domain import LayerRole
from curation.image_limits import DEFAULT_LIMITS, ImageLimits
from curation.images.codec import MAX_DIMENSION, clear_hidden_colors
from curation.images.decoding import decode_image
from curation.images.headers import InvalidImage
from curation.ingest import sandbox_process
from curation.ingest.inspection import encode_result, inspect_file
from curation.ingest.inspection_result import (
    InspectedFile,
    InspectionOutcome,
    InspectionResult,
    LoadedItem,
    refused_result,
)
from curation.ingest.pair_inspection import inspect_pair
from curation.ingest.sandbox import Sandbox
from curation.ingest.sandbox_process import FailureCause, ItemFailure
from curation.ingest.sandbox_wire import InvalidMessageError, Message
from curation.ports import RGBA
from curation.text import escape_control_characters

log = logging.getLogger("layerloop.intake")

CODE: Final = re.compile(r"[a-z][a-z0-9_]{0,63}")
MAX_SENTENCE: Final = 2_000
MAX_CODES: Final = 40
WORKER_OUTCOMES: Final = (
    InspectionOutcome.accept,
    InspectionOutcome.accept_strip,
    InspectionOutcome.accept_warn,
    InspectionOutcome.review,
    InspectionOutcome.reject,
)
"""Outcomes that a worker may report for a file or pair."""

LAZY_MODULES: Final = (
    "numpy.ma", "numpy.linalg", "numpy.fft", "numpy.random", "numpy.polynomial",
    "encodings.ascii", "encodings.cp437", "encodings.cp1252", "encodings.idna", "encodings.latin_1",
    "encodings.utf_8_sig", "encodings.utf_16", "encodings.utf_16_be", "encodings.utf_16_le",
    "encodings.utf_32", "traceback", "linecache", "unicodedata", "xml.etree.ElementTree",
)  # fmt: skip
"""Modules that the decoding libraries import lazily, depending on the file."""

FAILURES: Final = {
    FailureCause.memory: InvalidImage(
        "out_of_memory", "decoding it needs more memory than a worker has"
    ),
    FailureCause.raised: InvalidImage("decoder_failed", "its decoder failed"),
    FailureCause.bad_answer: InvalidImage(
        "decoder_failed", "its decoder returned an invalid response"
    ),
}
KILLED: Final = InvalidImage(
    "decoder_killed", "its decoder timed out or crashed in its separate process"
)


def open_sandbox(
    workers: int, limits: ImageLimits = DEFAULT_LIMITS
) -> Sandbox[LoadedItem, InspectionResult]:
    """Create the sandbox that inspects files, with memory and time limits for the largest image.

    Args:
        workers: Number of worker processes.
        limits: Image limits that the inspection enforces.
    """
    return Sandbox(
        inspect_in_worker,
        make_request,
        parse_response,
        workers=workers,
        limits=worker_limits(limits),
        warm_up=warm_up,
    )


def worker_limits(limits: ImageLimits) -> sandbox_process.SandboxLimits:
    """Return the resource limits of a worker, scaled to the largest image that is allowed."""
    share = max(1.0, limits.pixels / DEFAULT_LIMITS.pixels)
    return sandbox_process.SandboxLimits(
        round(sandbox_process.CPU_SECONDS * share),
        sandbox_process.WALL_SECONDS * share,
        max(sandbox_process.MEMORY, limits.memory),
        3 * 4 * limits.pixels + (1 << 20),  # the three layers of a pair
    )


def make_request(loaded: LoadedItem) -> Message:
    """Return the request that inspects an item."""
    return Message({"name": loaded.item.name, "limits": asdict(loaded.limits)}, loaded.parts)


def inspect_in_worker(request: Message) -> Message:
    """Inspect one file, or the files of a pair, inside the confined process."""
    # The outcome of an item without bytes is known already.
    if not request.parts:
        return Message({})
    name, limits = request.metadata["name"], ImageLimits(**request.metadata["limits"])
    files = [request.read_part(index, limits.bytes) for index in range(len(request.parts))]
    if len(files) == 1:
        judged = inspect_file(files[0], name, limits)
    else:
        judged = inspect_pair(
            files[0], files[1], files[2] if len(files) > 2 else None, name, limits
        )
    sizes = {role: layer.shape[1::-1] for role, layer in judged.layers.items()}
    metadata = {
        "outcome": judged.outcome,
        "codes": judged.codes,
        "sentence": judged.sentence,
        "sizes": sizes,
    }
    return Message(metadata, [layer.tobytes() for layer in judged.layers.values()])


def parse_response(loaded: LoadedItem, response: Message) -> InspectionResult:
    """Validate a worker's response, which a compromised decoder may have written, and encode it.

    Only raw pixels are accepted, never an encoded image, so that later readers of the layer decode
    only files that this process encoded.

    Args:
        loaded: The item that was sent.
        response: The worker's response.

    Returns:
        The outcome, with encoded layers unless the item is refused.

    Raises:
        InvalidMessageError: The response is invalid.
        ValueError: It has an unknown outcome or layer.
        KeyError: A field is missing.
    """
    item = loaded.item
    if item.known is not None:
        return item.known
    # Check the outcome and its texts.
    metadata = response.metadata
    outcome, codes, sentence = (
        InspectionOutcome(metadata["outcome"]),
        metadata["codes"],
        metadata["sentence"],
    )
    valid_codes = isinstance(codes, list) and all(
        isinstance(code, str) and CODE.fullmatch(code) for code in codes
    )
    if outcome not in WORKER_OUTCOMES or not valid_codes or len(codes) > MAX_CODES:
        raise InvalidMessageError("invalid outcome or codes")
    if not isinstance(sentence, str) or len(sentence) > MAX_SENTENCE:
        raise InvalidMessageError("invalid sentence")
    # Check that the layers are those of a file or a pair, and their pixels.
    roles = {LayerRole.foreground} if len(loaded.parts) == 1 else {*LayerRole}
    expected = set() if outcome is InspectionOutcome.reject else roles
    if set(metadata["sizes"]) != expected or len(response.parts) != len(expected):
        raise InvalidMessageError("the layers are not those of the item")
    layers = {
        LayerRole(role): validate_pixels(size, part, loaded.limits.pixels)
        for (role, size), part in zip(metadata["sizes"].items(), response.parts, strict=True)
    }
    if len({layer.shape for layer in layers.values()}) > 1:
        raise InvalidMessageError("the layers differ in size")
    return encode_result(item.name, InspectedFile(outcome, tuple(codes), sentence, layers))


def validate_pixels(size: Any, data: Any, max_pixels: int = DEFAULT_LIMITS.pixels) -> RGBA:
    """Validate untrusted raw pixels and set the color under alpha 0 to 0.

    Args:
        size: Width and height; any value, checked here.
        data: RGBA bytes, row by row; any value, checked here.
        max_pixels: Largest number of pixels.

    Returns:
        H x W x 4 pixels, uint8.

    Raises:
        InvalidMessageError: The size is invalid or too large, or does not match the data.
    """
    if not (isinstance(size, list) and len(size) == 2 and all(type(side) is int for side in size)):
        raise InvalidMessageError("invalid size")
    width, height = size
    if not (
        0 < width <= MAX_DIMENSION and 0 < height <= MAX_DIMENSION and width * height <= max_pixels
    ):
        raise InvalidMessageError("the size exceeds the limits")
    if not isinstance(data, bytes) or len(data) != width * height * 4:
        raise InvalidMessageError("the number of pixels does not match the size")
    return clear_hidden_colors(np.frombuffer(data, np.uint8).reshape(height, width, 4))


def failed_result(loaded: LoadedItem, failure: ItemFailure) -> InspectionResult:
    """Return the outcome of an item whose worker failed, and log unexpected failures."""
    if failure.cause in {FailureCause.raised, FailureCause.bad_answer}:
        log.warning(
            "%s: the confined decoder failed: %s",
            escape_control_characters(loaded.item.name),
            escape_control_characters(failure.detail),
        )
    return refused_result(loaded.item.name, FAILURES.get(failure.cause, KILLED))


def warm_up() -> None:
    """Inspect one small image per format, so that all modules are imported before confinement."""
    for name in LAZY_MODULES:
        importlib.import_module(name)
    Image.init()
    # One translucent layer, with an orientation and a color profile, and one opaque image.
    pixels = np.zeros((32, 32, 4), np.uint8)
    pixels[8:24, 8:24] = (200, 40, 90, 128)
    layer, opaque = Image.fromarray(pixels, "RGBA"), Image.new("RGB", (32, 32), (90, 200, 40))
    exif = Image.Exif()
    exif[0x0112] = 6
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    deep = cv2.imencode(".png", pixels.astype(np.uint16) * 257)[1].tobytes()
    files = [_saved(layer, kind, exif=exif, icc_profile=icc) for kind in ("PNG", "WEBP")]
    # Truncated, empty and unknown files run the error paths.
    broken = (files[0][:-60], b"", b"none")
    for data in (*files, _saved(layer, "GIF"), _saved(opaque, "JPEG"), deep, *broken):
        inspect_file(data, "warm-up")
    for data in _other_formats(layer, icc):
        decode_image(data, "warm-up")
    inspect_pair(files[0], _saved(opaque, "PNG"), None, "warm-up")
    inspect_pair(files[0], _saved(opaque, "PNG"), _saved(opaque, "PNG"), "warm-up")


def _other_formats(layer: Image.Image, icc: bytes) -> list[bytes]:
    """Return images in the formats whose decoders layers in PNG, WebP and GIF do not use."""
    cmyk = _saved(Image.new("CMYK", (32, 32), (0, 90, 200, 40)), "JPEG")
    gray = _saved(layer.convert("LA"), "PNG")
    # A Photoshop file without layers: header, two empty sections and one merged RGB image.
    photoshop = (
        b"8BPS\0\1"
        + bytes(6)
        + struct.pack(">HIIHH", 3, 32, 32, 8, 3)
        + bytes(14)
        + bytes(3 * 32 * 32)
    )
    deep = cv2.imencode(".tiff", np.asarray(layer).astype(np.uint16) * 257)[1].tobytes()
    tiffs = [
        _saved(layer, "TIFF", compression=kind, icc_profile=icc)
        for kind in ("raw", "tiff_lzw", "tiff_deflate")
    ]
    return [cmyk, gray, photoshop, deep, *tiffs, _saved(layer, "AVIF", icc_profile=icc)]


def _saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()
