"""Find files by names that were written down elsewhere: on another system, in another form of Unicode or case."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from pathlib import PurePosixPath

from curation.images.headers import BadFile


class NameIndex:
    """The names of a folder's files, found exactly, else in NFC with slashes either way, else in any case.

    A name without extension finds the one file of that stem. Where a looser form fits several files, none is taken.
    """

    def __init__(self, names: Iterable[str], pictures: Iterable[str]) -> None:
        """names: every file that may be meant; pictures: those that a name without extension may mean."""
        self.names = frozenset(names)
        self._looser: list[dict[str, list[str]]] = [{}, {}, {}]
        for name in self.names:
            self._looser[0].setdefault(_plain(name), []).append(name)
            self._looser[1].setdefault(_plain(name).casefold(), []).append(name)
        for name in pictures:
            self._looser[2].setdefault(_plain(str(PurePosixPath(name).with_suffix(""))), []).append(
                name
            )

    def find(self, name: str) -> str:
        """Return the file that a name means. Raises BadFile with bad_line where none or several are meant."""
        if name in self.names:
            return name
        plain = PurePosixPath(_plain(name)).as_posix()
        for table, form in zip(self._looser, (plain, plain.casefold(), plain), strict=True):
            found = table.get(form, [])
            if len(found) > 1:
                several = ", ".join(sorted(found)[:3])
                raise BadFile(
                    "bad_line", f"the name {name[:120]!r} fits {len(found)} files: {several[:200]}"
                )
            if found:
                return found[0]
        raise BadFile("bad_line", f"there is no file {name[:120]!r} in the folder")


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", name.replace("\\", "/"))
