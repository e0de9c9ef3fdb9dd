"""Zip and tar archives, read member by member: nothing is unpacked to disk, and no name or size is believed."""

from __future__ import annotations

import os
import stat
import struct
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath, PureWindowsPath
from typing import BinaryIO, Final, Literal, cast

from curation.images.headers import BadFile

MAX_MEMBERS = 100_000
MAX_TOTAL = 64 << 30
MAX_RATIO = 200  # honest pictures in a zip hardly shrink; raw bitmaps reach about 50
UNSUSPICIOUS = 1 << 20  # a member this small may shrink as it likes
MAX_OVERHEAD = 1 << 20  # what deflate may add to bytes that do not shrink
MAX_DIRECTORY = 64 << 20
"""Bytes of a zip's directory: 100,000 members with names of 600 bytes each."""
MAX_TAR_HEADER = 64 << 10
"""Bytes of one extended header of a tar; an honest one holds a path and some times."""
MAX_NAME = 1_000

STORED, DEFLATED = 0, 8
METHODS: Final = {
    1: "shrink",
    6: "implode",
    9: "deflate64",
    12: "bzip2",
    14: "LZMA",
    93: "Zstandard",
    95: "XZ",
}
"""Names of compression methods of zips that are not read."""

_END: Final = struct.Struct("<4s4H2LH")  # end of central directory
_END64: Final = struct.Struct("<4sQ2H2L4Q")
_LOCATOR64: Final = struct.Struct("<4sLQL")
_ENTRY: Final = struct.Struct("<4s6H3L5H2L")  # one member in the central directory
_LOCAL: Final = struct.Struct("<4s5H3L2H")

ArchiveKind = Literal["zip", "tar"]


@dataclass(frozen=True)
class Member:
    """One regular file in an archive: where its bytes lie, and why it is refused, if it is.

    `offset` is where its local header (zip) or its data (tar) begins; `packed` bytes lie in the file, `size` bytes
    come out. `index` is its position in the archive's directory.
    """

    index: int
    name: str
    size: int = 0
    packed: int = 0
    offset: int = 0
    method: int = STORED
    checksum: int | None = None
    refusal: BadFile | None = None


def archive_kind(head: bytes) -> ArchiveKind | None:
    """Return the kind of archive whose first 512 bytes are given; an image with a zip behind it is an image."""
    if head[:4] in {b"PK\3\4", b"PK\5\6"}:
        return "zip"
    return "tar" if head[257:262] == b"ustar" else None


def list_members(file: BinaryIO, most_bytes: int) -> list[Member]:
    """List every file of an archive in its own order; folders are left out, links and devices are refused members.

    Bounded in time and memory whatever the file claims: the number of members and the size of the directory are
    checked before anything is parsed.

    Args:
        file: The opened archive; it must be seekable.
        most_bytes: Larger members are refused, each with its reason.

    Raises:
        BadFile: The archive as a whole is refused.
    """
    try:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        kind = archive_kind(file.read(512))
        members = list(
            _list_tar(file, size, most_bytes)
            if kind == "tar"
            else _list_zip(file, size, most_bytes)
        )
    except BadFile:
        raise
    except Exception as error:  # whatever a parser raises for hostile bytes refuses the archive
        raise BadFile("corrupt", "the archive cannot be read") from error
    if sum(member.size for member in members if member.refusal is None) > MAX_TOTAL:
        raise BadFile(
            "archive_too_large", f"the archive unpacks to more than {MAX_TOTAL >> 30} GiB"
        )
    return members


def read_member(file: BinaryIO, member: Member, most_bytes: int) -> bytes:
    """Return the bytes of one listed member, never more than it declared.

    Raises:
        BadFile: The member is refused, is larger than `most_bytes`, or cannot be unpacked.
    """
    if member.refusal is not None:
        raise member.refusal
    if member.size > most_bytes:
        raise _too_large(member.packed, member.size)
    try:
        return _unpack(_packed_bytes(file, member), member)
    except Exception as error:  # also MemoryError: one member is no reason to end an import
        raise BadFile("corrupt", "the member cannot be unpacked") from error


def check_inside(name: str) -> None:
    """Raise BadFile unless a name stays inside its folder on every system: no root, drive, address or ".."."""
    windows = PureWindowsPath(name)
    leaves = (
        not name
        or name.startswith(("/", "\\"))
        or windows.drive
        or "://" in name
        or ".." in windows.parts
        or ".." in PurePosixPath(name).parts
    )
    if leaves:
        raise BadFile("path_traversal", f"the name {name[:120]!r} leads out of the folder")


def _list_zip(file: BinaryIO, size: int, most_bytes: int) -> Iterator[Member]:
    """Parse a zip's central directory (PKWARE APPNOTE 4.3.12), never more of it than MAX_MEMBERS entries."""
    start, length, shift = _find_directory(file, size)
    file.seek(start)
    directory = file.read(length)
    at = index = 0
    while at + _ENTRY.size <= len(directory):
        fields = _ENTRY.unpack_from(directory, at)
        if fields[0] != b"PK\1\2":
            raise BadFile("corrupt", "the archive's directory is damaged")
        if index >= MAX_MEMBERS:
            raise _too_many(index + 1)
        flags, method, checksum, packed, unpacked = fields[3], fields[4], *fields[7:10]
        name_end = at + _ENTRY.size + fields[10]
        extra_end = name_end + fields[11]
        name = _zip_name(directory[at + _ENTRY.size : name_end])
        sizes = [unpacked, packed, fields[16]]
        _widen(sizes, directory[name_end:extra_end])
        unpacked, packed, offset = sizes
        link = stat.S_ISLNK(fields[15] >> 16)
        refusal = _refusal(name, packed, unpacked, most_bytes, link) or _unreadable(flags, method)
        if not name.endswith("/"):
            yield Member(index, name, unpacked, packed, offset + shift, method, checksum, refusal)
        at = extra_end + fields[12]
        index += 1


