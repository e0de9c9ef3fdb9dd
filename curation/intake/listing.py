"""A folder of images as a list: every regular file, and what manifests, texts beside files and names say of it."""

from __future__ import annotations

import io
import json
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from curation.domain import Split
from curation.errors import Refused
from curation.images.headers import BadFile
from curation.input_files import UnsafeFile, open_inside
from curation.intake.archives import check_inside
from curation.intake.pair_rows import LICENCES, SOURCES, PairFiles, files_named, is_pair, read_both, read_pair
from curation.text import storable

MAX_CAPTION = 10_000
MAX_LINE = 1 << 20
MAX_BAD_LINES = 1_000
"""Bad lines of one manifest that are named singly; a file that is no manifest at all has as many as it has lines."""

SPLITS = {"train": Split.train} | dict.fromkeys(("heldout", "test", "val", "validation"), Split.heldout)


@dataclass(frozen=True)
class Description:
    """What is known of one file beside its pixels; None where nothing was said."""

    caption: str | None = None
    licence: str | None = None
    source: str | None = None
    split: Split | None = None


@dataclass(frozen=True)
class BadLine:
    """One line of a manifest that is not followed; `name` is "manifest:line"."""

    name: str
    code: str
    sentence: str


@dataclass
class Listing:
    """The files of a folder by their names inside it: those that a manifest names first, as they are the best known."""

    folder: Path
    link_roots: tuple[Path, ...] = ()  # folders into which symbolic links may lead
    files: list[str] = field(default_factory=list)
    described: dict[str, Description] = field(default_factory=dict)
    pairs: dict[str, PairFiles] = field(default_factory=dict)  # by their foreground, which stands in `files` for them
    bad_lines: list[BadLine] = field(default_factory=list)
    spoken_for: set[str] = field(default_factory=set)  # files of pairs: none is a picture of its own

    def describe(self, name: str) -> Description:
        """What a manifest says of a file, its caption else from a text file beside it, else from its own name."""
        said = self.described.get(name, Description())
        caption = said.caption or self._caption_beside(name) or caption_from_name(name)
        return Description(caption, said.licence, said.source, said.split)

    def open(self, name: str) -> BinaryIO:
        """Open a file of the folder by its name inside it; every reader of the folder opens by this.

        Raises:
            UnsafeFile: It is a link that is not allowed, no regular file, or cannot be read.
        """
        return open_inside(self.folder, name, self.link_roots)

    def _caption_beside(self, name: str) -> str | None:
        beside = PurePosixPath(name).with_suffix(".txt").as_posix()
        try:
            with io.TextIOWrapper(self.open(beside), encoding="utf-8") as file:
                text = file.read(MAX_CAPTION + 1).strip()
        except (UnsafeFile, OSError, ValueError):
            return None
        return text if 0 < len(text) <= MAX_CAPTION and storable(text) else None


def list_folder(folder: Path, link_roots: Iterable[Path] = ()) -> Listing:
    """Read a folder and its manifests (metadata.jsonl first, then other *.jsonl).

    Args:
        folder: The folder to list, with everything below it.
        link_roots: Folders into which symbolic links may lead; without any, links are listed and not followed.
    """
    listing = Listing(folder, tuple(link_roots))
    names = sorted(_walk(listing))
    manifests = [name for name in names if name.lower().endswith(".jsonl") and _opens(listing, name)]
    # A manifest that cannot be opened is listed as a file, so that its refusal is told.
    pictures = sorted(set(names) - set(manifests))
    known = set(pictures)
    for manifest in sorted(manifests, key=lambda name: (PurePosixPath(name).name != "metadata.jsonl", name)):
        try:
            with listing.open(manifest) as file:
                _read_manifest(listing, manifest, file, known)
        except (UnsafeFile, OSError) as error:  # it has changed meanwhile
            listing.bad_lines.append(BadLine(f"{manifest}:0", "unreadable", str(error)))
    stems = {str(PurePosixPath(name).with_suffix("")) for name in pictures if not name.lower().endswith(".txt")}
    beside = {name for name in known if name.lower().endswith(".txt") and name[:-4] in stems} | listing.spoken_for
    listed = [name for name in listing.described if name not in beside or name in listing.pairs]
    listing.files = listed + [name for name in pictures if name not in listing.described and name not in beside]
    return listing


def caption_from_name(name: str) -> str:
    """Words from a file's name: separators become spaces, trailing numbers and what cannot be seen are left out."""
    stem = PurePosixPath(name).stem
    seen = "".join(letter if unicodedata.category(letter)[0] != "C" else " " for letter in stem)
    words = re.sub(r"[\W_]+", " ", seen).strip()
    return re.sub(r"[\s\d]+$", "", words)[:200] or words[:200] or "picture"


