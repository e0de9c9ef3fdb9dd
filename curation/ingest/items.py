"""The files of a listing as items to be judged: stamped, archives opened, and their bytes read within bounds."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from curation.image_limits import Limits
from curation.images.headers import BadFile
from curation.ingest import archives
from curation.ingest.folder_listing import Listing, list_tree
from curation.ingest.inspection import Intake, Item, Loaded, Outcome, refuse
from curation.ingest.trees import ArchiveTree, distinct
from curation.input_files import UnsafeFile

HEAD = 512
"""Bytes at the head of a file that tell an archive from an image."""


class Items:
    """Names what is to be judged of a listing, and reads it."""

    def __init__(self, listing: Listing, limits: Limits, tell: Callable[[Listing], None]) -> None:
        """tell: hears the listing of every archive that was opened."""
        self.listing = listing
        self.limits = limits
        self.tell = tell
        self._inner: dict[str, tuple[Listing, str]] = {}

    def where(self, item: Item) -> tuple[Listing, str]:
        """Return the listing that an item stands in, and its name there; asked once for each."""
        return self._inner.pop(item.name, (self.listing, item.name))

    def of(self, name: str, place: int) -> Iterator[Item]:
        """Name what is to be judged of one listed file; whatever goes wrong with it is its refusal."""
        pair = self.listing.pairs.get(name)
        files = (
            tuple(one for one in (name, pair.background, pair.blended) if one) if pair else (name,)
        )
        item = Item(name, files, "", place)
        try:
            stamps = []
            for one in files:
                with self.listing.open(one) as file:
                    status = os.fstat(file.fileno())
                    stamps.append(f"{status.st_size}:{status.st_mtime_ns}")
                    head = file.read(HEAD)
            item = replace(item, stamp=" ".join(stamps))
        except Exception as error:  # whatever one file raises is its own refusal
            bad = _bad_file(error)
            yield replace(item, known=refuse(name, bad), stamp=self._stamp_of_refused(files, bad))
            return
        if pair is not None or archives.archive_kind(head) is None:
            yield item
        else:
            yield from self._archive_items(item)

    def _stamp_of_refused(self, files: Sequence[str], bad: BadFile) -> str:
        """Stamp a file that is not opened by its own entry; none for what may be readable the next time."""
        if bad.code == "unreadable":
            return ""
        folder = Path(self.listing.tree.root)
        status = [(folder / one).lstat() for one in files if os.path.lexists(folder / one)]
        return " ".join(f"{one.st_mode}:{one.st_size}:{one.st_mtime_ns}" for one in status)

    def _archive_items(self, item: Item) -> Iterator[Item]:
        """Name what an archive holds, its texts and metadata read; last the archive itself where some is refused."""
        try:
            with self.listing.open(item.name) as file:
                members = archives.list_members(file, self.limits.bytes)
        except Exception as error:  # as above
            yield replace(item, known=refuse(item.name, _bad_file(error)))
            return
        tree = ArchiveTree(lambda: self.listing.open(item.name), members, self.limits.bytes)
        inner = list_tree(tree, self.listing.reading, f"{item.name}/")
        self.tell(inner)
        for name in inner.files:
            pair = inner.pairs.get(name)
            others = (
                [tree.members[one] for one in (pair.background, pair.blended) if one]
                if pair
                else []
            )
            whole = f"{item.name}/{name}"
            self._inner[whole] = (inner, name)
            yield replace(item, name=whole, member=tree.members[name], others=tuple(others))
        for name, member in distinct(members):
            if member.refusal:
                whole = f"{item.name}/{name}"
                yield replace(item, name=whole, known=refuse(whole, member.refusal))
        refused = [member.refusal for member in members if member.refusal]
        if refused:
            sentence = f"{len(refused)} of {len(members)} members are refused, each is named"
            outcome = Outcome.partial if len(refused) < len(members) else Outcome.reject
            yield replace(item, known=Intake(item.name, outcome, (refused[0].code,), sentence))

    def load(self, item: Item) -> Loaded:
        """Read an item's bytes, never more than allowed; a file that has gone or changed meanwhile is refused."""
        if item.known is not None:
            return Loaded(item)
        try:
            parts = []
            for name in item.files:
                with self.listing.open(name) as file:
                    if item.member is None:
                        parts.append(file.read(self.limits.bytes + 1))
                    members = (item.member, *item.others) if item.member else ()
                    parts += [archives.read_member(file, one, self.limits.bytes) for one in members]
        except Exception as error:  # also MemoryError: one file is no reason to end an import
            bad = _bad_file(error)
            stamp = "" if bad.code == "unreadable" else item.stamp
            return Loaded(replace(item, known=refuse(item.name, bad), stamp=stamp))
        return Loaded(item, tuple(parts), self.limits)


def _bad_file(error: Exception) -> BadFile:
    """Say of anything that opening or reading a file raised why the file is refused."""
    if isinstance(error, BadFile):
        return error
    if isinstance(error, UnsafeFile):
        return BadFile(error.code, error.message)
    return BadFile(
        "unreadable",
        f"the file cannot be read: {getattr(error, 'strerror', None) or type(error).__name__}",
    )
