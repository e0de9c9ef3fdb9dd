"""People's own pictures in a scene: decoded in a confined process, made to fill a canvas, or set down on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from curation.errors import LayerloopError, Refused
from curation.image_limits import LIMITS, Limits
from curation.images.codec import MAX_SIDE
from curation.images.decoding import decode_image
from curation.images.headers import BadFile
from curation.ingest.confined import limits_of, pixels_of, warm_up
from curation.ingest.sandbox import Failure, Sandbox
from curation.ingest.sandbox_wire import Message
from curation.input_files import read_input
from curation.ports import RGBA
from curation.scenes.blending import on_canvas
from curation.scenes.scene import Fit


def read_pictures(paths: Sequence[Path], limits: Limits = LIMITS) -> dict[Path, RGBA]:
    """Decode people's images in a confined process.

    Args:
        paths: Files of any format that is read, known by their bytes.
        limits: The bounds of bytes and pixels.

    Returns:
        Each file as upright straight sRGB, H x W x 4 uint8, colour 0 under alpha 0; what has no alpha is opaque.

    Raises:
        NotFound: There is no such file.
        Refused: One is no image, is too large, or breaks its decoder.
    """

    def load(path: Path) -> Message:
        data = read_input(path, limits.bytes)
        return Message({"name": path.name, "limits": asdict(limits)}, [data])

    def parse(_: Path, answer: Message) -> RGBA | str:
        """Check what came back. Raises BadMessage."""
        if "refused" in answer.facts:
            return str(answer.facts["refused"])[:1000]
        [pixels] = answer.parts
        return pixels_of(answer.facts["size"], pixels, limits.pixels)

    read: dict[Path, RGBA] = {}
    with Sandbox(
        _decode_request, load, parse, workers=1, limits=limits_of(limits), warm_up=warm_up
    ) as sandbox:
        for path, decoded in sandbox.run(paths):
            if isinstance(decoded, Failure):
                if isinstance(decoded.error, LayerloopError):
                    raise decoded.error
                raise Refused(
                    f"{path} takes too long to decode, or breaks its decoder", "save it anew as PNG"
                )
            if isinstance(decoded, str):
                raise Refused(f"{path} cannot be taken: {decoded}")
            read[path] = decoded
    return read


def _decode_request(request: Message) -> Message:
    """Decode one file; this is what the confined process runs."""
    limits = Limits(**request.facts["limits"])
    decoded = decode_bytes(request.blob(0, limits.bytes), request.facts["name"], limits)
    if isinstance(decoded, str):
        return Message({"refused": decoded})
    return Message({"size": decoded.shape[1::-1]}, [decoded.tobytes()])


def decode_bytes(data: bytes, name: str, limits: Limits) -> RGBA | str:
    """Return a file's pixels, or the sentence that refuses it."""
    try:
        return decode_image(data, name, limits).rgba
    except BadFile as bad:
        return bad.sentence
    except MemoryError:
        return "decoding it needs more memory than a worker has"


def cover(rgba: RGBA, size: tuple[int, int]) -> RGBA:
    """The picture scaled to fill (width, height), its middle kept; colours are averaged by their alpha."""
    return np.asarray(ImageOps.fit(Image.fromarray(rgba, "RGBA"), size, Image.Resampling.LANCZOS))


def contain(rgba: RGBA, size: tuple[int, int]) -> tuple[RGBA, tuple[int, int]]:
    """The picture scaled to lie within (width, height), and the offset that puts it in the middle."""
    scale = min(size[0] / rgba.shape[1], size[1] / rgba.shape[0])
    scaled = enlarge(rgba, scale, size)
    return scaled, _middle(scaled, size)


def enlarge(rgba: RGBA, scale: float, most: tuple[int, int] = (MAX_SIDE, MAX_SIDE)) -> RGBA:
    """The picture so many times larger, at least one pixel and at most `most`."""
    height, width = rgba.shape[:2]
    wanted = min(max(round(width * scale), 1), most[0]), min(max(round(height * scale), 1), most[1])
    if wanted == (width, height):
        return rgba
    return np.asarray(Image.fromarray(rgba, "RGBA").resize(wanted, Image.Resampling.LANCZOS))


def set_down(
    rgba: RGBA, size: tuple[int, int], position: tuple[int, int] | None, scale: float | None
) -> tuple[RGBA, tuple[int, int]]:
    """A layer's picture in its size on a canvas (width, height), and the offset (x, y) of its upper left corner.

    Without a scale it is made smaller where it is larger than the canvas; without a position it lies in the middle.
    Raises Refused where it grows beyond what a layer may be.
    """
    height, width = rgba.shape[:2]
    if scale is None:
        scale = min(size[0] / width, size[1] / height, 1.0)
    too_large = (
        width * scale * height * scale > LIMITS.pixels or max(width, height) * scale > MAX_SIDE
    )
    if scale > 1 and too_large:
        raise Refused(
            f"a picture of {width} x {height} pixels is enlarged {scale:g} times",
            "give a smaller scale",
        )
    scaled = enlarge(rgba, scale)
    return scaled, position if position is not None else _middle(scaled, size)


def as_background(rgba: RGBA, size: tuple[int, int], fit: Fit) -> RGBA:
    """A picture in the size of a canvas (width, height), with clear bars where it is fitted in."""
    if fit is Fit.cover:
        return cover(rgba, size)
    scaled, offset = contain(rgba, size)
    return on_canvas(scaled, offset, size)


def _middle(rgba: RGBA, size: tuple[int, int]) -> tuple[int, int]:
    return (size[0] - rgba.shape[1]) // 2, (size[1] - rgba.shape[0]) // 2