def _walk(listing: Listing) -> Iterator[str]:
    """Name everything below the folder that is no folder; hidden entries are left out.

    Links, pipes, sockets, devices and folders that cannot be read are named too, so that their refusal can be told.
    Folders behind links are entered where links may lead into them, each once.
    """
    folders = [""]
    entered = set()
    while folders:
        inside = folders.pop()
        try:
            status = (listing.folder / inside).stat()
            entries = list(os.scandir(listing.folder / inside))
        except OSError as error:
            if not inside:
                raise Refused(f"{listing.folder} cannot be read: {error.strerror}") from error
            yield inside.rstrip("/")
            continue
        if (status.st_dev, status.st_ino) in entered:
            continue
        entered.add((status.st_dev, status.st_ino))
        for entry in entries:
            if entry.name.startswith(".") or entry.name == "__MACOSX":
                continue
            name = inside + entry.name
            if _is_folder(entry, listing.link_roots):
                folders.append(name + "/")
            else:
                yield name


def _opens(listing: Listing, name: str) -> bool:
    try:
        listing.open(name).close()
    except UnsafeFile:
        return False
    return True


def _is_folder(entry: os.DirEntry[str], link_roots: Iterable[Path]) -> bool:
    try:
        if entry.is_symlink():
            target = Path(entry.path).resolve(strict=True)
            return target.is_dir() and any(target.is_relative_to(root.resolve()) for root in link_roots)
        return entry.is_dir(follow_symlinks=False)
    except (OSError, RuntimeError):  # RuntimeError: links in a circle
        return False


def _read_manifest(listing: Listing, manifest: str, file: BinaryIO, known: set[str]) -> None:
    """Take the good lines in; the first line that says something of a file counts, later ones fill what it left out."""
    base = manifest.rpartition("/")[0]
    bad = 0
    for number, line in enumerate(iter(lambda: file.readline(MAX_LINE + 1), b""), 1):
        if not line.strip():
            continue
        try:
            row = _read_row(line)
            if is_pair(row):
                listing.spoken_for |= files_named(row, base)
                pair = read_pair(row, base, known, _text)
                name, said = pair.foreground, _read_said(row, pair.prompt.text)
                listing.pairs.setdefault(name, pair)
            else:
                name, said = _read_line(row, base, known)
        except BadFile as error:
            bad += 1
            if bad <= MAX_BAD_LINES:
                listing.bad_lines.append(BadLine(f"{manifest}:{number}", error.code, error.sentence))
            continue
        before = listing.described.get(name, Description())
        listing.described[name] = Description(
            before.caption or said.caption,
            before.licence or said.licence,
            before.source or said.source,
            before.split or said.split,
        )


def _read_row(line: bytes) -> dict[str, Any]:
    """A manifest's line as an object. Raises BadFile with bad_line."""
    if len(line) > MAX_LINE:
        raise BadFile("bad_line", f"the line is longer than {MAX_LINE:,} bytes")
    try:
        row: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BadFile("bad_line", "the line is not JSON") from error
    if not isinstance(row, dict) or not isinstance(row.get("foreground", row.get("file_name")), str):
        raise BadFile("bad_line", "the line is not an object with a file_name or the files of a pair")
    return row


def _read_line(row: dict[str, Any], base: str, known: set[str]) -> tuple[str, Description]:
    """The file that a row is about, and what it says. Raises BadFile with bad_line or path_traversal."""
    if not isinstance(row.get("file_name"), str):
        raise BadFile("bad_line", "the line is not an object with a file_name or the files of a pair")
    check_inside(row["file_name"])
    name = (PurePosixPath(base) / row["file_name"]).as_posix()
    if name not in known:
        raise BadFile("bad_line", f"there is no file {row['file_name'][:120]!r} in the folder")
    return name, _read_said(row, _text(row, "text", "caption"))


def _read_said(row: dict[str, Any], caption: str | None) -> Description:
    """What a row says beside its files and its caption; licences and sources of two layers are told together."""
    split = _text(row, "split")
    if split is not None and split not in SPLITS:
        raise BadFile("bad_line", f"the split {split[:40]!r} is none of {', '.join(SPLITS)}")
    return Description(
        caption, read_both(row, LICENCES, _text), read_both(row, SOURCES, _text), SPLITS[split] if split else None
    )


def _text(row: dict[str, Any], *keys: str) -> str | None:
    """The first of some keys that is there, verbatim; None for null and for blank text. Raises BadFile."""
    value = next((row[key] for key in keys if row.get(key) is not None), None)
    if value is None:
        return None
    if not isinstance(value, str):
        raise BadFile("bad_line", f"{keys[0]} is {type(value).__name__}, not text")
    if len(value) > MAX_CAPTION:
        raise BadFile("bad_line", f"{keys[0]} has {len(value):,} characters, more than {MAX_CAPTION:,}")
    if not storable(value):
        raise BadFile("bad_line", f"{keys[0]} holds characters that cannot be stored")
    return value if value.strip() else None
