"""The files of an import, with their metadata and the manifest lines that could not be read."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any, BinaryIO

from curation.domain import CaptionSource, Split
from curation.images.headers import InvalidImage
from curation.ingest.caption_files import (
    caption_from_name,
    get_caption,
    get_text,
    read_caption_file,
    unreadable_caption,
)
from curation.ingest.descriptions import FileMetadata
from curation.ingest.inspection_result import InspectionOutcome
from curation.ingest.pair_rows import (
    LICENSE_KEYS,
    SOURCE_KEYS,
    PairFiles,
    read_pair_field,
)
from curation.ingest.trees import FileTree

SPLIT_NAMES = {"train": Split.train, "training": Split.train} | dict.fromkeys(
    ("heldout", "held-out", "held_out", "test", "testing", "val", "valid", "validation"),
    Split.heldout,
)
"""Names of splits, in any case; all but the first two mean held out."""


@dataclass(frozen=True)
class ListingOptions:
    """Options for reading a folder.

    Attributes:
        encoding: Encoding of text without a byte order mark; None for UTF-8.
        splits_from_folders: Whether a folder name such as "train" or "test" sets the split.
        captions_from_names: Whether file names count as given captions.
        licence: Licence of files whose metadata states none.
        source: Source of files whose metadata states none.
        accept_unknown: Whether files without a licence or a source are imported; otherwise they are
            held back.
    """

    encoding: str | None = None
    splits_from_folders: bool = False
    captions_from_names: bool = False
    licence: str | None = None
    source: str | None = None
    accept_unknown: bool = True


DEFAULT_OPTIONS = ListingOptions()

NO_RIGHTS = "rights_missing"
"""Code of a file that is held back since its licence or its source is not stated."""


@dataclass(frozen=True)
class BadLine:
    """A manifest line that is not, or only partly, applied; `name` is "manifest:line"."""

    name: str
    code: str
    sentence: str
    outcome: InspectionOutcome = InspectionOutcome.reject


@dataclass
class Listing:
    """The files of a folder or archive, with their metadata.

    Attributes:
        tree: The folder or archive.
        options: The options it was read with.
        inside: Prefix of an archive's members: its own name and a slash.
        files: Names of the files to inspect, those in manifests first.
        described: Metadata from manifests, by file.
        pairs: Pairs by their foreground, which represents them in `files`.
        bad_lines: Manifest lines that were not applied.
        pair_files: Files that belong to pairs and are not images of their own.
        beside: Caption files of each image.
        failed: Refusals of files whose manifest line cannot be applied.
        refused_folders: Refusals of all files in a folder whose manifest cannot be read, by folder.
    """

    tree: FileTree
    options: ListingOptions = DEFAULT_OPTIONS
    inside: str = ""
    files: list[str] = field(default_factory=list)
    described: dict[str, FileMetadata] = field(default_factory=dict)
    pairs: dict[str, PairFiles] = field(default_factory=dict)
    bad_lines: list[BadLine] = field(default_factory=list)
    pair_files: set[str] = field(default_factory=set)
    beside: dict[str, list[str]] = field(default_factory=dict)
    failed: dict[str, InvalidImage] = field(default_factory=dict)
    refused_folders: dict[str, InvalidImage] = field(default_factory=dict)

    def open(self, name: str) -> BinaryIO:
        """Open a file by its name; all reads of the folder go through this method.

        Raises:
            InvalidImage: The file is refused.
        """
        return self.tree.open(name)

    def describe(self, name: str) -> FileMetadata:
        """Return the description of a file: from a manifest, else a caption file, else its name.

        A file whose metadata cannot be read, and that nothing else describes, gets a description
        with a `refusal`: it is held back instead of imported with a made-up caption.
        """
        description = self.described.get(name)
        if description is not None and description.refusal is not None:
            return description
        if description is None and (bad := self._bad_description(name)):
            return FileMetadata(refusal=bad)
        description = description or FileMetadata()
        # Caption files fill the gaps of the manifest, until there is a caption.
        try:
            for file in self.beside.get(name, []) if not description.caption else []:
                description = description.filled_from(self._read_caption_file(file))
                if description.caption:
                    break
        except InvalidImage as bad:
            return FileMetadata(refusal=bad)
        # The names of the file and its folders come last.
        if not description.caption:
            given = self.options.captions_from_names
            source = CaptionSource.given if given else CaptionSource.file_name
            caption = caption_from_name(name)
            description = replace(description, caption=caption, caption_source=source)
        if description.split is None and self.options.splits_from_folders:
            split = next(iter(self.folder_splits(name).values()), None)
            description = replace(description, split=split)
        description = self._with_rights(description)
        pair = self.pairs.get(name)
        return replace(description, texts=pair.prompt.texts) if pair else description

    def _with_rights(self, description: FileMetadata) -> FileMetadata:
        """Fill in licence and source from the options, or hold back a file without them."""
        licence = description.licence or self.options.licence
        source = description.source or self.options.source
        if self.options.accept_unknown or (licence and source):
            return replace(description, licence=licence, source=source)
        absent = " and ".join(
            name for name, value in (("licence", licence), ("source", source)) if not value
        )
        return FileMetadata(refusal=InvalidImage(NO_RIGHTS, f"its metadata states no {absent}"))

    def _read_caption_file(self, file: str) -> FileMetadata:
        """Read a caption file. Raises InvalidImage with caption_unreadable."""
        row = read_caption_file(self.tree.open, file, self.options.encoding)
        try:
            return read_description(row, get_caption(row))
        except InvalidImage as bad:
            raise unreadable_caption(file, bad.sentence) from bad

    def folder_splits(self, name: str) -> dict[str, Split]:
        """Return the folders of a file that are named like a split, innermost first.

        An archive counts as a folder; a trailing number is ignored, as in "train_01.tar".
        """
        suffix = re.compile(r"([-_.]?\d+)*(\.(zip|tar))?$", re.IGNORECASE)
        folders = (self.inside + name).split("/")[:-1]
        stems = [suffix.sub("", folder).lower() for folder in folders]
        both = zip(folders, stems, strict=True)
        found = [(folder, SPLIT_NAMES[stem]) for folder, stem in both if stem in SPLIT_NAMES]
        return dict(reversed(found))

    def _bad_description(self, name: str) -> InvalidImage | None:
        """Return why the metadata of a file cannot be read, or None if there is no problem."""
        if name in self.failed:
            return self.failed[name]
        folders = (
            [str(folder) for folder in PurePosixPath(name).parents] if self.refused_folders else []
        )
        return next(
            (self.refused_folders[folder] for folder in folders if folder in self.refused_folders),
            None,
        )


def read_description(row: Any, caption: str | None) -> FileMetadata:
    """Read license, source and split of a row, combined over its layers. Raises InvalidImage."""
    split = get_text(row, "split")
    normalized = split.strip().lower() if split else ""
    if split is not None and normalized not in SPLIT_NAMES:
        raise InvalidImage(
            "bad_line", f"the split {split[:40]!r} is not one of {', '.join(SPLIT_NAMES)}"
        )
    return FileMetadata(
        caption=caption,
        licence=read_pair_field(row, LICENSE_KEYS, get_text),
        source=read_pair_field(row, SOURCE_KEYS, get_text),
        split=SPLIT_NAMES[normalized] if split else None,
    )
