"""Listing of an image folder: its files, with metadata from manifests, caption files and names."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path, PurePosixPath

from curation.images.headers import InvalidImage
from curation.ingest.archive_members import check_relative_path
from curation.ingest.caption_files import (
    CAPTION_SUFFIXES,
    get_caption,
    get_text,
    match_caption_files,
)
from curation.ingest.descriptions import FileMetadata
from curation.ingest.inspection_result import InspectionOutcome
from curation.ingest.listing import (
    DEFAULT_OPTIONS,
    BadLine,
    Listing,
    ListingOptions,
    read_description,
)
from curation.ingest.manifest_files import (
    PRIMARY_MANIFESTS,
    ManifestRow,
    NotAManifestError,
    is_manifest_name,
    manifest_order,
    read_rows,
)
from curation.ingest.names import NameIndex
from curation.ingest.pair_rows import (
    is_pair,
    pair_file_names,
    read_pair,
)
from curation.ingest.trees import FileTree, FolderTree

MAX_BAD_LINES = 1_000
"""Bad lines per manifest that are reported one by one; a mistaken file may have millions."""


def list_folder(
    folder: Path, link_roots: Iterable[Path] = (), options: ListingOptions = DEFAULT_OPTIONS
) -> Listing:
    """List a folder and read its manifests.

    Args:
        folder: The folder, listed recursively.
        link_roots: Folders into which symbolic links are followed; other links are listed only.
        options: Options for reading the folder.
    """
    return list_tree(FolderTree(folder, link_roots), options)


def list_tree(tree: FileTree, options: ListingOptions, archive_prefix: str = "") -> Listing:
    """List the images of a folder or archive and read its manifests.

    Args:
        tree: The folder or archive.
        options: Options for reading it.
        archive_prefix: Prefix of an archive's members: its own name and a slash.
    """
    listing = Listing(tree, options, archive_prefix)
    # Match the caption files; a JSON file can be one, or a manifest.
    manifests = [name for name in tree.names if is_manifest_name(name)]
    images = [
        name for name in tree.names if not is_manifest_name(name) and not _may_be_caption(name)
    ]
    texts = [name for name in tree.names if _may_be_caption(name)]
    listing.beside = match_caption_files(texts, images)
    used = {name for names in listing.beside.values() for name in names}
    # Read the other JSON and CSV files as manifests; those that are none stay ordinary files.
    index = NameIndex(
        [name for name in tree.names if name not in manifests or name in used], images
    )
    reader = _ManifestReader(listing, index)
    for manifest in sorted(set(manifests) - used, key=manifest_order):
        if reader.read(manifest):
            used.add(manifest)
    # List described files first, so that of duplicates the described one is kept.
    auxiliary = (used | listing.pair_files) - listing.pairs.keys()
    described = [name for name in listing.described if name not in auxiliary]
    listing.files = described + [
        name for name in tree.names if name not in listing.described and name not in auxiliary
    ]
    # A bad line does not matter for a file that another line describes.
    listing.failed = {
        name: bad for name, bad in listing.failed.items() if name not in listing.described
    }
    return listing


def _may_be_caption(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in CAPTION_SUFFIXES


class _ManifestReader:
    """Reader that adds the rows of manifests to a listing.

    The first row with a value for a field of a file wins. Later rows fill missing fields; other
    values are reported as conflicts.
    """

    def __init__(self, listing: Listing, index: NameIndex) -> None:
        self.listing = listing
        self.index = index
        # By file and field, the row that gave its value.
        self.given_by: dict[tuple[str, str], str] = {}

    def read(self, manifest: str) -> bool:
        """Read a manifest; return False for a file that is none or cannot be opened."""
        base = manifest.rpartition("/")[0]
        listing = self.listing
        bad_rows = 0
        names_files = False
        lost = ""
        # Apply its rows. Track whether any names a file, and the first whose text is unreadable.
        try:
            encoding = listing.options.encoding
            known = partial(self._exists, base)
            for row in read_rows(listing.tree.open, manifest, encoding, known):
                bad = self._add_row(row, base)
                names_files = names_files or row.bad is None or row.file is not None
                lost = lost or (row.name if row.lost else "")
                if bad is not None:
                    bad_rows += 1
                    if bad_rows <= MAX_BAD_LINES:
                        listing.bad_lines.append(bad)
        except NotAManifestError:
            return False
        except InvalidImage as bad:
            if bad.code != "manifest_unreadable":
                return False
            listing.refused_folders[base or "."] = bad
            listing.bad_lines.append(BadLine(f"{manifest}:0", bad.code, bad.sentence))
        # A lost row may describe any file of the folder: hold back those that no row describes.
        if lost and (names_files or PurePosixPath(manifest).name.lower() in PRIMARY_MANIFESTS):
            sentence = (
                f"held back, since {lost} cannot be read and may describe it: fix that line "
                "and import again"
            )
            listing.refused_folders.setdefault(base or ".", InvalidImage("held_back", sentence))
        elif (
            bad_rows
            and not names_files
            and PurePosixPath(manifest).name.lower() in PRIMARY_MANIFESTS
        ):
            sentence = f"held back, since no line of {manifest[:200]!r} names a file"
            listing.refused_folders[base or "."] = InvalidImage("manifest_unreadable", sentence)
        return True

    def _add_row(self, row: ManifestRow, base: str) -> BadLine | None:
        """Apply one row; return its error, if it has one."""
        listing = self.listing
        try:
            if row.bad is not None:
                raise row.bad
            if is_pair(row.row):
                name, description = self._add_pair(row, base)
            else:
                name = self.find(base, str(row.file))
                description = read_description(row.row, get_caption(row.row))
        except InvalidImage as bad:
            self._hold_back(row, base, bad)
            outcome = (
                InspectionOutcome.partial
                if bad.code == "line_conflict"
                else InspectionOutcome.reject
            )
            return BadLine(row.name, bad.code, bad.sentence, outcome)
        before = listing.described.get(name, FileMetadata())
        listing.described[name] = before.filled_from(description)
        return self._conflict(name, row.name, before, description)

    def _add_pair(self, row: ManifestRow, base: str) -> tuple[str, FileMetadata]:
        """Add a pair; return its foreground and description. Raises InvalidImage."""
        listing = self.listing
        listing.pair_files |= pair_file_names(row.row, base, self.find)
        pair = read_pair(row.row, base, self.find, get_text)
        name, description = pair.foreground, read_description(row.row, pair.prompt.text)
        if listing.pairs.setdefault(name, pair) != pair:
            first = self.given_by[name, "pair"]
            raise InvalidImage(
                "line_conflict", f"{first} describes another pair of the foreground {name[:120]!r}"
            )
        self.given_by.setdefault((name, "pair"), row.name)
        return name, description

    def _conflict(
        self, name: str, row: str, before: FileMetadata, after: FileMetadata
    ) -> BadLine | None:
        """Record the row of each new value; return the conflict with other rows, if any."""
        conflicts = []
        for field_ in ("caption", "licence", "source", "split"):
            new, old = getattr(after, field_), getattr(before, field_)
            if new is not None and old is None:
                self.given_by[name, field_] = row
            elif new is not None and new != old:
                first = self.given_by.get((name, field_), "another line")
                conflicts.append(f"{field_} differs from that of {first}")
        if not conflicts:
            return None
        sentence = f"of {name[:120]!r} the {', the '.join(conflicts)}, which is used"
        return BadLine(row, "line_conflict", sentence, InspectionOutcome.partial)

    def find(self, base: str, name: str) -> str:
        """Return the file that a name in a manifest refers to.

        Args:
            base: Folder of the manifest.
            name: Path relative to it, or an absolute path inside the listed folder.

        Raises:
            InvalidImage: No file, or several, match the name, or it leads out of the folder.
        """
        root = self.listing.tree.root
        if root and name.startswith(root + "/"):
            return self.index.find(name[len(root) + 1 :])
        check_relative_path(name.replace("\\", "/"))
        return self.index.find((PurePosixPath(base) / name).as_posix())

    def _exists(self, base: str, name: str) -> bool:
        try:
            self.find(base, name)
        except InvalidImage:
            return False
        return True

    def _hold_back(self, row: ManifestRow, base: str, bad: InvalidImage) -> None:
        """Hold back the file of a bad row, instead of importing it without its metadata."""
        if row.file is not None and self._exists(base, row.file) and bad.code != "line_conflict":
            sentence = f"held back, since {row.name} cannot be applied: {bad.sentence}"
            self.listing.failed.setdefault(
                self.find(base, row.file), InvalidImage("held_back", sentence)
            )
