"""Items of an import: files of a listing, members of its archives and rows of its Parquet files."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from curation.image_limits import ImageLimits
from curation.images.headers import InvalidImage
from curation.ingest import archives
from curation.ingest.caption_files import get_caption
from curation.ingest.descriptions import FileMetadata
from curation.ingest.folder_listing import list_tree
from curation.ingest.inspection_result import (
    ImportItem,
    InspectionOutcome,
    InspectionResult,
    LoadedItem,
    refused_result,
)
from curation.ingest.listing import Listing, read_description
from curation.ingest.parquet_process import ParquetTables
from curation.ingest.parquet_rows import is_parquet, name_of_row, split_of_name
from curation.ingest.trees import ArchiveTree, with_unique_names
from curation.input_files import UnsafeFile

HEAD_BYTES = 512
"""Bytes at the start of a file that distinguish an archive from an image."""


class ImportItems:
    """Iterator over the items of a listing, and reader of their bytes."""

    def __init__(
        self, listing: Listing, limits: ImageLimits, on_archive: Callable[[Listing], None]
    ) -> None:
        """Create the items of a listing.

        Args:
            listing: The folder.
            limits: Limits of the images, and of archive members.
            on_archive: Called with the listing of every opened archive.
        """
        self.listing = listing
        self.limits = limits
        self.tell = on_archive
        self.tables = ParquetTables(listing.open)
        self._inner: dict[str, tuple[Listing, str]] = {}

    def where(self, item: ImportItem) -> tuple[Listing, str]:
        """Return the listing that contains an item, and its name there; call it once per item."""
        return self._inner.pop(item.name, (self.listing, item.name))

    def of(self, name: str, index: int) -> Iterator[ImportItem]:
        """Yield the items of one listed file; an error becomes the file's refusal.

        Args:
            name: A file of the listing.
            index: How many files of the listing are reached with it, for the progress.
        """
        pair = self.listing.pairs.get(name)
        files = tuple(filter(None, (name, pair.background, pair.blended))) if pair else (name,)
        item = ImportItem(name, files, "", index)
        # Stamp the files with size and modification time; the last head identifies an archive.
        try:
            stamps = []
            for path in files:
                with self.listing.open(path) as file:
                    status = os.fstat(file.fileno())
                    stamps.append(f"{status.st_size}:{status.st_mtime_ns}")
                    head = file.read(HEAD_BYTES)
            item = replace(item, stamp=" ".join(stamps))
        # Any exception refuses this file and does not stop the import.
        except Exception as error:
            bad = _bad_file(error)
            yield replace(
                item, known=refused_result(name, bad), stamp=self._stamp_of_refused(files, bad)
            )
            return
        if pair is None and is_parquet(head):
            yield from self._parquet_items(item)
        elif pair is not None or archives.archive_kind(head) is None:
            yield item
        else:
            yield from self._archive_items(item)

    def _stamp_of_refused(self, files: Sequence[str], bad: InvalidImage) -> str:
        """Stamp a refused file by its directory entry; "" if it may be readable next time."""
        if bad.code == "unreadable":
            return ""
        folder = Path(self.listing.tree.root)
        stats = [(folder / file).lstat() for file in files if os.path.lexists(folder / file)]
        return " ".join(f"{stat.st_mode}:{stat.st_size}:{stat.st_mtime_ns}" for stat in stats)

    def _archive_items(self, item: ImportItem) -> Iterator[ImportItem]:
        """Yield an archive's images and refused members, and the archive if it has refused ones."""
        try:
            with self.listing.open(item.name) as file:
                members = archives.list_members(file, self.limits.bytes)
        # Any exception refuses this archive and does not stop the import.
        except Exception as error:
            yield replace(item, known=refused_result(item.name, _bad_file(error)))
            return
        # Manifests and caption files inside the archive describe its images.
        tree = ArchiveTree(lambda: self.listing.open(item.name), members, self.limits.bytes)
        inner = list_tree(tree, self.listing.options, f"{item.name}/")
        self.tell(inner)
        for name in inner.files:
            pair = inner.pairs.get(name)
            others = (
                [tree.members[file] for file in (pair.background, pair.blended) if file]
                if pair
                else []
            )
            path = f"{item.name}/{name}"
            self._inner[path] = (inner, name)
            yield replace(item, name=path, member=tree.members[name], others=tuple(others))
        for name, member in with_unique_names(members):
            if member.refusal:
                path = f"{item.name}/{name}"
                yield replace(item, name=path, known=refused_result(path, member.refusal))
        refused = [member.refusal for member in members if member.refusal]
        if refused:
            sentence = f"{len(refused)} of {len(members)} members are refused, each is listed"
            outcome = (
                InspectionOutcome.partial
                if len(refused) < len(members)
                else InspectionOutcome.reject
            )
            yield replace(
                item, known=InspectionResult(item.name, outcome, (refused[0].code,), sentence)
            )

    def _parquet_items(self, item: ImportItem) -> Iterator[ImportItem]:
        """Yield the rows of a Parquet file, described by its columns; a damaged rest is refused."""
        inner = Listing(self.listing.tree, self.listing.options, split_of_name(item.name))
        try:
            for row, image, texts in self.tables.describe(item.name):
                name = name_of_row(row, image)
                path = f"{item.name}/{name}"
                try:
                    description = read_description(texts, get_caption(texts))
                except InvalidImage as bad:
                    description = FileMetadata(refusal=bad)
                # A listing of its own, so that no description outlives its row.
                self._inner[path] = (replace(inner, described={name: description}), name)
                yield replace(item, name=path, row=row)
        # Any exception refuses the rest of this file and does not stop the import.
        except Exception as error:
            yield replace(item, known=refused_result(item.name, _bad_file(error)))

    def load(self, item: ImportItem) -> LoadedItem:
        """Read an item's bytes within the limits; a file that disappeared or changed is refused."""
        if item.known is not None:
            return LoadedItem(item)
        try:
            if item.row is not None:
                image = self.tables.read(item.files[0], item.row, self.limits.bytes)
                return LoadedItem(item, (image,), self.limits)
            parts = []
            for name in item.files:
                with self.listing.open(name) as file:
                    if item.member is None:
                        # A byte more than allowed shows a file that is too large.
                        parts.append(file.read(self.limits.bytes + 1))
                    members = (item.member, *item.others) if item.member else ()
                    parts += [
                        archives.read_member(file, each, self.limits.bytes) for each in members
                    ]
        # MemoryError too: one file must not end the import.
        except Exception as error:
            bad = _bad_file(error)
            stamp = "" if bad.code == "unreadable" else item.stamp
            return LoadedItem(replace(item, known=refused_result(item.name, bad), stamp=stamp))
        return LoadedItem(item, tuple(parts), self.limits)


def _bad_file(error: Exception) -> InvalidImage:
    """Return the refusal of a file whose opening or reading raised an exception."""
    if isinstance(error, InvalidImage):
        return error
    if isinstance(error, UnsafeFile):
        return InvalidImage(error.code, error.message)
    return InvalidImage(
        "unreadable",
        f"the file cannot be read: {getattr(error, 'strerror', None) or type(error).__name__}",
    )
