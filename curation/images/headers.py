"""What a file says about itself, read from its bytes before a decoder sees any pixel of it."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
MAX_ICC = 4 << 20  # honest profiles are a few KB; printers' lookup tables reach about 2 MiB
MAX_EXIF = 64 << 10

OTHER_IMAGES: tuple[tuple[bytes, str], ...] = (
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (b"BM", "BMP"),
    (b"8BPS", "Photoshop"),
    (b"8BPB", "Photoshop"),
    (b"\0\0\1\0", "ICO"),
    (b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cJXL ", "JPEG XL"),
    (b"v/1\1", "OpenEXR"),
    (b"DDS ", "DDS"),
    (b"qoif", "QOI"),
    (b"%PDF", "PDF"),
    (b"gimp xcf", "GIMP"),
)
"""First bytes of pictures that are not read, so that a person is told "save it as PNG" and not "no image"."""


class BadFile(Exception):
    """A file that is refused: `code` for the report, the sentence for a person."""

    def __init__(self, code: str, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code
        self.sentence = sentence


@dataclass(frozen=True)
class Header:
    """What stands in a file's own headers, and `pixels`: the same file with everything but its pixels left out."""

    format: str  # PNG, WEBP, GIF, JPEG
    width: int
    height: int
    pixels: bytes = field(repr=False, default=b"")
    bits: int = 8  # per channel
    colour_type: int = 6  # PNG's: 0 grey, 2 RGB, 3 palette, 4 grey + alpha, 6 RGBA
    alpha: bool = True  # whether the file can carry transparency at all
    lossy: bool = False
    animated: bool = False
    text: bool = False  # text, XMP or time stamps were left out
    trailing: bool = False  # bytes behind the end of the image were left out
    gamma: float | None = None
    icc: bytes | None = None  # b"" where there is a profile that cannot even be unpacked
    exif: bytes | None = None


def read_header(data: bytes, name: str) -> Header:
    """Recognise a file by its bytes, never by its name. Raises BadFile where it is broken or nothing that is read."""
    if not data:
        raise BadFile("empty_file", "the file has no bytes")
    if data.startswith(PNG_SIGNATURE):
        return _png(data)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _webp(data)
    if data[:6] in {b"GIF87a", b"GIF89a"}:
        return _gif(data)
    if data.startswith(b"\xff\xd8\xff"):
        return Header("JPEG", 0, 0, alpha=False)
    raise _unread(data, name)


def _unread(data: bytes, name: str) -> BadFile:
    known = next((kind for magic, kind in OTHER_IMAGES if data.startswith(magic)), None)
    if data[4:8] == b"ftyp":
        known = "AVIF or HEIF"
    if name.lower().endswith((".svg", ".svgz")):
        known = "SVG"
    if known:
        note = "; layers inside it are not read" if known == "Photoshop" else ""
        return BadFile("unsupported_format", f"{known} files are not read{note}: save it as PNG or lossless WebP")
    return BadFile("not_an_image", "the bytes are no image, whatever the name says")


