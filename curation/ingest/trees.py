"""Folders and archives alike: names of files, and their bytes, opened without following anything out of them."""

from __future__ import annotations

import io
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Protocol

from curation.errors import Refused
from curation.images.headers import BadFile
from curation.ingest.archives import Member, read_member
from curation.input_files import UnsafeFile, open_inside


class Tree(Protocol):
    """Files by their names inside a folder or an archive, with slashes between folders."""

    names: Sequence[str]
    root: str
    """The absolute path of a folder, for names that were written with it; empty where there is none."""
    hidden: int
    """How many entries were left out since their names begin with a dot."""

    def open(self, name: str) -> BinaryIO:
        """Open a file for reading. Raises BadFile where that is refused."""
        ...


class FolderTree:
    """The files below a folder; hidden ones are left out, links are listed and refused when they are opened."""

    def __init__(self, folder: Path, link_roots: Iterable[Path] = ()) -> None:
        self.folder = folder
        self.link_roots = tuple(link_roots)
        self.hidden = 0
        self.names: Sequence[str] = sorted(_walk(self))
        self.root = folder.resolve().as_posix()

    def open(self, name: str) -> BinaryIO:
        """Open a file for reading. Raises BadFile."""
        try:
            return open_inside(self.folder, name, self.link_roots)
        except UnsafeFile as error:
            raise BadFile(error.code, error.message) from error


class ArchiveTree:
    """The members of an archive that are not refused by their names."""

    root = ""

    def __init__(
        self, opening: Callable[[], BinaryIO], members: Iterable[Member], most_bytes: int
    ) -> None:
        """opening: opens the archive itself; most_bytes: larger members are refused."""
        self.opening = opening
        self.most_bytes = most_bytes
        good = {name: one for name, one in distinct(members) if one.refusal is None}
        self.members = {name: one for name, one in good.items() if not _hidden(name)}
        self.hidden = len(good) - len(self.members)
        self.names: Sequence[str] = list(self.members)

    def open(self, name: str) -> BinaryIO:
        """Open a member for reading. Raises BadFile."""
        with self.opening() as file:
            return io.BytesIO(read_member(file, self.members[name], self.most_bytes))


def distinct(members: Iterable[Member]) -> Iterator[tuple[str, Member]]:
    """Yield each member with a name of its own: an archive may hold one name several times."""
    listed = list(members)
    counts = Counter(member.name for member in listed)
    for member in listed:
        yield member.name + (f"#{member.index}" if counts[member.name] > 1 else ""), member


def _hidden(name: str) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))


def _walk(tree: FolderTree) -> Iterator[str]:
    """Name everything below the folder that is no folder; hidden entries are left out.

    Links, pipes, sockets, devices and folders that cannot be read are named too, so that their refusal can be told.
    Folders behind links are entered where links may lead into them, each once.
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
    except (OSError, RuntimeError):  # RuntimeError: links in a circle
        return False
