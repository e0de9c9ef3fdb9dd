"""Detection of an image's format by its bytes, never by its name, and reading of its header."""

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
from curation.images.headers import ImageHeader, InvalidImage

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
"""Signatures of unsupported image formats, for a message that names the format."""

ARCHIVES: tuple[tuple[bytes, str], ...] = (
    (b"\x1f\x8b", "gzip"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\0", "xz"),
    (b"7z\xbc\xaf'\x1c", "7z"),
    (b"Rar!\x1a\x07", "RAR"),
    (b"\x28\xb5\x2f\xfd", "Zstandard"),
)
"""Signatures of unsupported archive formats."""


def read_header(data: bytes, name: str = "") -> ImageHeader:
    """Read the header of an image of any supported format.

    Args:
        data: The whole file.
        name: The file's name, used in error messages only.

    Returns:
        The header.

    Raises:
        InvalidImage: It is broken or of an unsupported format.
    """
    if not data:
        raise InvalidImage("empty_file", "the file is empty")
    try:
        return _read(data, name)
    except InvalidImage:
        raise
    except Exception as error:  # readers may raise anything for hostile bytes
        raise InvalidImage("corrupt", "the header cannot be read") from error


def _read(data: bytes, name: str) -> ImageHeader:
    for magic, reader in READERS:
        if data.startswith(magic):
            return reader(data)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return read_webp(data)
    # ISO media files list their brands after the size and type of the first box.
    if data[4:8] == b"ftyp":
        brands = {
            data[at : at + 4] for at in range(8, min(int.from_bytes(data[:4], "big"), 256), 4)
        }
        if brands & AVIF_BRANDS:
            return read_avif(data)
        raise _unsupported("HEIF")
    # Text formats have no signature, so that only the name indicates an SVG.
    if name.lower().endswith((".svg", ".svgz")):
        raise _unsupported("SVG")
    archive = next((kind for magic, kind in ARCHIVES if data.startswith(magic)), None)
    if archive:
        raise InvalidImage(
            "unsupported_format",
            f"{archive} archives are not supported: unpack it, or repack it as zip or tar",
        )
    raise _unsupported(next((kind for magic, kind in OTHER_FILES if data.startswith(magic)), None))


def _unsupported(kind: str | None) -> InvalidImage:
    if kind:
        return InvalidImage(
            "unsupported_format", f"{kind} files are not supported: save it as PNG or lossless WebP"
        )
    return InvalidImage("not_an_image", "the content of the file is not an image")