def _png(data: bytes) -> Header:
    kept: list[bytes] = [PNG_SIGNATURE]
    seen: dict[bytes, bytes] = {}
    text = ended = False
    end = len(PNG_SIGNATURE)
    for kind, body, end in _png_chunks(data):  # noqa: B007  where the last chunk ended is asked below
        if not seen and kind != b"IHDR":
            raise BadFile("corrupt", "the PNG does not begin with its header")
        if kind in {b"IHDR", b"PLTE", b"tRNS", b"IDAT"}:
            kept.append(_png_chunk(kind, body))
        text = text or kind in {b"tEXt", b"zTXt", b"iTXt"}
        ended = kind == b"IEND"
        seen.setdefault(kind, body)
    width, height, bits, colour_type = struct.unpack(">IIBB", seen.get(b"IHDR", bytes(13))[:10])
    if seen and min(width, height) < 1:
        raise BadFile("bad_dimensions", f"the header says {width} x {height} pixels")
    if b"IDAT" not in seen:
        raise BadFile("truncated", "the file ends before its pixels begin")
    kept.append(_png_chunk(b"IEND", b""))
    frames = struct.unpack(">I", seen[b"acTL"][:4])[0] if len(seen.get(b"acTL", b"")) >= 4 else 1
    gamma = struct.unpack(">I", seen[b"gAMA"][:4])[0] / 100_000 if len(seen.get(b"gAMA", b"")) >= 4 else None
    return Header(
        "PNG",
        width,
        height,
        b"".join(kept),
        bits=bits,
        colour_type=colour_type,
        alpha=colour_type in {4, 6} or b"tRNS" in seen,
        animated=frames > 1,
        text=text,
        trailing=ended and end < len(data),
        gamma=None if b"sRGB" in seen else gamma,  # sRGB overrides gAMA (PNG specification, 11.3.2.5)
        icc=_png_icc(seen[b"iCCP"]) if b"iCCP" in seen else None,
        exif=seen[b"eXIf"] if len(seen.get(b"eXIf", b"")) in range(1, MAX_EXIF) else None,
    )


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes, int]]:
    """Each chunk's kind, body and end, up to IEND. A wrong checksum of a chunk that pixels need is `corrupt`."""
    at = len(PNG_SIGNATURE)
    while at + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        if end > len(data):
            raise BadFile("truncated", f"the file ends inside its {kind.decode('latin-1')!r} chunk")
        body = data[at + 8 : end - 4]
        if kind in {b"IHDR", b"PLTE", b"tRNS", b"IDAT"}:
            (checksum,) = struct.unpack_from(">I", data, end - 4)
            if zlib.crc32(body, zlib.crc32(kind)) != checksum:
                raise BadFile("corrupt", f"the checksum of a {kind.decode()} chunk is wrong")
        if kind == b"IHDR" and length != 13:
            raise BadFile("corrupt", "the PNG header has a wrong length")
        yield kind, body, end
        if kind == b"IEND":
            return
        at = end
    if at < len(data):
        raise BadFile("truncated", "the file ends inside a chunk's header")


def _png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(body, zlib.crc32(kind)))


def _png_icc(body: bytes) -> bytes:
    """The unpacked profile, b"" where it cannot be unpacked within MAX_ICC bytes."""
    packed = body.partition(b"\0")[2][1:]
    try:
        unpacker = zlib.decompressobj()
        profile = unpacker.decompress(packed, MAX_ICC)
    except zlib.error:
        return b""
    return profile if unpacker.eof else b""


def _webp(data: bytes) -> Header:
    """The RIFF container of WebP (developers.google.com/speed/webp/docs/riff_container)."""
    (size,) = struct.unpack_from("<I", data, 4)
    end = 8 + size + size % 2
    if end > len(data) + 1:
        raise BadFile("truncated", f"the file has {len(data)} of {end} bytes")
    chunks: dict[bytes, bytes] = {}
    for kind, body in _riff_chunks(data[:end]):
        chunks.setdefault(kind, body)
    frame = chunks.get(b"VP8L", chunks.get(b"VP8 ", b""))
    extended = chunks.get(b"VP8X", b"")
    if len(extended) >= 10:
        width = int.from_bytes(extended[4:7], "little") + 1
        height = int.from_bytes(extended[7:10], "little") + 1
    elif b"VP8L" in chunks and len(frame) >= 5:
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
        alpha=b"ALPH" in chunks or (b"VP8L" in chunks and bool(frame[4] >> 4 & 1)) or b"ANMF" in chunks,
        lossy=b"VP8 " in chunks,
        animated=b"ANMF" in chunks or b"ANIM" in chunks,
        text=b"XMP " in chunks,
        trailing=end < len(data),
        icc=chunks.get(b"ICCP", b"")[:MAX_ICC] if b"ICCP" in chunks else None,
        exif=chunks[b"EXIF"] if len(chunks.get(b"EXIF", b"")) in range(1, MAX_EXIF) else None,
    )


def _riff_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 12
    while at + 8 <= len(data):
        kind, length = struct.unpack_from("<4sI", data, at)
        yield kind, data[at + 8 : at + 8 + length]
        at += 8 + length + length % 2


def _gif(data: bytes) -> Header:
    """GIF: size from its screen, transparency and frames from its blocks (GIF89a specification)."""
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
            if left + wide > width or top + high > height:  # decoders would make room for it, whatever it takes
                raise BadFile("corrupt", "a frame lies outside the picture")
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
        "GIF", width, height, data[:at], alpha=alpha, animated=frames > 1, text=text, trailing=ended and at < len(data)
    )


def _gif_blocks(data: bytes, at: int) -> int:
    while at < len(data) and data[at]:
        at += 1 + data[at]
    return at + 1
