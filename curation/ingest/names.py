"""Lookup of files by names from a manifest, tolerant of Unicode form, separators and case."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from pathlib import PurePosixPath

from curation.images.headers import InvalidImage


class NameIndex:
    """Index of the file names of a folder.

    A name matches exactly, else in NFC with forward or backward slashes, else in any case, else
    without suffix. A match of several files is an error.
    """

    def __init__(self, names: Iterable[str], images: Iterable[str]) -> None:
        """Build the index.

        Args:
            names: All files.
            images: The images, which are found by their stem as well.
        """
        self.names = frozenset(names)
        # By normalized name, by the same without case, and by normalized stem.
        self._normalized: list[dict[str, list[str]]] = [{}, {}, {}]
        for name in self.names:
            self._normalized[0].setdefault(_normalize(name), []).append(name)
            self._normalized[1].setdefault(_normalize(name).casefold(), []).append(name)
        for name in images:
            stem = _normalize(str(PurePosixPath(name).with_suffix("")))
            self._normalized[2].setdefault(stem, []).append(name)

    def find(self, name: str) -> str:
        """Return the file that a name refers to.

        Raises:
            InvalidImage: No file, or more than one, matches (code "bad_line").
        """
        if name in self.names:
            return name
        plain = PurePosixPath(_normalize(name)).as_posix()
        for table, form in zip(self._normalized, (plain, plain.casefold(), plain), strict=True):
            found = table.get(form, [])
            if len(found) > 1:
                several = ", ".join(sorted(found)[:3])
                raise InvalidImage(
                    "bad_line",
                    f"the name {name[:120]!r} matches {len(found)} files: {several[:200]}",
                )
            if found:
                return found[0]
        raise InvalidImage("bad_line", f"there is no file {name[:120]!r} in the folder")


def _normalize(name: str) -> str:
    return unicodedata.normalize("NFC", name.replace("\\", "/"))
