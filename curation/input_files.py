"""Open files that people bring: regular files only, never blocking, bounded in size, links followed only on request."""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Collection
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from curation.errors import LayerloopError, NotFound, Refused
from curation.text import UnreadableText, decode_text

MAX_INPUT = 64 << 20
"""Bytes of a file named on the command line, unless the caller asks for less."""


class UnsafeFile(LayerloopError):
    """A file below a folder is not opened; `code` names the reason: a link, a special file, a missing file.

    Codes: "path_traversal" (a link, or a name outside the folder), "special_file" (a pipe, socket, device or folder),
    "unreadable" (missing, no permission, or another error of the system).
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def open_inside(folder: Path, name: str, link_roots: Collection[Path] = ()) -> BinaryIO:
    """Open one regular file below a folder, for reading in binary mode.

    Every component of the name is opened without following links, so a folder that is exchanged for a link meanwhile
    leads nowhere. Never blocks: a pipe or a device is opened without waiting and refused.

    Args:
        folder: The folder that the caller was given; it may itself be reached through links.
        name: A relative name with forward slashes.
        link_roots: Folders into which links may lead; without any, every link is refused.

    Raises:
        UnsafeFile: The file is a link, leads out of the folder, is no regular file, or cannot be read.
    """
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or "\0" in name:
        raise UnsafeFile("path_traversal", f"the name {name[:120]!r} leads out of the folder")
    try:
        handle = _open_parts(folder, parts)
    except OSError as error:
        if error.errno in {errno.ELOOP, errno.ENOTDIR} and link_roots:
            handle = _open_linked(folder, name, link_roots)
        elif error.errno == errno.ELOOP or _is_link(folder, parts):
            raise UnsafeFile("path_traversal", "the file is a symbolic link") from error
        else:
            raise _unreadable(error) from error
    return _regular(handle)


def read_input(path: Path, most_bytes: int = MAX_INPUT) -> bytes:
    """Read a file that a person named on the command line; "-" is standard input, pipes are read to their end.

    Raises:
        NotFound: There is no such file.
        Refused: It is a folder, cannot be read, or holds more than `most_bytes`.
    """
    try:
        if str(path) == "-":
            data = sys.stdin.buffer.read(most_bytes + 1)
        else:
            with path.open("rb") as file:
                data = file.read(most_bytes + 1)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFound(f"there is no file {path}", "check the path") from error
    except IsADirectoryError as error:
        raise Refused(f"{path} is a folder, not a file", "name a file in it") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or str(error)
        raise Refused(f"{path} cannot be read: {reason}") from error
    if len(data) > most_bytes:
        size = f"{most_bytes >> 20} MiB" if most_bytes >= 1 << 20 else f"{most_bytes:,} bytes"
        raise Refused(f"{path} is larger than {size}", "is it the right file?")
    return data


def read_text(path: Path, most_bytes: int = MAX_INPUT, encoding: str | None = None) -> str:
    """Read a text file that a person named on the command line; see `read_input` and `curation.text.decode_text`.

    Raises:
        NotFound: There is no such file.
        Refused: It cannot be read, is too large, or is no text.
    """
    data = read_input(path, most_bytes)
    try:
        return decode_text(data, encoding)
    except UnreadableText as error:
        raise Refused(f"{path}: {error.message}", error.hint) from error


def _open_parts(folder: Path, parts: tuple[str, ...]) -> int:
    """Open component by component, each without following a link."""
    here = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in parts[:-1]:
            below = os.open(
                part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=here
            )
            os.close(here)
            here = below
        return os.open(
            parts[-1], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=here
        )
    finally:
        os.close(here)


def _open_linked(folder: Path, name: str, link_roots: Collection[Path]) -> int:
    """Open what a link leads to, where that lies below one of the allowed roots or the folder itself."""
    try:
        target = (folder / name).resolve(strict=True)
        for root in (folder, *link_roots):
            base = root.resolve()
            if target == base:
                raise UnsafeFile("special_file", "the link leads to a folder")
            if target.is_relative_to(base):
                return _open_parts(base, target.relative_to(base).parts)
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle
        raise UnsafeFile("unreadable", "the link leads nowhere") from error
    raise UnsafeFile("path_traversal", "the link leads out of the allowed folders")


def _is_link(folder: Path, parts: tuple[str, ...]) -> bool:
    return any(folder.joinpath(*parts[: n + 1]).is_symlink() for n in range(len(parts)))


def _regular(handle: int) -> BinaryIO:
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise UnsafeFile(
            "special_file", "it is no regular file: a pipe, a device, a socket or a folder"
        )
    return os.fdopen(handle, "rb")


def _unreadable(error: OSError) -> UnsafeFile:
    if error.errno in {errno.ENXIO, errno.EISDIR}:
        return UnsafeFile(
            "special_file", "it is no regular file: a pipe, a device, a socket or a folder"
        )
    return UnsafeFile("unreadable", f"the file cannot be read: {error.strerror}")
