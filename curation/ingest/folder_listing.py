"""A folder of images as a list: every regular file, and what manifests, texts beside files and names say of it."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from curation.domain import CaptionSource, Split
from curation.images.headers import BadFile
from curation.ingest.archives import check_inside
from curation.ingest.caption_files import (
    CAPTION_FILES,
    caption_files_of,
    caption_of,
    read_caption_file,
    text_of,
    unreadable,
)
from curation.ingest.descriptions import Description
from curation.ingest.inspection import Outcome
from curation.ingest.manifest_files import (
    FIRST,
    NoManifest,
    Row,
    is_manifest_name,
    manifest_order,
    read_rows,
)
from curation.ingest.names import NameIndex
from curation.ingest.pair_rows import (
    LICENCES,
    SOURCES,
    PairFiles,
    files_named,
    is_pair,
    read_both,
    read_pair,
)
from curation.ingest.trees import FolderTree, Tree

MAX_BAD_LINES = 1_000
"""Bad lines of one manifest that are named singly; a file that is no manifest at all has as many as it has lines."""

SPLITS = {"train": Split.train, "training": Split.train} | dict.fromkeys(
    ("heldout", "held-out", "held_out", "test", "testing", "val", "valid", "validation"),
    Split.heldout,
)
"""What a split is called, in any case; a model is measured on all but the first two."""


@dataclass(frozen=True)
class Reading:
    """How a folder is read: the encoding of texts without a byte order mark, and what names stand for."""

    encoding: str | None = None
    splits_from_folders: bool = (
        False  # a folder called train or test says the split of what lies in it
    )
    captions_from_names: bool = False  # file names are captions that somebody gave


AS_IT_IS = Reading()


@dataclass(frozen=True)
class BadLine:
    """One line of a manifest that is not, or not all, followed; `name` is "manifest:line"."""

    name: str
    code: str
    sentence: str
    outcome: Outcome = Outcome.reject


@dataclass
class Listing:
    """The files of a folder or archive by their names in it: those that a manifest names first, the best known."""

    tree: Tree
    reading: Reading = AS_IT_IS
    inside: str = (
        ""  # of an archive: its own name and a slash, which the names of its members begin with
    )
    files: list[str] = field(default_factory=list)
    described: dict[str, Description] = field(default_factory=dict)
    pairs: dict[str, PairFiles] = field(
        default_factory=dict
    )  # by their foreground, which stands in `files` for them
    bad_lines: list[BadLine] = field(default_factory=list)
    spoken_for: set[str] = field(
        default_factory=set
    )  # files of pairs: none is a picture of its own
    beside: dict[str, list[str]] = field(default_factory=dict)  # the caption files of each picture
    failed: dict[str, BadFile] = field(default_factory=dict)  # files whose lines cannot be followed
    unread: dict[str, BadFile] = field(
        default_factory=dict
    )  # folders whose manifests cannot be read

    def open(self, name: str) -> BinaryIO:
        """Open a file by its name; every reader of the folder opens by this. Raises BadFile."""
        return self.tree.open(name)

    def describe(self, name: str) -> Description:
        """Return what a manifest says of a file, its caption else from a file beside it, else from its own name.

        Where something is said of it that cannot be read, and nothing else describes it, the description has a
        `refusal`: the file is held back, and no caption made up.
        """
        said = self.described.get(name)
        if said is None and (bad := self._bad_description(name)):
            return Description(refusal=bad)
        said = said or Description()
        try:
            for file in self.beside.get(name, []) if not said.caption else []:
                said = _merge(said, self._read_beside(file))
                if said.caption:
                    break
        except BadFile as bad:
            return Description(refusal=bad)
        if not said.caption:
            source = (
                CaptionSource.given if self.reading.captions_from_names else CaptionSource.file_name
            )
            said = replace(said, caption=caption_from_name(name), caption_source=source)
        if said.split is None and self.reading.splits_from_folders:
            said = replace(said, split=next(iter(self.splits_of(name).values()), None))
        pair = self.pairs.get(name)
        return replace(said, texts=pair.prompt.texts) if pair else said

    def _read_beside(self, file: str) -> Description:
        """Return what a caption file says. Raises BadFile with caption_unreadable."""
        row = read_caption_file(self.tree.open, file, self.reading.encoding)
        try:
            return _read_said(row, caption_of(row))
        except BadFile as bad:
            raise unreadable(file, bad.sentence) from bad

    def splits_of(self, name: str) -> dict[str, Split]:
        """Return the folders of a file that are called like a split, the innermost first; an archive is a folder."""
        folders = (self.inside + name).split("/")[:-1]
        plain = [
            re.sub(r"([-_.]?\d+)*(\.(zip|tar))?$", "", folder, flags=re.IGNORECASE).lower()
            for folder in folders
        ]
        found = [
            (folder, SPLITS[said])
            for folder, said in zip(folders, plain, strict=True)
            if said in SPLITS
        ]
        return dict(reversed(found))

    def _bad_description(self, name: str) -> BadFile | None:
        """Return why nothing can be read of what is said of a file, if something is."""
        if name in self.failed:
            return self.failed[name]
        folders = [str(folder) for folder in PurePosixPath(name).parents] if self.unread else []
        return next((self.unread[folder] for folder in folders if folder in self.unread), None)


def list_folder(
    folder: Path, link_roots: Iterable[Path] = (), reading: Reading = AS_IT_IS
) -> Listing:
    """Read a folder and its manifests.

    Args:
        folder: The folder to list, with everything below it.
        link_roots: Folders into which symbolic links may lead; without any, links are listed and not followed.
        reading: How texts are decoded and what names stand for.
    """
    return list_tree(FolderTree(folder, link_roots), reading)


def list_tree(tree: Tree, reading: Reading, inside: str = "") -> Listing:
    """Read what lies in a folder or an archive: pictures, the manifests and caption files that describe them."""
    listing = Listing(tree, reading, inside)
    manifests = [name for name in tree.names if is_manifest_name(name)]
    pictures = [
        name for name in tree.names if not is_manifest_name(name) and not _may_be_caption(name)
    ]
    texts = [name for name in tree.names if _may_be_caption(name)]
    listing.beside = caption_files_of(texts, pictures)
    used = {name for names in listing.beside.values() for name in names}
    index = NameIndex(
        [name for name in tree.names if name not in manifests or name in used], pictures
    )
    reader = _ManifestReader(listing, index)
    for manifest in sorted(set(manifests) - used, key=manifest_order):
        if reader.read(manifest):
            used.add(manifest)
    beside = (used | listing.spoken_for) - listing.pairs.keys()
    listed = [name for name in listing.described if name not in beside]
    listing.files = listed + [
        name for name in tree.names if name not in listing.described and name not in beside
    ]
    listing.failed = {
        name: bad for name, bad in listing.failed.items() if name not in listing.described
    }
    return listing


def caption_from_name(name: str) -> str:
    """Words from a file's name: separators become spaces, trailing numbers and what cannot be seen are left out."""
    stem = PurePosixPath(name).stem
    seen = "".join(letter if unicodedata.category(letter)[0] != "C" else " " for letter in stem)
    words = re.sub(r"[\W_]+", " ", seen).strip()
    return re.sub(r"[\s\d]+$", "", words)[:200] or words[:200] or "picture"


