"""People's own pictures in a scene: decoded in a confined process, made to fill a canvas, or set down on it."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from curation.errors import NotFound, Refused
from curation.images.decoding import BROKEN, decode
from curation.images.headers import BadFile, Header, read_header
from curation.intake.confined import pixels_of, warm_up
from curation.intake.examination import LIMITS
from curation.intake.sandbox import Failure, Sandbox
from curation.intake.sandbox_wire import Message
from curation.layers import MAX_SIDE, without_hidden_colour
from curation.ports import RGBA
from curation.scenes.blending import on_canvas
from curation.scenes.scene import Fit


def read_pictures(paths: Sequence[Path]) -> dict[Path, RGBA]:
    """Each file as upright straight sRGB, H x W x 4 uint8, colour 0 under alpha 0; what has no alpha is opaque.

    PNG, WebP, GIF and JPEG, known by their bytes. Raises NotFound; Refused, where one is no picture or breaks its
    decoder.
    """
    if not paths:
        return {}
    for path in paths:
        if not path.exists():
            raise NotFound(f"there is no file {path}")
    read = {}
    with Sandbox(_decode_request, _load, _parse, workers=1, warm_up=warm_up) as sandbox:
        for path, decoded in sandbox.run(paths):
            if isinstance(decoded, Failure):
                if isinstance(decoded.error, OSError):
                    raise Refused(f"{path} cannot be taken: the file cannot be read: {decoded.error.strerror}")
                raise Refused(f"{path} takes too long to decode, or breaks its decoder", "save it anew as PNG")
            if isinstance(decoded, str):
                raise Refused(f"{path} cannot be taken: {decoded}")
            read[path] = decoded
    return read


def _load(path: Path) -> Message:
    return Message({"name": path.name}, [path.open("rb")])


def _decode_request(request: Message) -> Message:
    """Decode one file; this is what the confined process runs."""
    decoded = decode_bytes(request.blob(0, LIMITS.bytes), request.facts["name"])
    if isinstance(decoded, str):
        return Message({"refused": decoded})
    return Message({"size": decoded.shape[1::-1]}, [decoded.tobytes()])


def _parse(_: Path, answer: Message) -> RGBA | str:
    """Check what came back. Raises BadMessage."""
    if "refused" in answer.facts:
        return str(answer.facts["refused"])[:1000]
    [pixels] = answer.parts
    return pixels_of(answer.facts["size"], pixels)


def decode_bytes(data: bytes, name: str) -> RGBA | str:
    """Return a file's pixels, or the sentence that refuses it."""
    try:
        if len(data) > LIMITS.bytes:
            return f"the file is larger than {LIMITS.bytes >> 20} MiB"
        header = read_header(data, name)
        header = _photograph(data) if header.format == "JPEG" else header
        _check(header)
        return without_hidden_colour(decode(header)[0])
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
    if width * scale * height * scale > LIMITS.pixels or max(width, height) * scale > MAX_SIDE:
        raise Refused(f"a picture of {width} x {height} pixels is enlarged {scale:g} times", "give a smaller scale")
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


def _photograph(data: bytes) -> Header:
    """What stands in the headers of a JPEG, which the import of layers has no use for. Raises BadFile."""
    try:
        with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
            icc, exif = image.info.get("icc_profile"), image.info.get("exif")
            return Header(
                "JPEG",
                *image.size,
                data,
                colour_type=2,
                alpha=False,
                lossy=True,
                icc=icc if isinstance(icc, bytes) else None,
                exif=exif if isinstance(exif, bytes) else None,
            )
    except BROKEN as error:
        raise BadFile("corrupt", "the pixels cannot be decoded") from error


def _check(header: Header) -> None:
    """What can be refused before a pixel is decoded. Raises BadFile."""
    width, height = header.width, header.height
    if header.animated:
        raise BadFile("animated", "the file has several frames")
    if width * height > LIMITS.pixels:
        raise BadFile("too_many_pixels", f"{width} x {height} pixels are more than {LIMITS.pixels / 1e6:g} million")
    if max(width, height) > MAX_SIDE:
        raise BadFile("bad_dimensions", f"{width} x {height} is longer than {MAX_SIDE} pixels")
