"""Members of archives, and the limits that each must keep."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath, PureWindowsPath

from curation.images.headers import InvalidImage

MAX_MEMBERS = 100_000
MAX_TOTAL_BYTES = 64 << 30
MAX_RATIO = 200
"""Largest compression ratio. Image files in a zip hardly shrink; raw bitmaps reach about 50."""


RATIO_CHECK_MIN_BYTES = 1 << 20
"""Bytes of an unpacked member up to which its compression ratio is not checked."""


MAX_DEFLATE_OVERHEAD = 1 << 20
"""Bytes that deflate may add to incompressible data."""


MAX_NAME = 1_000
"""Characters of a member's name."""


STORED, DEFLATED = 0, 8


@dataclass(frozen=True)
class Member:
    """One regular file in an archive: the location of its bytes, or the reason of its refusal.

    Attributes:
        index: Position in the archive's directory.
        name: Path inside the archive, as the directory gives it.
        size: Bytes after decompression.
        packed: Bytes in the archive file.
        offset: Start of the local header (zip) or of the data (tar).
        method: Zip compression method.
        checksum: CRC-32 of the unpacked bytes; None for a tar.
        refusal: Why the member is not read; None for a valid one.
    """

    index: int
    name: str
    size: int = 0
    packed: int = 0
    offset: int = 0
    method: int = STORED
    checksum: int | None = None
    refusal: InvalidImage | None = None


def check_relative_path(name: str) -> None:
    """Check that a name stays inside its folder on every operating system.

    Raises:
        InvalidImage: The name is empty, absolute, has a drive or URL scheme, or contains "..".
    """
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
        raise InvalidImage("path_traversal", f"the path {name[:120]!r} leads out of the folder")


def member_refusal(
    name: str, packed: int, size: int, most_bytes: int, link: bool
) -> InvalidImage | None:
    """Return why a member is refused by its directory entry, or None if it is accepted."""
    if link:
        return InvalidImage("path_traversal", "the member is a symbolic link or not a regular file")
    if len(name) > MAX_NAME:
        return InvalidImage(
            "name_too_long", f"its name has {len(name):,} characters, more than {MAX_NAME:,}"
        )
    if max(size, packed - MAX_DEFLATE_OVERHEAD) > most_bytes or (
        size > RATIO_CHECK_MIN_BYTES and size > MAX_RATIO * max(1, packed)
    ):
        return too_large_error(packed, size)
    try:
        check_relative_path(name)
    except InvalidImage as bad:
        return bad
    return None


def too_large_error(packed: int, size: int) -> InvalidImage:
    """Return the refusal of an archive that unpacks to more than the limit."""
    return InvalidImage(
        "archive_too_large", f"the archive holds {packed:,} bytes that unpack to {size:,}"
    )


def too_many_error(count: int) -> InvalidImage:
    """Return the refusal of an archive with more members than the limit."""
    return InvalidImage(
        "archive_too_large", f"the archive holds {count:,} files or more, over {MAX_MEMBERS:,}"
    )
