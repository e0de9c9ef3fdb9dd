"""WebP, GIF and AVIF by their own containers; JPEG, TIFF and Photoshop files by the headers that Pillow reads."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, Final

from PIL import Image

from curation.images.headers import MAX_EXIF, MAX_ICC, BadFile, ColorInfo, Header
from curation.images.opening import open_with_pillow

MAX_PAGES: Final = 64
TIFF_EXTRA: Final = 338  # what the channels beyond the colors mean
STRAIGHT, ASSOCIATED = 2, 1


def read_webp(data: bytes) -> Header:
    """Read the RIFF container of WebP (developers.google.com/speed/webp/docs/riff_container). Raises BadFile."""
    (size,) = struct.unpack_from("<I", data, 4)
    end = 8 + size + size % 2
    if end > len(data) + 1:
        raise BadFile("truncated", f"the file has {len(data)} of {end} bytes")
    chunks: dict[bytes, bytes] = {}
    frames = 0
    for kind, body in walk_riff(data[:end], 12):
        frames += kind == b"ANMF"
        chunks.setdefault(kind, body)
    inside = chunks
    if (
        frames == 1
    ):  # an animation of one frame is a single image, whose frame has chunks of its own
        inside = dict(walk_riff(chunks[b"ANMF"], 16))
    frame = inside.get(b"VP8L", inside.get(b"VP8 ", b""))
    extended = chunks.get(b"VP8X", b"")
    if len(extended) >= 10:
        width = int.from_bytes(extended[4:7], "little") + 1
        height = int.from_bytes(extended[7:10], "little") + 1
    elif b"VP8L" in inside and len(frame) >= 5:
        packed = int.from_bytes(frame[1:5], "little")
        width, height = (packed & 0x3FFF) + 1, (packed >> 14 & 0x3FFF) + 1
    elif len(frame) >= 10:
        width, height = (value & 0x3FFF for value in struct.unpack_from("<HH", frame, 6))
    else:
        raise BadFile("truncated", "the file ends before its pixels begin")
    return Header(
        "WEBP",
        width,
        height,
        data[:end],
        alpha=b"ALPH" in inside
        or (b"VP8L" in inside and len(frame) > 4 and bool(frame[4] >> 4 & 1))
        or frames > 0,
        lossy=b"VP8 " in inside,
        animated=frames > 1,
        text=b"XMP " in chunks,
        trailing=end < len(data),
        color=ColorInfo(icc=chunks[b"ICCP"][:MAX_ICC] if b"ICCP" in chunks else None),
        exif=chunks[b"EXIF"] if len(chunks.get(b"EXIF", b"")) in range(1, MAX_EXIF) else None,
    )


def walk_riff(data: bytes, at: int) -> Iterator[tuple[bytes, bytes]]:
    """Yield the kind and body of each chunk from a position on, as far as the bytes reach."""
    while at + 8 <= len(data):
        kind, length = struct.unpack_from("<4sI", data, at)
        yield kind, data[at + 8 : at + 8 + length]
        at += 8 + length + length % 2


def read_gif(data: bytes) -> Header:
    """Read a GIF's size from its screen, transparency and frames from its blocks (GIF89a). Raises BadFile."""
    if len(data) < 13:
        raise BadFile("truncated", "the file ends inside its header")
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    at = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    frames, alpha, ended, text = 0, False, False, False
    while at < len(data) and not ended:
        mark = data[at]
        if mark == 0x2C and at + 10 < len(data):  # a frame
            frames += 1
            left, top, wide, high, local = struct.unpack_from("<HHHHB", data, at + 1)
            if (
                left + wide > width or top + high > height
            ):  # decoders would make room for it, whatever it takes
                raise BadFile("corrupt", "a frame lies outside the picture")
            alpha = alpha or (wide, high) != (width, height)  # what no frame covers is transparent
            at = _gif_blocks(data, at + 11 + (3 << (local & 7) + 1 if local & 0x80 else 0))
        elif mark == 0x21 and at + 3 < len(data):  # an extension
            alpha = alpha or (data[at + 1] == 0xF9 and bool(data[at + 3] & 1))
            text = text or data[at + 1] in {0xFE, 0x01}
            at = _gif_blocks(data, at + 2)
        else:
            ended = mark == 0x3B
            at += 1
    if min(width, height) < 1:
        raise BadFile("bad_dimensions", f"the header says {width} x {height} pixels")
    return Header(
        "GIF",
        width,
        height,
        data[:at],
        alpha=alpha,
        animated=frames > 1,
        text=text,
        trailing=ended and at < len(data),
    )


def _gif_blocks(data: bytes, at: int) -> int:
    while at < len(data) and data[at]:
        at += 1 + data[at]
    return at + 1


def read_jpeg(data: bytes) -> Header:
    """Read a JPEG, which has no alpha and is always lossy. Raises BadFile."""
    with _opened(data, "JPEG") as image:
        return Header(
            "JPEG", *image.size, data, grey=image.mode == "L", alpha=False, lossy=True,
            color=ColorInfo(icc=_info(image, "icc_profile", MAX_ICC)), exif=_info(image, "exif", MAX_EXIF),
        )  # fmt: skip


