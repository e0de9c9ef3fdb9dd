"""Captions in files of their own, beside the pictures that they describe: which file belongs to which, and its text."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import PurePosixPath
from typing import Any, BinaryIO, Final

from curation.images.headers import BadFile
from curation.text import UnreadableText, decode_text, storable

MAX_CAPTION = 10_000
MAX_CAPTION_BYTES = 4 * MAX_CAPTION + 4
MAX_JSON = 1 << 20
CAPTION_FILES: Final = (".txt", ".caption", ".json")
"""Endings of files that describe the one picture whose name they bear, in any case; the first that says more counts."""
CAPTION_KEYS: Final = ("text", "caption", "prompt", "tags")
"""What a caption is called in metadata; the first that is there counts."""


def caption_files_of(names: Iterable[str], pictures: Iterable[str]) -> dict[str, list[str]]:
    """Return the caption files beside each picture, the one that counts first.

    A file "x.png.txt" belongs to x.png alone and comes before "x.txt", which belongs to every picture called x. Names
    may differ in case where no picture has the very name. A file that else belongs to none belongs to the pictures
    whose names begin like its own up to the first dot, as samples of WebDataset do: "3.txt" to "3.alpha.png".
    """
    exact: dict[str, list[str]] = {}
    loose: dict[str, list[str]] = {}
    keyed: dict[str, list[str]] = {}
    for picture in pictures:
        for form in (picture, str(PurePosixPath(picture).with_suffix(""))):
            exact.setdefault(form, []).append(picture)
            loose.setdefault(form.casefold(), []).append(picture)
        keyed.setdefault(_sample_key(picture), []).append(picture)
    found: dict[str, list[tuple[bool, int, str]]] = {}
    for name in names:
        path = PurePosixPath(name)
        if path.suffix.lower() not in CAPTION_FILES:
            continue
        stem = name[: -len(path.suffix)]
        order = CAPTION_FILES.index(path.suffix.lower())
        for picture in (
            exact.get(stem) or loose.get(stem.casefold()) or keyed.get(_sample_key(name), [])
        ):
            found.setdefault(picture, []).append(
                (picture.casefold() != stem.casefold(), order, name)
            )
    return {picture: [name for *_, name in sorted(files)] for picture, files in found.items()}


def _sample_key(name: str) -> str:
    """Return what WebDataset calls the key of a file: its path up to the first dot of its name."""
    folder, slash, plain = name.rpartition("/")
    return folder + slash + plain.partition(".")[0]


def read_caption_file(
    opening: Callable[[str], BinaryIO], name: str, encoding: str | None
) -> Mapping[str, Any]:
    """Return what a caption file says, as a row of metadata; empty where it is blank.

    A text is one caption: its lines are joined by spaces. Raises BadFile with caption_unreadable, naming the file.
    """
    is_json = name.lower().endswith(".json")
    most = MAX_JSON if is_json else MAX_CAPTION_BYTES
    try:
        with opening(name) as file:
            data = file.read(most + 1)
    except BadFile as error:
        raise unreadable(name, error.sentence) from error
    if len(data) > most:
        raise unreadable(name, f"it is larger than {most:,} bytes" if is_json else _TOO_LONG)
    try:
        text = decode_text(data, encoding)
    except UnreadableText as error:
        way_out = "save it as UTF-8, or name its encoding (such as --encoding gb18030)"
        raise unreadable(name, f"{error.message}; {way_out}") from error
    if is_json:
        return _read_json(name, text)
    caption = " ".join(line for line in (part.strip() for part in text.split("\n")) if line)
    if len(caption) > MAX_CAPTION:
        raise unreadable(name, _TOO_LONG)
    return {"text": caption} if caption else {}


_TOO_LONG = f"it holds more than {MAX_CAPTION:,} characters"


def unreadable(name: str, reason: str) -> BadFile:
    """Return why a picture is held back whose caption file cannot be read."""
    return BadFile("caption_unreadable", f"its caption {name[:200]!r} cannot be read: {reason}")


def _read_json(name: str, text: str) -> Mapping[str, Any]:
    try:
        row: Any = json.loads(text) if text.strip() else {}
    except (ValueError, RecursionError) as error:
        raise unreadable(name, "it is no JSON") from error
    if isinstance(row, str):
        row = {"text": row}
    if not isinstance(row, dict):
        return {}
    captions = {key: row[key] for key in CAPTION_KEYS if key in row}
    # Other programs keep more in such a file: what is no text is not meant for us.
    return captions | {key: said for key, said in row.items() if isinstance(said, str)}


def text_of(row: Mapping[str, Any], *keys: str) -> str | None:
    """Return the first of some keys that is there, verbatim; None for null and for blank text. Raises BadFile."""
    value = next((row[key] for key in keys if row.get(key) is not None), None)
    if value is None:
        return None
    if not isinstance(value, str):
        raise BadFile("bad_line", f"{keys[0]} is {type(value).__name__}, not text")
    if len(value) > MAX_CAPTION:
        raise BadFile(
            "bad_line", f"{keys[0]} has {len(value):,} characters, more than {MAX_CAPTION:,}"
        )
    if not storable(value):
        raise BadFile("bad_line", f"{keys[0]} holds characters that cannot be stored")
    return value if value.strip() else None


def caption_of(row: Mapping[str, Any]) -> str | None:
    """Return the caption in a row of metadata: the first of CAPTION_KEYS that is not blank. Raises BadFile.

    Of several captions in a list the first counts.
    """
    for key in CAPTION_KEYS:
        value = row.get(key)
        first = value[0] if isinstance(value, list) and value else value
        if (text := text_of({key: first}, key)) is not None:
            return text
    return None
