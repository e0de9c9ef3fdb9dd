"""Safe opening of users' files: regular files only, without blocking, with a size limit.

Symbolic links are followed only on request.
"""

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

MAX_INPUT_BYTES = 64 << 20
"""Largest file named on the command line, in bytes, unless the caller sets a lower limit."""


class UnsafeFile(LayerloopError):
    """A file below a folder cannot be opened safely; `code` names the reason.

    Codes: "path_traversal" (a link, or a name outside the folder), "special_file" (a pipe, socket,
    device or folder), "unreadable" (missing, no permission, or another error of the system).
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def open_beneath(folder: Path, name: str, link_roots: Collection[Path] = ()) -> BinaryIO:
    """Open one regular file below a folder, for reading in binary mode.

    Every component of the name is opened without following links, so that a folder that is replaced
    by a link meanwhile cannot lead out. The call never blocks: a pipe or a device is opened without
    waiting and refused.

    Args:
        folder: The folder that the caller was given; it may itself be reached through links.
        name: A relative name with forward slashes.
        link_roots: Folders that links may point into; without any, every link is refused.

    Returns:
        The open file, in binary mode.

    Raises:
        UnsafeFile: The file is a link, is outside the folder, is not a regular file, or cannot be
            read.
    """
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or "\0" in name:
        raise UnsafeFile("path_traversal", f"the name {name[:120]!r} leads out of the folder")
    try:
        handle = _open_parts(folder, parts)
    except OSError as error:
        # O_NOFOLLOW fails with ELOOP on a file, and with ENOTDIR on a folder that is a link.
        if error.errno in {errno.ELOOP, errno.ENOTDIR} and link_roots:
            handle = _open_linked(folder, name, link_roots)
        elif error.errno == errno.ELOOP or _is_link(folder, parts):
            raise UnsafeFile("path_traversal", "the file is a symbolic link") from error
        else:
            raise _unreadable(error) from error
    return _regular(handle)


def read_input(path: Path, max_bytes: int = MAX_INPUT_BYTES) -> bytes:
    """Read a file named on the command line; "-" is standard input, and pipes are read to the end.

    Args:
        path: The file, or "-".
        max_bytes: The largest size that is read.

    Raises:
        NotFound: There is no such file.
        Refused: The file is a folder, cannot be read, or holds more than `max_bytes`.
    """
    # Read one byte more than the limit, so that a larger file is noticed without reading it whole.
    try:
        if str(path) == "-":
            data = sys.stdin.buffer.read(max_bytes + 1)
        else:
            with path.open("rb") as file:
                data = file.read(max_bytes + 1)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFound(f"there is no file {path}", "check the path") from error
    except IsADirectoryError as error:
        raise Refused(f"{path} is a folder, not a file", "name a file in it") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or str(error)
        raise Refused(f"{path} cannot be read: {reason}") from error
    if len(data) > max_bytes:
        size = f"{max_bytes >> 20} MiB" if max_bytes >= 1 << 20 else f"{max_bytes:,} bytes"
        raise Refused(f"{path} is larger than {size}", "is it the right file?")
    return data


def read_text(path: Path, max_bytes: int = MAX_INPUT_BYTES, encoding: str | None = None) -> str:
    """Read a text file named on the command line.

    Args:
        path: The file, or "-" for standard input.
        max_bytes: The largest size that is read.
        encoding: The encoding of a file without a byte order mark; UTF-8 when None.

    Raises:
        NotFound: There is no such file.
        Refused: The file cannot be read, is too large, or is not text.
    """
    data = read_input(path, max_bytes)
    try:
        return decode_text(data, encoding)
    except UnreadableText as error:
        raise Refused(f"{path}: {error.message}", error.hint) from error


def _open_parts(folder: Path, parts: tuple[str, ...]) -> int:
    """Open a path component by component, without following links, and return its descriptor."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in parts[:-1]:
            below = os.open(
                part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=descriptor
            )
            os.close(descriptor)
            descriptor = below
        return os.open(
            parts[-1], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=descriptor
        )
    finally:
        os.close(descriptor)


def _open_linked(folder: Path, name: str, link_roots: Collection[Path]) -> int:
    """Open the target of a link, if it is below the folder or one of the allowed roots."""
    # The resolved target is opened again without links, in case it is replaced meanwhile.
    try:
        target = (folder / name).resolve(strict=True)
        for root in (folder, *link_roots):
            base = root.resolve()
            if target == base:
                raise UnsafeFile("special_file", "the link leads to a folder")
            if target.is_relative_to(base):
                return _open_parts(base, target.relative_to(base).parts)
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle
        raise UnsafeFile("unreadable", "the link has no target") from error
    raise UnsafeFile("path_traversal", "the link leads out of the allowed folders")


def _is_link(folder: Path, parts: tuple[str, ...]) -> bool:
    return any(folder.joinpath(*parts[: n + 1]).is_symlink() for n in range(len(parts)))


def _regular(handle: int) -> BinaryIO:
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise UnsafeFile(
            "special_file", "it is not a regular file: a pipe, a device, a socket or a folder"
        )
    return os.fdopen(handle, "rb")


def _unreadable(error: OSError) -> UnsafeFile:
    if error.errno in {errno.ENXIO, errno.EISDIR}:
        return UnsafeFile(
            "special_file", "it is not a regular file: a pipe, a device, a socket or a folder"
        )
    return UnsafeFile("unreadable", f"the file cannot be read: {error.strerror}")
