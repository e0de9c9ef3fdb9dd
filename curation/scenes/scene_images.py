"""The user's images in a scene: decoded in a sandbox, scaled and placed on a canvas."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from curation.errors import LayerloopError, Refused
from curation.image_limits import DEFAULT_LIMITS, ImageLimits
from curation.images.codec import MAX_DIMENSION
from curation.images.decoding import decode_image
from curation.images.headers import InvalidImage
from curation.ingest.confined import validate_pixels, warm_up, worker_limits
from curation.ingest.sandbox import Sandbox
from curation.ingest.sandbox_process import ItemFailure
from curation.ingest.sandbox_wire import Message
from curation.input_files import read_input
from curation.ports import RGBA
from curation.scenes.blending import place_on_canvas
from curation.scenes.scene import FitMode


def decode_images(paths: Sequence[Path], limits: ImageLimits = DEFAULT_LIMITS) -> dict[Path, RGBA]:
    """Decode the user's images in a sandboxed process.

    Args:
        paths: Files of any supported format, recognized by content.
        limits: The limits for bytes and pixels.

    Returns:
        Each file as upright straight sRGB, H x W x 4 uint8, with color 0 where alpha is 0; images
        without alpha are opaque.

    Raises:
        NotFound: A file is missing.
        Refused: A file is not an image, is too large, or crashes its decoder.
    """

    def load(path: Path) -> Message:
        data = read_input(path, limits.bytes)
        return Message({"name": path.name, "limits": asdict(limits)}, [data])

    def parse(_: Path, response: Message) -> RGBA | str:
        """Validate the response of the sandbox. Raises InvalidMessageError."""
        if "refused" in response.metadata:
            return str(response.metadata["refused"])[:1000]
        [pixels] = response.parts
        return validate_pixels(response.metadata["size"], pixels, limits.pixels)

    images: dict[Path, RGBA] = {}
    with Sandbox(
        _decode_request, load, parse, workers=1, limits=worker_limits(limits), warm_up=warm_up
    ) as sandbox:
        # Report the first file that fails; decoders run on untrusted input.
        for path, decoded in sandbox.run(paths):
            if isinstance(decoded, ItemFailure):
                if isinstance(decoded.error, LayerloopError):
                    raise decoded.error
                raise Refused(f"decoding {path} timed out or crashed", "save it again as PNG")
            if isinstance(decoded, str):
                raise Refused(f"{path} cannot be used: {decoded}")
            images[path] = decoded
    return images


def _decode_request(request: Message) -> Message:
    """Decode one file; runs in the sandboxed process."""
    limits = ImageLimits(**request.metadata["limits"])
    decoded = decode_bytes(request.read_part(0, limits.bytes), request.metadata["name"], limits)
    if isinstance(decoded, str):
        return Message({"refused": decoded})
    return Message({"size": decoded.shape[1::-1]}, [decoded.tobytes()])


def decode_bytes(data: bytes, name: str, limits: ImageLimits) -> RGBA | str:
    """Return a file's pixels, or the error message that rejects it."""
    try:
        return decode_image(data, name, limits).rgba
    except InvalidImage as bad:
        return bad.sentence
    except MemoryError:
        return "decoding it needs more memory than a worker has"


def cover(rgba: RGBA, size: tuple[int, int]) -> RGBA:
    """Scale and center-crop an image to fill (width, height); colors are averaged by alpha."""
    return np.asarray(ImageOps.fit(Image.fromarray(rgba, "RGBA"), size, Image.Resampling.LANCZOS))


def contain(rgba: RGBA, size: tuple[int, int]) -> tuple[RGBA, tuple[int, int]]:
    """Scale an image to fit (width, height); return it with the offset that centers it."""
    scale = min(size[0] / rgba.shape[1], size[1] / rgba.shape[0])
    scaled = resize(rgba, scale, size)
    return scaled, _centered(scaled, size)


def resize(
    rgba: RGBA, scale: float, max_size: tuple[int, int] = (MAX_DIMENSION, MAX_DIMENSION)
) -> RGBA:
    """Scale an image.

    Args:
        rgba: The image, H x W x 4 uint8.
        scale: The scale factor.
        max_size: The maximum (width, height) of the result; the minimum is one pixel.
    """
    height, width = rgba.shape[:2]
    new_size = (
        min(max(round(width * scale), 1), max_size[0]),
        min(max(round(height * scale), 1), max_size[1]),
    )
    if new_size == (width, height):
        return rgba
    return np.asarray(Image.fromarray(rgba, "RGBA").resize(new_size, Image.Resampling.LANCZOS))


def place_image(
    rgba: RGBA, size: tuple[int, int], position: tuple[int, int] | None, scale: float | None
) -> tuple[RGBA, tuple[int, int]]:
    """Scale an image for a canvas and return it with its offset.

    Args:
        rgba: The image, H x W x 4 uint8.
        size: The canvas as (width, height).
        position: The (x, y) of its upper left corner; None centers it.
        scale: The scale factor; None only shrinks an image that is larger than the canvas.

    Raises:
        Refused: The scaled image exceeds the limits for layers.
    """
    height, width = rgba.shape[:2]
    if scale is None:
        scale = min(size[0] / width, size[1] / height, 1.0)
    # Only enlarging can exceed the limits: decoded images are within them already.
    too_large = (
        width * scale * height * scale > DEFAULT_LIMITS.pixels
        or max(width, height) * scale > MAX_DIMENSION
    )
    if scale > 1 and too_large:
        raise Refused(
            f"an image of {width} x {height} pixels is too large at scale {scale:g}",
            "use a smaller scale",
        )
    scaled = resize(rgba, scale)
    return scaled, position if position is not None else _centered(scaled, size)


def fit_background(rgba: RGBA, size: tuple[int, int], fit: FitMode) -> RGBA:
    """Scale an image to a canvas (width, height), with transparent bars if it is fitted in."""
    if fit is FitMode.cover:
        return cover(rgba, size)
    scaled, offset = contain(rgba, size)
    return place_on_canvas(scaled, offset, size)


def _centered(rgba: RGBA, size: tuple[int, int]) -> tuple[int, int]:
    return (size[0] - rgba.shape[1]) // 2, (size[1] - rgba.shape[0]) // 2