def _find_directory(file: BinaryIO, size: int) -> tuple[int, int, int]:
    """Return where a zip's directory begins, its length, and how many bytes stand before the archive.

    Raises:
        BadFile: There is no directory, or it is larger than what is parsed.
    """
    tail_start = max(0, size - _END.size - 0xFFFF)
    file.seek(tail_start)
    tail = file.read()
    at = tail.rfind(b"PK\5\6")
    if at < 0 or len(tail) - at < _END.size:
        raise BadFile("corrupt", "the archive cannot be read")
    end = tail_start + at
    *_, count, length, offset, _ = _END.unpack_from(tail, at)
    if at >= _LOCATOR64.size and tail[at - _LOCATOR64.size :][:4] == b"PK\6\7":
        end -= _LOCATOR64.size + _END64.size
        file.seek(max(0, end))
        *_, count, length, offset = _END64.unpack(file.read(_END64.size))
    if count > MAX_MEMBERS:
        raise _too_many(count)
    if length > MAX_DIRECTORY:
        raise BadFile(
            "archive_too_large", f"its directory has {length:,} bytes, more than {MAX_DIRECTORY:,}"
        )
    start = end - length
    if start < 0 or start < offset:
        raise BadFile("corrupt", "the archive's directory is damaged")
    return start, length, start - offset


def _widen(sizes: list[int], extra: bytes) -> None:
    """Replace sizes and offset that do not fit 32 bits by those of the zip64 extra field."""
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, at)
        if kind == 1:
            wide = at + 4
            for place, value in enumerate(sizes):
                if value == 0xFFFFFFFF:
                    (sizes[place],) = struct.unpack_from("<Q", extra, wide)
                    wide += 8
        at += 4 + length


def _zip_name(raw: bytes) -> str:
    """Decode a name: UTF-8 where it is UTF-8, flagged or not, else the code page of the format."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("cp437")


def _unreadable(flags: int, method: int) -> BadFile | None:
    """Refuse encrypted members and those packed by other methods than deflate, whose unpackers take much memory."""
    if flags & 1:
        return BadFile("encrypted", "the member is encrypted")
    if method not in {STORED, DEFLATED}:
        name = METHODS.get(method, f"method {method}")
        return BadFile(
            "unsupported_compression",
            f"the member is packed with {name}: pack the zip with deflate",
        )
    return None


class _BoundedHeaders:
    """A file for tarfile that refuses to hand out an extended header larger than an honest one."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int) -> bytes:
        if not 0 <= size <= MAX_TAR_HEADER:
            raise BadFile("corrupt", "the archive has a header larger than any honest one")
        return self._file.read(size)


def _list_tar(file: BinaryIO, size: int, most_bytes: int) -> Iterator[Member]:
    """List an uncompressed tar; what stands behind a damaged header is one refused member."""
    file.seek(0)
    index = 0
    with tarfile.open(fileobj=cast(BinaryIO, _BoundedHeaders(file)), mode="r:") as archive:
        while (one := _next(archive)) is not None:
            if index >= MAX_MEMBERS:
                raise _too_many(index + 1)
            if not one.isdir():
                link = not one.isreg() or one.issparse()
                refusal = _refusal(one.name, one.size, one.size, most_bytes, link)
                if not 0 <= one.size <= size - one.offset_data:
                    refusal = refusal or BadFile("truncated", "the archive ends inside this member")
                yield Member(index, one.name, one.size, one.size, one.offset_data, refusal=refusal)
            index += 1
        file.seek(min(archive.offset, size))
    if any(file.read(512)):
        yield Member(
            index,
            "(rest)",
            refusal=BadFile("corrupt", "the archive is damaged behind its last member"),
        )


def _next(archive: tarfile.TarFile) -> tarfile.TarInfo | None:
    """Return the next member; None at the end, and where a header cannot be read."""
    first = archive.offset == 0
    try:
        return archive.next()
    except Exception:
        if first:
            raise
        return None


def _refusal(name: str, packed: int, size: int, most_bytes: int, link: bool) -> BadFile | None:
    """Say why a member is refused by what its directory tells of it."""
    if link:
        return BadFile("path_traversal", "the member is a symbolic link or no regular file")
    if len(name) > MAX_NAME:
        return BadFile(
            "name_too_long", f"its name has {len(name):,} characters, more than {MAX_NAME:,}"
        )
    if max(size, packed - MAX_OVERHEAD) > most_bytes or (
        size > UNSUSPICIOUS and size > MAX_RATIO * max(1, packed)
    ):
        return _too_large(packed, size)
    try:
        check_inside(name)
    except BadFile as bad:
        return bad
    return None


def _too_large(packed: int, size: int) -> BadFile:
    return BadFile(
        "archive_too_large", f"the archive holds {packed:,} bytes that unpack to {size:,}"
    )


def _too_many(count: int) -> BadFile:
    return BadFile(
        "archive_too_large", f"the archive holds {count:,} files or more, over {MAX_MEMBERS:,}"
    )


def _packed_bytes(file: BinaryIO, member: Member) -> bytes:
    """Read the member's bytes as they lie in the archive."""
    file.seek(member.offset)
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
    """Inflate at most one byte more than declared, and compare size and checksum."""
    data = packed
    if member.method == DEFLATED:
        data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, member.size + 1)
    if len(data) != member.size or (
        member.checksum is not None and zlib.crc32(data) != member.checksum
    ):
        raise ValueError("size or checksum differ")
    return data
