"""Headers of WebP and GIF from their containers, and of JPEG, AVIF, TIFF and PSD by Pillow."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, Final

from PIL import Image

from curation.images.headers import MAX_EXIF, MAX_ICC, ColorInfo, ImageHeader, InvalidImage
from curation.images.opening import open_with_pillow

MAX_PAGES: Final = 64
TIFF_EXTRA: Final = 338  # the tag ExtraSamples: the meaning of the channels beyond the colors
STRAIGHT, ASSOCIATED = 2, 1


def read_webp(data: bytes) -> ImageHeader:
    """Read the header of a WebP from its RIFF container. Raises InvalidImage."""
    # The format: developers.google.com/speed/webp/docs/riff_container.
    (size,) = struct.unpack_from("<I", data, 4)
    end = 8 + size + size % 2
    if end > len(data) + 1:
        raise InvalidImage("truncated", f"the file has {len(data)} of {end} bytes")
    chunks: dict[bytes, bytes] = {}
    frames = 0
    for kind, body in walk_riff(data[:end], 12):
        frames += kind == b"ANMF"
        chunks.setdefault(kind, body)

    # An animation of one frame is a single image, whose frame has chunks of its own.
    frame_chunks = chunks
    if frames == 1:
        frame_chunks = dict(walk_riff(chunks[b"ANMF"], 16))
    frame = frame_chunks.get(b"VP8L", frame_chunks.get(b"VP8 ", b""))
    extended = chunks.get(b"VP8X", b"")

    # The image size, of the extended, lossless or lossy format.
    if len(extended) >= 10:
        width = int.from_bytes(extended[4:7], "little") + 1
        height = int.from_bytes(extended[7:10], "little") + 1
    elif b"VP8L" in frame_chunks and len(frame) >= 5:
        packed = int.from_bytes(frame[1:5], "little")
        width, height = (packed & 0x3FFF) + 1, (packed >> 14 & 0x3FFF) + 1
    elif len(frame) >= 10:
        width, height = (value & 0x3FFF for value in struct.unpack_from("<HH", frame, 6))
    else:
        raise InvalidImage("truncated", "the file ends before its pixels begin")
    return ImageHeader(
        "WEBP",
        width,
        height,
        data[:end],
        alpha=b"ALPH" in frame_chunks
        or (b"VP8L" in frame_chunks and len(frame) > 4 and bool(frame[4] >> 4 & 1))
        or frames > 0,
        lossy=b"VP8 " in frame_chunks,
        animated=frames > 1,
        text=b"XMP " in chunks,
        trailing=end < len(data),
        color=ColorInfo(icc=chunks[b"ICCP"][:MAX_ICC] if b"ICCP" in chunks else None),
        exif=chunks[b"EXIF"] if len(chunks.get(b"EXIF", b"")) in range(1, MAX_EXIF) else None,
    )


def walk_riff(data: bytes, offset: int) -> Iterator[tuple[bytes, bytes]]:
    """Yield the kind and body of each chunk from an offset on; a truncated file ends early."""
    while offset + 8 <= len(data):
        kind, length = struct.unpack_from("<4sI", data, offset)
        yield kind, data[offset + 8 : offset + 8 + length]
        offset += 8 + length + length % 2


def read_gif(data: bytes) -> ImageHeader:
    """Read the header of a GIF (GIF89a). Raises InvalidImage."""
    if len(data) < 13:
        raise InvalidImage("truncated", "the file ends inside its header")
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    offset = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    frames, alpha, ended, text = 0, False, False, False
    # Walk over the blocks: transparency and the number of frames are not in the header.
    while offset < len(data) and not ended:
        mark = data[offset]
        if mark == 0x2C and offset + 10 < len(data):  # a frame
            frames += 1
            left, top, frame_width, frame_height, local = struct.unpack_from(
                "<HHHHB", data, offset + 1
            )
            # A decoder would enlarge the image to any size for a frame outside of it.
            if left + frame_width > width or top + frame_height > height:
                raise InvalidImage("corrupt", "a frame lies outside the image")
            # Pixels that no frame covers are transparent.
            alpha = alpha or (frame_width, frame_height) != (width, height)
            offset = _gif_blocks(data, offset + 11 + (3 << (local & 7) + 1 if local & 0x80 else 0))
        elif mark == 0x21 and offset + 3 < len(data):  # an extension
            alpha = alpha or (data[offset + 1] == 0xF9 and bool(data[offset + 3] & 1))
            text = text or data[offset + 1] in {0xFE, 0x01}
            offset = _gif_blocks(data, offset + 2)
        else:
            ended = mark == 0x3B
            offset += 1
    if min(width, height) < 1:
        raise InvalidImage(
            "bad_dimensions", f"invalid size in the header: {width} x {height} pixels"
        )
    return ImageHeader(
        "GIF",
        width,
        height,
        data[:offset],
        alpha=alpha,
        animated=frames > 1,
        text=text,
        trailing=ended and offset < len(data),
    )


def _gif_blocks(data: bytes, offset: int) -> int:
    while offset < len(data) and data[offset]:
        offset += 1 + data[offset]
    return offset + 1


def read_jpeg(data: bytes) -> ImageHeader:
    """Read the header of a JPEG, which has no alpha and is always lossy. Raises InvalidImage."""
    with _opened(data, "JPEG") as image:
        return ImageHeader(
            "JPEG",
            *image.size,
            data,
            gray=image.mode == "L",
            alpha=False,
            lossy=True,
            color=ColorInfo(icc=_info(image, "icc_profile", MAX_ICC)),
            exif=_info(image, "exif", MAX_EXIF),
        )


def read_avif(data: bytes) -> ImageHeader:
    """Read the header of an AVIF. Raises InvalidImage."""
    with _opened(data, "AVIF") as image:
        # Its colors are given by an ICC profile or by the codes of an "nclx" box.
        icc = _info(image, "icc_profile", MAX_ICC)
        return ImageHeader(
            "AVIF",
            *image.size,
            data,
            alpha=image.mode == "RGBA",
            lossy=True,
            text="xmp" in image.info,
            animated=getattr(image, "n_frames", 1) > 1,
            color=ColorInfo(icc=icc, cicp=_nclx(data) if icc is None else None),
            exif=_info(image, "exif", MAX_EXIF),
        )


def _nclx(data: bytes) -> tuple[int, int, int, int] | None:
    """Return primaries and transfer of the first "nclx" box."""
    # The decoder applies matrix and range, so they are not returned.
    offset = data.find(b"colrnclx")
    if offset < 0 or offset + 15 > len(data):
        return None
    primaries, transfer = struct.unpack_from(">HH", data, offset + 8)
    return (primaries, transfer, 0, 1) if max(primaries, transfer) < 256 else None


def read_tiff(data: bytes) -> ImageHeader:
    """Read the header of a TIFF.

    Args:
        data: The whole file.

    Returns:
        The header.

    Raises:
        InvalidImage: It is broken, or not a single gray, RGB or palette image with 8 or 16 bits.
    """
    with _opened(data, "TIFF", mode_error="its colors are stored in an unusual way") as image:
        # Refuse variants that Pillow or OpenCV would decode wrongly.
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
            raise _unsupported("its samples are not integers of 8 or 16 bits")
        if photometric not in {0, 1, 2, 3, 6}:
            raise _unsupported("its colors are CMYK or Lab")
        deep = bits == {16}
        if tags.get(284, 1) == 2 and (deep or ASSOCIATED in extra):
            raise _unsupported("its channels lie in separate planes")

        # Compression tags of lossy kinds: JPEG, JPEG 2000 and WebP.
        lossy = tags.get(259, 1) in {6, 7, 33003, 33005, 34712, 50001}
        return ImageHeader(
            "TIFF",
            int(tags[256]),
            int(tags[257]),
            data,
            bits=max(bits),
            gray=photometric in {0, 1},
            alpha=extra[:1] in ((STRAIGHT,), (ASSOCIATED,)),
            premultiplied=extra[:1] == (ASSOCIATED,),
            lossy=lossy,
            text=bool({270, 315, 305, 700} & set(tags)),
            color=ColorInfo(icc=_info(image, "icc_profile", MAX_ICC)),
            orientation=_orientation(tags.get(274, 1)),
        )


def _pages(image: Image.Image) -> int:
    """Count the pages of a TIFF that are not thumbnails or masks of others, up to MAX_PAGES."""
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


def read_psd(data: bytes) -> ImageHeader:
    """Read the header of a Photoshop file, of which only the merged image is used.

    Args:
        data: The whole file.

    Returns:
        The header.

    Raises:
        InvalidImage: It is broken, or not an 8-bit RGB or gray image.
    """
    version, channels, height, width, depth, mode = struct.unpack(
        ">H6xHIIHH", data[4:26].ljust(22, b"\0")
    )
    if version != 1 or depth != 8 or mode not in {1, 3}:
        raise _unsupported("only Photoshop files in 8-bit RGB or gray are supported")

    # The sections palette, resources and layers precede the merged image.
    offset, sections = 26, []
    for _ in range(3):
        length = int.from_bytes(data[offset : offset + 4], "big")
        sections.append(data[offset + 4 : offset + 4 + length])
        offset += 4 + length
    if offset >= len(data):
        raise InvalidImage("truncated", "the file ends before its merged image")

    # A negative number of layers means that the fourth plane is the transparency of the merged
    # image, whose colors are then blended with white.
    layers = int.from_bytes(sections[2][4:6], "big", signed=True) if len(sections[2]) >= 6 else 0
    with _opened(data, "PSD") as image:
        return ImageHeader(
            "PSD",
            width,
            height,
            data,
            gray=mode == 1,
            alpha=layers < 0 and mode == 3 and channels == 4,
            color=ColorInfo(icc=_info(image, "icc_profile", MAX_ICC)),
        )


def _opened(data: bytes, kind: str, mode_error: str = "") -> Image.Image:
    """Open an image with Pillow to read its header. Raises InvalidImage for any error."""
    try:
        return open_with_pillow(data, kind)
    except Exception as error:  # Pillow raises anything for broken headers
        if mode_error and "mode" in str(error):
            raise _unsupported(mode_error) from error
        raise InvalidImage(
            "corrupt", "its header cannot be read, so that the pixels cannot be decoded"
        ) from error


def _info(image: Image.Image, name: str, most: int) -> bytes | None:
    value = image.info.get(name)
    return value if isinstance(value, bytes) and 0 < len(value) <= most else None


def _unsupported(why: str) -> InvalidImage:
    return InvalidImage("unsupported_format", f"{why}: save it as PNG or lossless WebP")
