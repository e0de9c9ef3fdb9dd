"""Zip and tar archives, read by member without unpacking to disk or trusting their headers."""

from __future__ import annotations

import os
import stat
import struct
import tarfile
import zlib
from collections.abc import Iterator
from typing import BinaryIO, Final, Literal, cast

from curation.images.headers import InvalidImage
from curation.ingest.archive_members import (
    DEFLATED,
    MAX_MEMBERS,
    MAX_TOTAL_BYTES,
    STORED,
    Member,
    member_refusal,
    too_large_error,
    too_many_error,
)

MAX_DIRECTORY_BYTES = 64 << 20
"""Bytes of a zip's central directory: 100,000 members with names of 600 bytes each."""
MAX_TAR_HEADER = 64 << 10
"""Bytes of one extended tar header; a regular one holds a path and a few timestamps."""

UNSUPPORTED_METHODS: Final = {
    1: "shrink",
    6: "implode",
    9: "deflate64",
    12: "bzip2",
    14: "LZMA",
    93: "Zstandard",
    95: "XZ",
}
"""Names of the unsupported zip compression methods, for error messages."""

_END: Final = struct.Struct("<4s4H2LH")  # end of central directory
_END64: Final = struct.Struct("<4sQ2H2L4Q")
_LOCATOR64: Final = struct.Struct("<4sLQL")
_ENTRY: Final = struct.Struct("<4s6H3L5H2L")  # one member in the central directory
_LOCAL: Final = struct.Struct("<4s5H3L2H")

ArchiveKind = Literal["zip", "tar"]


def archive_kind(head: bytes) -> ArchiveKind | None:
    """Return the archive format for the first 512 bytes of a file, or None for any other file.

    An image with a zip appended to it counts as an image.
    """
    if head[:4] in {b"PK\3\4", b"PK\5\6"}:
        return "zip"
    return "tar" if head[257:262] == b"ustar" else None


def list_members(file: BinaryIO, max_bytes: int) -> list[Member]:
    """List the files of an archive in directory order; links and devices become refused members.

    Folders are left out. Time and memory are bounded for any input: the number of members and the
    size of the directory are checked before parsing.

    Args:
        file: The open, seekable archive.
        max_bytes: Largest unpacked size; larger members are listed as refused.

    Returns:
        The members, valid and refused.

    Raises:
        InvalidImage: The archive as a whole is refused.
    """
    try:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        kind = archive_kind(file.read(512))
        members = list(
            _list_tar(file, size, max_bytes) if kind == "tar" else _list_zip(file, size, max_bytes)
        )
    except InvalidImage:
        raise
    # A parser may raise any exception on hostile bytes; each one refuses the archive.
    except Exception as error:
        raise InvalidImage("corrupt", "the archive cannot be read") from error
    if sum(member.size for member in members if member.refusal is None) > MAX_TOTAL_BYTES:
        raise InvalidImage(
            "archive_too_large", f"the archive unpacks to more than {MAX_TOTAL_BYTES >> 30} GiB"
        )
    return members


def read_member(file: BinaryIO, member: Member, max_bytes: int) -> bytes:
    """Return the unpacked bytes of one listed member, never more than it declared.

    Args:
        file: The open archive that lists the member.
        member: A member returned by list_members.
        max_bytes: Largest unpacked size to read.

    Raises:
        InvalidImage: The member is refused, is larger than `max_bytes`, or cannot be unpacked.
    """
    if member.refusal is not None:
        raise member.refusal
    if member.size > max_bytes:
        raise too_large_error(member.packed, member.size)
    try:
        return _unpack(_packed_bytes(file, member), member)
    # MemoryError too: one oversized member must not end the import.
    except Exception as error:
        raise InvalidImage("corrupt", "the member cannot be unpacked") from error


def _list_zip(file: BinaryIO, size: int, most_bytes: int) -> Iterator[Member]:
    """Parse a zip's central directory (PKWARE APPNOTE 4.3.12), at most MAX_MEMBERS entries."""
    start, length, shift = _find_directory(file, size)
    file.seek(start)
    directory = file.read(length)
    position = index = 0
    while position + _ENTRY.size <= len(directory):
        fields = _ENTRY.unpack_from(directory, position)
        if fields[0] != b"PK\1\2":
            raise InvalidImage("corrupt", "the archive's directory is damaged")
        if index >= MAX_MEMBERS:
            raise too_many_error(index + 1)
        # A fixed-size record is followed by the name, the extra field and a comment.
        flags, method, checksum, packed, unpacked = fields[3], fields[4], *fields[7:10]
        name_end = position + _ENTRY.size + fields[10]
        extra_end = name_end + fields[11]
        name = _zip_name(directory[position + _ENTRY.size : name_end])
        sizes = [unpacked, packed, fields[16]]
        _apply_zip64(sizes, directory[name_end:extra_end])
        unpacked, packed, offset = sizes
        # The upper 16 bits of the external attributes hold the Unix file mode.
        link = stat.S_ISLNK(fields[15] >> 16)
        refusal = member_refusal(name, packed, unpacked, most_bytes, link) or _unsupported(
            flags, method
        )
        if not name.endswith("/"):
            yield Member(index, name, unpacked, packed, offset + shift, method, checksum, refusal)
        position = extra_end + fields[12]
        index += 1