def read_avif(data: bytes) -> Header:
    """Read an AVIF; its colors are named by a profile or by the numbers of an "nclx" box. Raises BadFile."""
    with _opened(data, "AVIF") as image:
        icc = _info(image, "icc_profile", MAX_ICC)
        return Header(
            "AVIF", *image.size, data, alpha=image.mode == "RGBA", lossy=True, text="xmp" in image.info,
            animated=getattr(image, "n_frames", 1) > 1,
            color=ColorInfo(icc=icc, cicp=_nclx(data) if icc is None else None), exif=_info(image, "exif", MAX_EXIF),
        )  # fmt: skip


def _nclx(data: bytes) -> tuple[int, int, int, int] | None:
    """Primaries and transfer of the first "colr" box with numbers; the decoder has undone matrix and range."""
    at = data.find(b"colrnclx")
    if at < 0 or at + 15 > len(data):
        return None
    primaries, transfer = struct.unpack_from(">HH", data, at + 8)
    return (primaries, transfer, 0, 1) if max(primaries, transfer) < 256 else None


def read_tiff(data: bytes) -> Header:
    """Read a TIFF of one page with 8 or 16 bits, grey, RGB or with a palette. Raises BadFile for others."""
    with _opened(data, "TIFF", too_odd="its colors are stored in an unusual way") as image:
        tags: Any = image.tag_v2  # type: ignore[attr-defined]
        bits = set(_numbers(tags.get(258, (1,))))
        extra = _numbers(tags.get(TIFF_EXTRA, ()))
        photometric = tags.get(262)
        if _pages(image) > 1:
            raise _unsupported("it has several pages")
        if (
            set(_numbers(tags.get(339, (1,)))) != {1}
            or not bits <= {1, 2, 4, 8, 16}
            or len(bits) != 1
        ):
            raise _unsupported("its samples are not whole numbers of 8 or 16 bits")
        if photometric not in {0, 1, 2, 3, 6}:
            raise _unsupported("its colors are CMYK or Lab")
        deep = bits == {16}
        if tags.get(284, 1) == 2 and (deep or ASSOCIATED in extra):
            raise _unsupported("its channels lie in separate planes")
        return Header(
            "TIFF",
            int(tags[256]),
            int(tags[257]),
            data,
            bits=max(bits),
            grey=photometric in {0, 1},
            alpha=extra[:1] in ((STRAIGHT,), (ASSOCIATED,)),
            premultiplied=extra[:1] == (ASSOCIATED,),
            lossy=tags.get(259, 1)
            in {6, 7, 33003, 33005, 34712, 50001},  # kinds of JPEG, JPEG 2000, WebP
            text=bool({270, 315, 305, 700} & set(tags)),
            color=ColorInfo(icc=_info(image, "icc_profile", MAX_ICC)),
            orientation=_orientation(tags.get(274, 1)),
        )


def _pages(image: Image.Image) -> int:
    """The pages of a TIFF that are no smaller versions or masks of others, as far as it matters."""
    pages = 0
    for number in range(MAX_PAGES):
        try:
            image.seek(number)
        except EOFError:
            break
        pages += not image.tag_v2.get(254, 0) & 5  # type: ignore[attr-defined]
    image.seek(0)
    return pages


def _numbers(value: Any) -> tuple[int, ...]:
    return tuple(value) if isinstance(value, tuple | list) else (int(value),)


def _orientation(value: Any) -> int:
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def read_psd(data: bytes) -> Header:
    """Read a Photoshop file with its merged picture, which is all that is taken of it. Raises BadFile.

    A negative count of layers says that a fourth plane is the transparency of the merged picture, whose colors then
    lie on white.
    """
    version, channels, height, width, depth, mode = struct.unpack(
        ">H6xHIIHH", data[4:26].ljust(22, b"\0")
    )
    if version != 1 or depth != 8 or mode not in {1, 3}:
        raise _unsupported("of Photoshop files, those with 8 bits in RGB or grey are read")
    at, sections = 26, []
    for _ in range(3):  # palette, resources, layers
        length = int.from_bytes(data[at : at + 4], "big")
        sections.append(data[at + 4 : at + 4 + length])
        at += 4 + length
    if at >= len(data):
        raise BadFile("truncated", "the file ends before its merged picture")
    layers = int.from_bytes(sections[2][4:6], "big", signed=True) if len(sections[2]) >= 6 else 0
    with _opened(data, "PSD") as image:
        return Header(
            "PSD", width, height, data, grey=mode == 1, alpha=layers < 0 and mode == 3 and channels == 4,
            color=ColorInfo(icc=_info(image, "icc_profile", MAX_ICC)),
        )  # fmt: skip


def _opened(data: bytes, kind: str, too_odd: str = "") -> Image.Image:
    """Open an image for its headers. Raises BadFile for whatever a reader of headers raises."""
    try:
        return open_with_pillow(data, kind)
    except Exception as error:  # readers raise anything for broken headers
        if too_odd and "mode" in str(error):
            raise _unsupported(too_odd) from error
        raise BadFile(
            "corrupt", "its header cannot be read, so that the pixels cannot be decoded"
        ) from error


def _info(image: Image.Image, name: str, most: int) -> bytes | None:
    value = image.info.get(name)
    return value if isinstance(value, bytes) and 0 < len(value) <= most else None


def _unsupported(why: str) -> BadFile:
    return BadFile("unsupported_format", f"{why}: save it as PNG or lossless WebP")
