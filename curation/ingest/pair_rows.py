"""Manifest rows that describe a pair: three files and three texts, under several common keys."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from curation.domain import LayerRole, Prompt
from curation.images.headers import InvalidImage

FILE_KEYS: Final = {
    LayerRole.foreground: ("foreground",),
    LayerRole.background: ("background",),
    LayerRole.blended: ("blended", "composite"),
}
TEXT_KEYS: Final = {
    LayerRole.foreground: ("text_foreground", "prompt_foreground"),
    LayerRole.background: ("text_background", "prompt_background"),
    LayerRole.blended: ("text", "caption", "prompt_blended", "prompt_composite"),
}
LICENSE_KEYS: Final = (
    ("licence", "license"),
    ("fg_licence", "licence_foreground"),
    ("bg_licence", "licence_background"),
)
SOURCE_KEYS: Final = (
    ("source",),
    ("fg_source", "source_foreground"),
    ("bg_source", "source_background"),
)
DERIVED_FILE_KEYS: Final = ("alpha", "matte", "trimap", "mask")
"""Keys of further files that are derived from the same image and not imported on their own."""

ReadText = Callable[..., str | None]
"""Returns the text of the first present key of a row; raises InvalidImage."""
FindFile = Callable[[str, str], str]
"""Returns the file for a manifest's folder and a name in the manifest; raises InvalidImage."""


@dataclass(frozen=True)
class PairFiles:
    """Files of a pair by their names in the folder; a missing blended image is composited."""

    foreground: str
    background: str
    blended: str | None
    prompt: Prompt


def is_pair(row: Mapping[str, Any]) -> bool:
    """Return whether a manifest row describes a pair rather than one file."""
    return "foreground" in row and "file_name" not in row


def pair_file_names(row: Mapping[str, Any], base: str, find: FindFile) -> set[str]:
    """Return the existing files that a pair's row names; none is imported as a separate image.

    Args:
        row: A manifest row.
        base: Folder of the manifest.
        find: Returns the file that a name refers to.
    """
    keys = [key for keys in FILE_KEYS.values() for key in keys] + list(DERIVED_FILE_KEYS)
    found = set()
    for name in (row[key] for key in keys if isinstance(row.get(key), str)):
        with suppress(InvalidImage):
            found.add(find(base, name))
    return found


def read_pair(row: Mapping[str, Any], base: str, find: FindFile, text: ReadText) -> PairFiles:
    """Read the files and texts of a pair.

    Args:
        row: A manifest row.
        base: Folder of the manifest.
        find: Returns the file that a name refers to.
        text: Returns the text of the first present key.

    Raises:
        InvalidImage: A file or text is missing or invalid (code "pair_incomplete", "path_traversal"
            or "bad_line").
    """
    names: dict[LayerRole, str] = {}
    for role, keys in FILE_KEYS.items():
        name = next((row[key] for key in keys if row.get(key) is not None), None)
        if name is None:
            continue
        if not isinstance(name, str):
            raise InvalidImage("bad_line", f"{keys[0]} is {type(name).__name__}, not a file name")
        names[role] = find(base, name)
    if LayerRole.background not in names:
        raise InvalidImage("pair_incomplete", "the pair has no background")
    if len(set(names.values())) < len(names):
        raise InvalidImage("bad_line", "the same file is given for two layers")
    # Each layer needs a text of its own; that of the blended image is the caption of the pair.
    texts = {role: text(row, *keys) for role, keys in TEXT_KEYS.items()}
    missing = next((role for role in LayerRole if not texts[role]), None)
    if missing is not None:
        raise InvalidImage("pair_incomplete", f"the pair has no {TEXT_KEYS[missing][0]}")
    whole, front, back = (
        texts[role] for role in (LayerRole.blended, LayerRole.foreground, LayerRole.background)
    )
    return PairFiles(
        names[LayerRole.foreground],
        names[LayerRole.background],
        names.get(LayerRole.blended),
        Prompt(str(whole), front, back),
    )


def read_pair_field(
    row: Mapping[str, Any], keys: tuple[tuple[str, ...], ...], text: ReadText
) -> str | None:
    """Return the license or source of a pair: one for all, or those of both layers.

    Args:
        row: A manifest row.
        keys: Alternative keys for the whole pair, the foreground and the background.
        text: Returns the text of the first present key.

    Returns:
        The text, or None if it is missing for the pair and for one of its layers.
    """
    whole, front, back = (text(row, *names) for names in keys)
    if whole is not None or front is None or back is None:
        return whole
    back = front if back == "same" else back
    return front if front == back else f"foreground: {front}; background: {back}"
