"""Rows of a manifest that name a pair: its files and its three texts, in our words and in those of others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from curation.domain import LayerRole, Prompt
from curation.images.headers import BadFile

FILES: Final = {
    LayerRole.foreground: ("foreground",),
    LayerRole.background: ("background",),
    LayerRole.blended: ("blended", "composite"),
}
TEXTS: Final = {
    LayerRole.foreground: ("text_foreground", "prompt_foreground"),
    LayerRole.background: ("text_background", "prompt_background"),
    LayerRole.blended: ("text", "caption", "prompt_blended", "prompt_composite"),
}
LICENCES: Final = (
    ("licence", "license"),
    ("fg_licence", "licence_foreground"),
    ("bg_licence", "licence_background"),
)
SOURCES: Final = (
    ("source",),
    ("fg_source", "source_foreground"),
    ("bg_source", "source_background"),
)
OTHER_FILES: Final = ("alpha", "matte", "trimap", "mask")
"""What may be named beside the layers: made of the same picture, and no picture of its own."""

ReadText = Callable[..., str | None]
FindFile = Callable[[str, str], str]
"""The file that a name means, which a manifest in a folder gives; raises BadFile."""


@dataclass(frozen=True)
class PairFiles:
    """The files of a pair by their names inside the folder; without a blended one it is made of the others."""

    foreground: str
    background: str
    blended: str | None
    prompt: Prompt


def is_pair(row: Mapping[str, Any]) -> bool:
    """Whether a manifest's row is about a pair and not about one file."""
    return "foreground" in row and "file_name" not in row


def files_named(row: Mapping[str, Any], base: str, find: FindFile) -> set[str]:
    """Every file that a pair's row speaks of, good or not: none of them is a picture of its own."""
    keys = [key for keys in FILES.values() for key in keys] + list(OTHER_FILES)
    found = set()
    for name in (row[key] for key in keys if isinstance(row.get(key), str)):
        with suppress(BadFile):
            found.add(find(base, name))
    return found


def read_pair(row: Mapping[str, Any], base: str, find: FindFile, text: ReadText) -> PairFiles:
    """The files and texts of a pair. Raises BadFile with pair_incomplete, path_traversal or bad_line."""
    names: dict[LayerRole, str] = {}
    for role, keys in FILES.items():
        name = next((row[key] for key in keys if row.get(key) is not None), None)
        if name is None:
            continue
        if not isinstance(name, str):
            raise BadFile("bad_line", f"{keys[0]} is {type(name).__name__}, not the name of a file")
        names[role] = find(base, name)
    if LayerRole.background not in names:
        raise BadFile("pair_incomplete", "the pair has no background")
    if len(set(names.values())) < len(names):
        raise BadFile("bad_line", "one file is named for two layers")
    texts = {role: text(row, *keys) for role, keys in TEXTS.items()}
    missing = next((role for role in LayerRole if not texts[role]), None)
    if missing is not None:
        raise BadFile("pair_incomplete", f"the pair has no {TEXTS[missing][0]}")
    whole, front, back = (
        texts[role] for role in (LayerRole.blended, LayerRole.foreground, LayerRole.background)
    )
    return PairFiles(
        names[LayerRole.foreground],
        names[LayerRole.background],
        names.get(LayerRole.blended),
        Prompt(str(whole), front, back),
    )


def read_both(
    row: Mapping[str, Any], keys: tuple[tuple[str, ...], ...], text: ReadText
) -> str | None:
    """A licence or source of the whole pair, or of both layers where they differ; None where any is not told."""
    whole, front, back = (text(row, *names) for names in keys)
    if whole is not None or front is None or back is None:
        return whole
    back = front if back == "same" else back
    return front if front == back else f"foreground: {front}; background: {back}"
