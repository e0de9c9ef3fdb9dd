"""Zip archives, read member by member: nothing is unpacked to disk, and no name or size in them is believed."""

from __future__ import annotations

import stat
import zipfile
import zlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath, PureWindowsPath

from curation.intake.headers import BadFile

MAX_MEMBERS = 100_000
MAX_TOTAL = 64 << 30
MAX_RATIO = 200  # honest pictures in a zip hardly shrink; raw bitmaps reach about 50
UNSUSPICIOUS = 1 << 20  # a member this small may shrink as it likes


@dataclass(frozen=True)
class Member:
    """One file in an archive: its place in the directory, and why it is refused, if it is."""

    index: int
    name: str
    refusal: BadFile | None


def is_archive(path: Path) -> bool:
    """Whether a file is a zip by its first bytes; a picture with a zip behind it is a picture."""
    try:
        with path.open("rb") as file:
            return file.read(4) in {b"PK\3\4", b"PK\5\6"}
    except OSError:
        return False


def list_members(path: Path, most_bytes: int) -> list[Member]:
    """Every file of an archive, from its directory alone. Raises BadFile where the archive as a whole is refused."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise BadFile("corrupt", "the archive cannot be read") from error
    _check_sizes(members, most_bytes)
    return [Member(i, one.filename, _refusal(one)) for i, one in enumerate(members) if not one.is_dir()]


def read_member(path: Path, index: int, most_bytes: int) -> bytes:
    """The bytes of one listed member; zipfile hands out no more than the directory declares. Raises BadFile."""
    try:
        archive = _open(path)
        with archive.open(archive.infolist()[index]) as file:
            return file.read(most_bytes)
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError, NotImplementedError, IndexError) as error:
        raise BadFile("corrupt", "the member cannot be unpacked") from error


def check_inside(name: str) -> None:
    """Raise BadFile unless a name stays inside its folder on every system: no root, drive, address or "..".."""
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


def _check_sizes(members: list[zipfile.ZipInfo], most_bytes: int) -> None:
    """What the directory of the archive declares; zipfile never hands out more bytes than are declared there."""
    if len(members) > MAX_MEMBERS or sum(member.file_size for member in members) > MAX_TOTAL:
        raise BadFile("archive_too_large", f"the archive holds {len(members)} files or more bytes than are unpacked")
    for member in members:
        bomb = member.file_size > UNSUSPICIOUS and member.file_size > MAX_RATIO * max(1, member.compress_size)
        if bomb or member.file_size > most_bytes:
            said = f"{member.compress_size:,} bytes that unpack to {member.file_size:,}"
            raise BadFile("archive_too_large", f"the archive holds {said}")


def _refusal(member: zipfile.ZipInfo) -> BadFile | None:
    if stat.S_ISLNK(member.external_attr >> 16):
        return BadFile("path_traversal", "the member is a symbolic link")
    if member.flag_bits & 1:
        return BadFile("encrypted", "the member is encrypted")
    try:
        check_inside(member.filename)
    except BadFile as bad:
        return bad
    return None


@lru_cache(maxsize=2)
def _open(path: Path) -> zipfile.ZipFile:
    """Opened once in each worker: reading a long directory anew for every member would cost its square."""
    return zipfile.ZipFile(path)
