"""Common interface of folders and archives: file names, and safe opening of files inside them."""

from __future__ import annotations

import io
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Protocol

from curation.errors import Refused
from curation.images.headers import InvalidImage
from curation.ingest.archive_members import Member
from curation.ingest.archives import read_member
from curation.input_files import UnsafeFile, open_beneath


class FileTree(Protocol):
    """Interface to the files of a folder or archive; names have slashes between folders."""

    names: Sequence[str]
    root: str
    """Absolute path of a folder, to resolve absolute names; empty for an archive."""
    hidden: int
    """Number of skipped entries whose names begin with a dot."""

    def open(self, name: str) -> BinaryIO:
        """Open a file for reading.

        Raises:
            InvalidImage: The file is refused.
        """
        ...


class FolderTree:
    """The files below a folder, without hidden ones; opening a link to the outside is refused."""

    def __init__(self, folder: Path, link_roots: Iterable[Path] = ()) -> None:
        """List the files.

        Args:
            folder: The folder, listed recursively; or a file, which is listed alone.
            link_roots: Folders into which symbolic links are followed.

        Raises:
            Refused: The folder cannot be read.
        """
        is_file = folder.is_file()
        self.folder = folder.parent if is_file else folder
        self.link_roots = tuple(link_roots)
        self.hidden = 0
        self.names: Sequence[str] = [folder.name] if is_file else sorted(_walk(self))
        self.root = folder.resolve().as_posix()

    def open(self, name: str) -> BinaryIO:
        """Open a file for reading.

        Raises:
            InvalidImage: The file cannot be opened, or is outside the folder.
        """
        try:
            return open_beneath(self.folder, name, self.link_roots)
        except UnsafeFile as error:
            raise InvalidImage(error.code, error.message) from error


class ArchiveTree:
    """The valid, visible members of an archive."""

    root = ""

    def __init__(
        self, open_file: Callable[[], BinaryIO], members: Iterable[Member], max_bytes: int
    ) -> None:
        """Select the members.

        Args:
            open_file: Opens the archive file.
            members: The listed members.
            max_bytes: Largest unpacked size to read.
        """
        self.opening = open_file
        self.most_bytes = max_bytes
        valid = {
            name: member for name, member in with_unique_names(members) if member.refusal is None
        }
        self.members = {name: member for name, member in valid.items() if not _hidden(name)}
        self.hidden = len(valid) - len(self.members)
        self.names: Sequence[str] = list(self.members)

    def open(self, name: str) -> BinaryIO:
        """Unpack a member into memory and open it for reading.

        Raises:
            InvalidImage: The member is refused.
        """
        with self.opening() as file:
            return io.BytesIO(read_member(file, self.members[name], self.most_bytes))


def with_unique_names(members: Iterable[Member]) -> Iterator[tuple[str, Member]]:
    """Yield each member with a unique name: repeated names get the member's index as a suffix."""
    listed = list(members)
    counts = Counter(member.name for member in listed)
    for member in listed:
        yield member.name + (f"#{member.index}" if counts[member.name] > 1 else ""), member


def _hidden(name: str) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))


def _walk(tree: FolderTree) -> Iterator[str]:
    """Yield everything below the folder except folders and hidden entries.

    Links, pipes, sockets, devices and unreadable folders are included, so that each is reported.
    Folders behind allowed links are entered once.
    """
    folders = [""]
    entered = set()
    while folders:
        inside = folders.pop()
        try:
            status = (tree.folder / inside).stat()
            entries = list(os.scandir(tree.folder / inside))
        except OSError as error:
            if not inside:
                raise Refused(f"{tree.folder} cannot be read: {error.strerror}") from error
            yield inside.rstrip("/")
            continue
        # A link may lead to a folder that was listed already, or to one of its parents.
        if (status.st_dev, status.st_ino) in entered:
            continue
        entered.add((status.st_dev, status.st_ino))
        for entry in entries:
            if _hidden(entry.name):
                tree.hidden += 1
                continue
            name = inside + entry.name
            if _is_folder(entry, tree.link_roots):
                folders.append(name + "/")
            else:
                yield name


def _is_folder(entry: os.DirEntry[str], link_roots: Iterable[Path]) -> bool:
    try:
        if entry.is_symlink():
            target = Path(entry.path).resolve(strict=True)
            return target.is_dir() and any(
                target.is_relative_to(root.resolve()) for root in link_roots
            )
        return entry.is_dir(follow_symlinks=False)
    # RuntimeError: a cycle of links.
    except (OSError, RuntimeError):
        return False
