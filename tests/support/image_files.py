"""Image files written sample by sample, for the kinds that Pillow cannot write."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterable

import numpy as np
from PIL import Image, ImageCms

ADAM7 = (
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
)
SRGB = (31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)
P3 = (31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)
ADOBE = (31270, 32900, 64000, 33000, 21000, 71000, 15000, 6000)
Chunks = Iterable[tuple[bytes, bytes]]


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def make_png(
    samples: np.ndarray,
    color_type: int,
    bits: int = 8,
    chunks: Chunks = (),
    *,
    interlaced: bool = False,
) -> bytes:
    """Return a PNG of H x W x C samples, unchanged, in any color type and depth."""
    height, width = samples.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, bits, color_type, 0, 0, int(interlaced))
    passes = [samples[y::dy, x::dx] for x, y, dx, dy in ADAM7] if interlaced else [samples]
    rows = b"".join(b"\0" + _row(row, bits) for one in passes if one.size for row in one)
    middle = b"".join(chunk(kind, body) for kind, body in chunks)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + middle
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def _row(row: np.ndarray, bits: int) -> bytes:
    if bits == 16:
        return row.astype(">u2").tobytes()
    if bits == 8:
        return row.astype(np.uint8).tobytes()
    indices = (row.reshape(-1, 1) >> np.arange(bits - 1, -1, -1)) & 1
    return np.packbits(indices.astype(np.uint8).ravel()).tobytes()


def make_ios_png(rgba: np.ndarray) -> bytes:
    """Return a PNG as Xcode writes it: premultiplied BGR, and deflate without a zlib header."""
    color = np.rint(rgba[..., :3] * (rgba[..., 3:] / 255)).astype(np.uint8)
    rows = b"".join(b"\0" + row.tobytes() for row in np.dstack([color[..., ::-1], rgba[..., 3]]))
    packer = zlib.compressobj(wbits=-15)
    packed = packer.compress(rows) + packer.flush()
    header = struct.pack(">IIBBBBB", rgba.shape[1], rgba.shape[0], 8, 6, 0, 0, 0)
    parts = [(b"CgBI", b"\x50\x00\x20\x06"), (b"IHDR", header), (b"IDAT", packed), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, body) for kind, body in parts)


def chromaticities(values: tuple[int, ...]) -> tuple[bytes, bytes]:
    return b"cHRM", struct.pack(">8I", *values)


def gamma(value: int) -> tuple[bytes, bytes]:
    return b"gAMA", struct.pack(">I", value)


def coded(primaries: int, transfer: int) -> tuple[bytes, bytes]:
    return b"cICP", bytes([primaries, transfer, 0, 1])


def profile(
    primaries: tuple[int, ...] = P3, power: float | None = None, space: bytes = b"RGB "
) -> bytes:
    """Return a small ICC profile (version 2) of primaries and a power or sRGB's curve."""
    from curation.images.colors import (
        BRADFORD,
        _to_light,
        _to_xyz,
    )  # the values of a profile are relative to D50

    def number(value: float) -> bytes:
        return struct.pack(">i", round(value * 65536))

    def curve() -> bytes:
        if power is not None:
            return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(power * 256)) + b"\0\0"
        table = np.rint(_to_light(np.linspace(0, 1, 1024), None) * 65535).astype(">u2")
        return b"curv\0\0\0\0" + struct.pack(">I", 1024) + table.tobytes()

    own = _to_xyz(tuple(v / 100_000 for v in primaries))
    d50 = np.array([0.9642, 1.0, 0.8249])
    adapted = (
        np.linalg.inv(BRADFORD)
        @ np.diag((BRADFORD @ d50) / (BRADFORD @ own.sum(axis=1)))
        @ BRADFORD
        @ own
    )
    xyz = {name: b"XYZ \0\0\0\0" + b"".join(map(number, column)) for name, column in zip(
        (b"rXYZ", b"gXYZ", b"bXYZ"), adapted.T, strict=True)}  # fmt: skip
    tags = {b"wtpt": b"XYZ \0\0\0\0" + b"".join(map(number, d50)), b"cprt": b"text\0\0\0\0none\0",
            b"desc": b"desc\0\0\0\0" + struct.pack(">I", 5) + b"test\0" + bytes(78)}  # fmt: skip
    tags |= (
        {b"kTRC": curve()}
        if space == b"GRAY"
        else {**xyz, b"rTRC": curve(), b"gTRC": curve(), b"bTRC": curve()}
    )
    at, table, bodies = 128 + 4 + 12 * len(tags), b"", b""
    for name, body in tags.items():
        padded = body + bytes(-len(body) % 4)
        table += struct.pack(">4sII", name, at + len(bodies), len(body))
        bodies += padded
    header = struct.pack(">I4sI4s4s4s", 0, b"none", 0x02400000, b"mntr", space, b"XYZ ")
    header += (
        struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + b"".join(map(number, d50))
    )
    whole = header.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + bodies
    whole = struct.pack(">I", len(whole)) + whole[4:]
    ImageCms.ImageCmsProfile(io.BytesIO(whole))
    return whole


def profile_chunk(icc: bytes) -> tuple[bytes, bytes]:
    return b"iCCP", b"test\0\0" + zlib.compress(icc)


def saved(image: Image.Image | np.ndarray, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(out, kind, **options)
    return out.getvalue()
