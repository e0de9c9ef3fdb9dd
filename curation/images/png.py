"""Headers of PNG files (PNG specification, third edition), including those of iOS apps (CgBI)."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import Final

from curation.images.headers import MAX_EXIF, MAX_ICC, ColorInfo, ImageHeader, InvalidImage

SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
REQUIRED_CHUNKS: Final = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT"})
"""Chunks that decoding needs; their checksums must be valid."""
CHANNELS: Final = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Color type -> samples per pixel."""


def read_png(data: bytes) -> ImageHeader:
    """Read the header of a PNG from its chunks.

    The header's `pixels` is a PNG of the same samples and nothing else: without the transparent
    color, which must be compared at the file's own bit depth, and without chunks that a decoder
    might interpret.

    Args:
        data: The whole file.

    Returns:
        The header.

    Raises:
        InvalidImage: It is truncated, broken or invalid.
    """
    parts: list[bytes] = []
    seen: dict[bytes, bytes] = {}
    text = ended = False
    end = len(SIGNATURE)
    # Collect the first chunk of each kind, and all chunks with pixels.
    for kind, body, end in _chunks(data):  # noqa: B007  the end of the last chunk is used below
        if not seen and kind not in {b"IHDR", b"CgBI"}:
            raise InvalidImage("corrupt", "the PNG does not begin with its header")
        if kind == b"IDAT":
            parts.append(body)
        text = text or kind in {b"tEXt", b"zTXt", b"iTXt"}
        ended = kind == b"IEND"
        seen.setdefault(kind, body)

    # Check the values of the header chunk.
    width, height, bits, color_type, _, _, interlaced = struct.unpack(
        ">IIBBBBB", seen.get(b"IHDR", bytes(13))
    )
    if seen and min(width, height) < 1:
        raise InvalidImage(
            "bad_dimensions", f"invalid size in the header: {width} x {height} pixels"
        )
    if not parts:
        raise InvalidImage("truncated", "the file ends before its pixels begin")
    if color_type not in CHANNELS or bits not in {1, 2, 4, 8, 16}:
        raise InvalidImage("corrupt", f"PNG has no color type {color_type} with {bits} bits")

    # PNGs of iOS apps have raw deflate data, which is repacked as zlib.
    ios = b"CgBI" in seen
    bits_per_pixel = bits * CHANNELS[color_type]
    repacked = _as_zlib(parts, width, height, bits_per_pixel, interlaced) if ios else None
    return ImageHeader(
        "PNG",
        width,
        height,
        _without_metadata(seen, parts, repacked),
        bits=bits,
        gray=color_type in {0, 4},
        alpha=color_type in {4, 6} or b"tRNS" in seen,
        premultiplied=ios,
        ios=ios,
        animated=len(seen.get(b"acTL", b"")) >= 4 and int.from_bytes(seen[b"acTL"][:4], "big") > 1,
        text=text,
        trailing=ended and end < len(data),
        palette=seen.get(b"PLTE") if color_type == 3 else None,
        transparency=seen.get(b"tRNS") if color_type in {0, 2, 3} else None,
        color=_color(seen),
        exif=seen[b"eXIf"] if len(seen.get(b"eXIf", b"")) in range(1, MAX_EXIF) else None,
    )


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes, int]]:
    """Yield each chunk's kind, body and end, up to IEND. Raises InvalidImage for broken chunks."""
    offset = len(SIGNATURE)
    while offset + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, offset)
        end = offset + 12 + length
        if end > len(data):
            raise InvalidImage(
                "truncated", f"the file ends inside its {kind.decode('latin-1')!r} chunk"
            )
        body = data[offset + 8 : end - 4]
        if kind in REQUIRED_CHUNKS:
            (checksum,) = struct.unpack_from(">I", data, end - 4)
            if zlib.crc32(body, zlib.crc32(kind)) != checksum:
                raise InvalidImage("corrupt", f"the checksum of a {kind.decode()} chunk is wrong")
        if kind == b"IHDR" and length != 13:
            raise InvalidImage("corrupt", "the PNG header has a wrong length")
        yield kind, body, end
        if kind == b"IEND":
            return
        offset = end
    if offset < len(data):
        raise InvalidImage("truncated", "the file ends inside a chunk's header")


def walk_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the kind and body of each chunk without checks; a truncated file ends early."""
    offset = len(SIGNATURE)
    while offset + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, offset)
        yield kind, data[offset + 8 : offset + 8 + length]
        offset += 12 + length


def _without_metadata(
    seen: dict[bytes, bytes], parts: list[bytes], repacked: bytes | None
) -> bytes:
    """Return a PNG of header, palette and pixels only."""
    kept = [SIGNATURE, encode_chunk(b"IHDR", seen[b"IHDR"])]
    if b"PLTE" in seen:
        kept.append(encode_chunk(b"PLTE", seen[b"PLTE"]))
    kept += (
        [encode_chunk(b"IDAT", part) for part in parts]
        if repacked is None
        else [encode_chunk(b"IDAT", repacked)]
    )
    return b"".join([*kept, encode_chunk(b"IEND", b"")])


def encode_chunk(kind: bytes, body: bytes) -> bytes:
    """Encode a chunk with its length and checksum."""
    return (
        struct.pack(">I", len(body))
        + kind
        + body
        + struct.pack(">I", zlib.crc32(body, zlib.crc32(kind)))
    )


def _as_zlib(parts: list[bytes], width: int, height: int, bits: int, interlaced: int) -> bytes:
    """Repack the raw deflate data of an iOS PNG as zlib. Raises InvalidImage."""
    # Limit the output. Adam7 has up to seven passes, each with padded rows and filter bytes.
    max_bytes = height * (2 + width * bits // 8) * (2 if interlaced else 1) + 64
    if max_bytes > 1 << 31:
        raise InvalidImage("too_many_pixels", f"{width} x {height} pixels are too many")
    try:
        raw = zlib.decompressobj(-zlib.MAX_WBITS).decompress(b"".join(parts), max_bytes)
    except zlib.error as error:
        raise InvalidImage(
            "corrupt", "the pixels of this iOS PNG (CgBI) cannot be unpacked"
        ) from error
    return zlib.compress(raw, 1)


def _color(seen: dict[bytes, bytes]) -> ColorInfo:
    """Return the color metadata of the chunks; those of an invalid length are ignored."""
    cicp, gamma, primaries = (seen.get(kind, b"") for kind in (b"cICP", b"gAMA", b"cHRM"))
    return ColorInfo(
        cicp=(cicp[0], cicp[1], cicp[2], cicp[3]) if len(cicp) == 4 else None,
        icc=_icc(seen[b"iCCP"]) if b"iCCP" in seen else None,
        srgb=b"sRGB" in seen,
        gamma=int.from_bytes(gamma, "big") / 100_000 if len(gamma) == 4 else None,
        chromaticities=tuple(value / 100_000 for value in struct.unpack(">8I", primaries))
        if len(primaries) == 32
        else None,
    )


def _icc(body: bytes) -> bytes:
    """Return the unpacked profile, b"" if it is broken or larger than MAX_ICC bytes."""
    packed = body.partition(b"\0")[2][1:]
    try:
        unpacker = zlib.decompressobj()
        profile = unpacker.decompress(packed, MAX_ICC)
    except zlib.error:
        return b""
    return profile if unpacker.eof else b""
