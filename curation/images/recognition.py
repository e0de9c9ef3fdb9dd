"""Recognize a file by its bytes, never by its name, and read its headers."""

from __future__ import annotations

from curation.images import png
from curation.images.containers import (
    read_avif,
    read_gif,
    read_jpeg,
    read_psd,
    read_tiff,
    read_webp,
)
from curation.images.headers import BadFile, Header

AVIF_BRANDS = frozenset({b"avif", b"avis"})

READERS = (
    (b"\xff\xd8\xff", read_jpeg),
    (b"GIF87a", read_gif),
    (b"GIF89a", read_gif),
    (b"II*\0", read_tiff),
    (b"MM\0*", read_tiff),
    (b"II+\0", read_tiff),
    (b"MM\0+", read_tiff),
    (b"8BPS", read_psd),
    (png.SIGNATURE, png.read_png),
)

OTHER_FILES: tuple[tuple[bytes, str], ...] = (
    (b"BM", "BMP"),
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
"""First bytes of images that are not read, so that a person is told "save it as PNG" and not "no image"."""

ARCHIVES: tuple[tuple[bytes, str], ...] = (
    (b"\x1f\x8b", "gzip"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\0", "xz"),
    (b"7z\xbc\xaf'\x1c", "7z"),
    (b"Rar!\x1a\x07", "RAR"),
    (b"\x28\xb5\x2f\xfd", "Zstandard"),
)
"""First bytes of archives that are not read."""


def read_header(data: bytes, name: str = "") -> Header:
    """Read the headers of an image.

    Args:
        data: The whole file.
        name: The file's name, for the sentence of a refusal alone.

    Raises:
        BadFile: It is broken, or nothing that is read.
    """
    if not data:
        raise BadFile("empty_file", "the file has no bytes")
    try:
        return _read(data, name)
    except BadFile:
        raise
    except Exception as error:  # whatever a reader raises for hostile bytes refuses the file
        raise BadFile("corrupt", "the headers cannot be read") from error


def _read(data: bytes, name: str) -> Header:
    for magic, reader in READERS:
        if data.startswith(magic):
            return reader(data)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return read_webp(data)
    if data[4:8] == b"ftyp":
        brands = {
            data[at : at + 4] for at in range(8, min(int.from_bytes(data[:4], "big"), 256), 4)
        }
        if brands & AVIF_BRANDS:
            return read_avif(data)
        raise _unread("HEIF")
    if name.lower().endswith((".svg", ".svgz")):
        raise _unread("SVG")
    archive = next((kind for magic, kind in ARCHIVES if data.startswith(magic)), None)
    if archive:
        raise BadFile(
            "unsupported_format",
            f"{archive} archives are not read: unpack it, or pack it as zip or tar",
        )
    raise _unread(next((kind for magic, kind in OTHER_FILES if data.startswith(magic)), None))


def _unread(kind: str | None) -> BadFile:
    if kind:
        return BadFile(
            "unsupported_format", f"{kind} files are not read: save it as PNG or lossless WebP"
        )
    return BadFile("not_an_image", "the bytes are no image, whatever the name says")