def _find_directory(file: BinaryIO, size: int) -> tuple[int, int, int]:
    """Return the start and length of a zip's central directory, and the bytes before the archive.

    Raises:
        InvalidImage: There is no directory, or it exceeds the limits.
    """
    # The end record is the last one, before a comment of at most 65,535 bytes.
    tail_start = max(0, size - _END.size - 0xFFFF)
    file.seek(tail_start)
    tail = file.read()
    position = tail.rfind(b"PK\5\6")
    if position < 0 or len(tail) - position < _END.size:
        raise InvalidImage("corrupt", "the archive cannot be read")
    end = tail_start + position
    *_, count, length, offset, _ = _END.unpack_from(tail, position)
    # A zip64 archive has a second, wider end record and its locator right before this one.
    if position >= _LOCATOR64.size and tail[position - _LOCATOR64.size :][:4] == b"PK\6\7":
        end -= _LOCATOR64.size + _END64.size
        file.seek(max(0, end))
        *_, count, length, offset = _END64.unpack(file.read(_END64.size))
    if count > MAX_MEMBERS:
        raise too_many_error(count)
    if length > MAX_DIRECTORY_BYTES:
        raise InvalidImage(
            "archive_too_large",
            f"its directory has {length:,} bytes, more than {MAX_DIRECTORY_BYTES:,}",
        )
    # Counted back from its end: offsets are too small where other bytes precede the archive.
    start = end - length
    if start < 0 or start < offset:
        raise InvalidImage("corrupt", "the archive's directory is damaged")
    return start, length, start - offset


def _apply_zip64(sizes: list[int], extra: bytes) -> None:
    """Replace sizes and offset that do not fit 32 bits by those of the zip64 extra field."""
    position = 0
    while position + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, position)
        if kind == 1:
            wide = position + 4
            # Only the values that overflow 32 bits are present, in this order.
            for index, value in enumerate(sizes):
                if value == 0xFFFFFFFF:
                    (sizes[index],) = struct.unpack_from("<Q", extra, wide)
                    wide += 8
        position += 4 + length


def _zip_name(raw: bytes) -> str:
    """Decode a name as UTF-8 if it is valid, with or without the flag, else as code page 437."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("cp437")


def _unsupported(flags: int, method: int) -> InvalidImage | None:
    """Refuse encrypted members, and methods other than deflate, whose decoders need much memory."""
    if flags & 1:
        return InvalidImage("encrypted", "the member is encrypted")
    if method not in {STORED, DEFLATED}:
        name = UNSUPPORTED_METHODS.get(method, f"method {method}")
        return InvalidImage(
            "unsupported_compression",
            f"the member is compressed with {name}: compress the zip with deflate",
        )
    return None


class _BoundedHeaders:
    """File wrapper for tarfile that limits the size of an extended header."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int) -> bytes:
        if not 0 <= size <= MAX_TAR_HEADER:
            raise InvalidImage(
                "corrupt", f"the archive has a header of more than {MAX_TAR_HEADER >> 10} KiB"
            )
        return self._file.read(size)


def _list_tar(file: BinaryIO, size: int, most_bytes: int) -> Iterator[Member]:
    """List an uncompressed tar; the data after a damaged header is one refused member."""
    file.seek(0)
    index = 0
    with tarfile.open(fileobj=cast(BinaryIO, _BoundedHeaders(file)), mode="r:") as archive:
        while (info := _next(archive)) is not None:
            if index >= MAX_MEMBERS:
                raise too_many_error(index + 1)
            if not info.isdir():
                # A sparse member declares a size that the file need not contain.
                link = not info.isreg() or info.issparse()
                refusal = member_refusal(info.name, info.size, info.size, most_bytes, link)
                if not 0 <= info.size <= size - info.offset_data:
                    refusal = refusal or InvalidImage(
                        "truncated", "the archive ends inside this member"
                    )
                yield Member(
                    index, info.name, info.size, info.size, info.offset_data, refusal=refusal
                )
            index += 1
        file.seek(min(archive.offset, size))
    # An intact tar ends with blocks of zeros.
    if any(file.read(512)):
        damaged = InvalidImage("corrupt", "the archive is damaged after its last member")
        yield Member(index, "(rest)", refusal=damaged)


def _next(archive: tarfile.TarFile) -> tarfile.TarInfo | None:
    """Return the next member, or None at the end or at an unreadable header after the first."""
    first = archive.offset == 0
    try:
        return archive.next()
    except Exception:
        if first:
            raise
        return None


def _packed_bytes(file: BinaryIO, member: Member) -> bytes:
    """Read the member's bytes as stored in the archive."""
    file.seek(member.offset)
    # Only zip members have a checksum and a local header in front of their data.
    if member.checksum is not None:
        fields = _LOCAL.unpack(file.read(_LOCAL.size))
        if fields[0] != b"PK\3\4":
            raise ValueError("no local header")
        file.seek(fields[9] + fields[10], os.SEEK_CUR)
    packed = file.read(member.packed)
    if len(packed) != member.packed:
        raise EOFError("the archive ends inside the member")
    return packed


def _unpack(packed: bytes, member: Member) -> bytes:
    """Inflate at most one byte more than declared, and verify size and checksum."""
    data = packed
    if member.method == DEFLATED:
        data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, member.size + 1)
    if len(data) != member.size or (
        member.checksum is not None and zlib.crc32(data) != member.checksum
    ):
        raise ValueError("size or checksum differ")
    return data