def _may_be_caption(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in CAPTION_FILES


class _ManifestReader:
    """Takes the rows of manifests into a listing: the first that says something of a file counts.

    Later ones fill what it left out; where they say otherwise, that is told.
    """

    def __init__(self, listing: Listing, index: NameIndex) -> None:
        self.listing = listing
        self.index = index
        self.said_by: dict[tuple[str, str], str] = {}  # the row that said a field of a file

    def read(self, manifest: str) -> bool:
        """Take a manifest in; returns whether it is one. One that cannot be opened is listed, to be refused."""
        base = manifest.rpartition("/")[0]
        listing, bad_rows, told, lost = self.listing, 0, False, ""
        try:
            for row in read_rows(
                listing.tree.open,
                manifest,
                listing.reading.encoding,
                lambda key: self._is(base, key),
            ):
                bad = self._take(row, base)
                told = told or row.bad is None or row.file is not None
                lost = lost or (row.name if row.lost else "")
                if bad is not None:
                    bad_rows += 1
                    if bad_rows <= MAX_BAD_LINES:
                        listing.bad_lines.append(bad)
        except NoManifest:
            return False
        except BadFile as bad:
            if bad.code != "manifest_unreadable":
                return False
            listing.unread[base or "."] = bad
            listing.bad_lines.append(BadLine(f"{manifest}:0", bad.code, bad.sentence))
        if lost and (told or PurePosixPath(manifest).name.lower() in FIRST):
            sentence = f"held back, since {lost} cannot be read and may describe it: mend that, and import again"
            listing.unread.setdefault(base or ".", BadFile("held_back", sentence))
        elif bad_rows and not told and PurePosixPath(manifest).name.lower() in FIRST:
            sentence = f"held back, since none of the lines of {manifest[:200]!r} tells which file it is about"
            listing.unread[base or "."] = BadFile("manifest_unreadable", sentence)
        return True

    def _take(self, row: Row, base: str) -> BadLine | None:
        """Take one row in; returns what is wrong with it, if anything is."""
        listing = self.listing
        try:
            if row.bad is not None:
                raise row.bad
            if is_pair(row.row):
                name, said = self._take_pair(row, base)
            else:
                name = self.find(base, str(row.file))
                said = _read_said(row.row, caption_of(row.row))
        except BadFile as bad:
            self._hold_back(row, base, bad)
            outcome = Outcome.partial if bad.code == "line_conflict" else Outcome.reject
            return BadLine(row.name, bad.code, bad.sentence, outcome)
        before = listing.described.get(name, Description())
        listing.described[name] = _merge(before, said)
        return self._conflict(name, row.name, before, said)

    def _take_pair(self, row: Row, base: str) -> tuple[str, Description]:
        """Take in the files of a pair; returns its foreground and what is said of it. Raises BadFile."""
        listing = self.listing
        listing.spoken_for |= files_named(row.row, base, self.find)
        pair = read_pair(row.row, base, self.find, text_of)
        name, said = pair.foreground, _read_said(row.row, pair.prompt.text)
        if listing.pairs.setdefault(name, pair) != pair:
            first = self.said_by[name, "pair"]
            raise BadFile(
                "line_conflict", f"{first} describes another pair of the foreground {name[:120]!r}"
            )
        self.said_by.setdefault((name, "pair"), row.name)
        return name, said

    def _conflict(
        self, name: str, row: str, before: Description, said: Description
    ) -> BadLine | None:
        """Remember who said what; returns which fields another row said otherwise, if any did."""
        told = []
        for field_ in ("caption", "licence", "source", "split"):
            now, then = getattr(said, field_), getattr(before, field_)
            if now is not None and then is None:
                self.said_by[name, field_] = row
            elif now is not None and now != then:
                told.append(
                    f"{field_} differs from that of {self.said_by.get((name, field_), 'another line')}"
                )
        if not told:
            return None
        sentence = f"of {name[:120]!r} the {', the '.join(told)}, which counts"
        return BadLine(row, "line_conflict", sentence, Outcome.partial)

    def find(self, base: str, name: str) -> str:
        """Return the file that a manifest in the folder `base` means. Raises BadFile."""
        root = self.listing.tree.root
        if root and name.startswith(root + "/"):
            return self.index.find(name[len(root) + 1 :])
        check_inside(name.replace("\\", "/"))
        return self.index.find((PurePosixPath(base) / name).as_posix())

    def _is(self, base: str, name: str) -> bool:
        try:
            self.find(base, name)
        except BadFile:
            return False
        return True

    def _hold_back(self, row: Row, base: str, bad: BadFile) -> None:
        """Keep the one file that a bad row is about from being imported as if nothing were said of it."""
        if row.file is not None and self._is(base, row.file) and bad.code != "line_conflict":
            sentence = f"held back, since {row.name} cannot be followed: {bad.sentence}"
            self.listing.failed.setdefault(
                self.find(base, row.file), BadFile("held_back", sentence)
            )


def _merge(before: Description, said: Description) -> Description:
    """Return the first description, its gaps filled by the second."""
    return Description(
        before.caption or said.caption,
        CaptionSource.given,
        before.licence or said.licence,
        before.source or said.source,
        before.split or said.split,
        before.texts or said.texts,
    )


def _read_said(row: Any, caption: str | None) -> Description:
    """What a row says beside its files; licences and sources of two layers are told together. Raises BadFile."""
    split = text_of(row, "split")
    plain = split.strip().lower() if split else ""
    if split is not None and plain not in SPLITS:
        raise BadFile("bad_line", f"the split {split[:40]!r} is none of {', '.join(SPLITS)}")
    return Description(
        caption=caption,
        licence=read_both(row, LICENCES, text_of),
        source=read_both(row, SOURCES, text_of),
        split=SPLITS[plain] if split else None,
    )
