"""Caption files: match them to the images that they describe and read their text."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from pathlib import PurePosixPath
from typing import Any, BinaryIO, Final

from curation.images.headers import InvalidImage
from curation.text import UnreadableText, decode_text, is_storable

MAX_CAPTION = 10_000
MAX_CAPTION_BYTES = 4 * MAX_CAPTION + 4
MAX_JSON = 1 << 20
CAPTION_SUFFIXES: Final = (".txt", ".caption", ".json")
"""Suffixes, in any case, of files that describe the image of the same name, by precedence."""
CAPTION_KEYS: Final = ("text", "caption", "prompt", "tags")
"""Metadata keys of a caption, by precedence."""


def match_caption_files(names: Iterable[str], images: Iterable[str]) -> dict[str, list[str]]:
    """Match caption files to images.

    "x.png.txt" belongs to x.png alone and precedes "x.txt", which belongs to every image with the
    stem x. Case is ignored only where no image matches exactly. A file that matches no image this
    way is matched by WebDataset sample key, the name up to its first dot: "3.txt" to "3.alpha.png".

    Args:
        names: Candidate caption files; other suffixes are ignored.
        images: The images of the same folder tree.

    Returns:
        The caption files of each image that has any, by precedence.
    """
    # Index the images by exact name and stem, by the same without case, and by sample key.
    exact: dict[str, list[str]] = {}
    caseless: dict[str, list[str]] = {}
    by_key: dict[str, list[str]] = {}
    for image in images:
        for form in (image, str(PurePosixPath(image).with_suffix(""))):
            exact.setdefault(form, []).append(image)
            caseless.setdefault(form.casefold(), []).append(image)
        by_key.setdefault(_sample_key(image), []).append(image)
    found: dict[str, list[tuple[bool, int, str]]] = {}
    for name in names:
        path = PurePosixPath(name)
        if path.suffix.lower() not in CAPTION_SUFFIXES:
            continue
        stem = name[: -len(path.suffix)]
        order = CAPTION_SUFFIXES.index(path.suffix.lower())
        for image in (
            exact.get(stem) or caseless.get(stem.casefold()) or by_key.get(_sample_key(name), [])
        ):
            # Sort files of this image alone before files of all images with its stem.
            found.setdefault(image, []).append((image.casefold() != stem.casefold(), order, name))
    return {image: [name for *_, name in sorted(files)] for image, files in found.items()}


def _sample_key(name: str) -> str:
    """Return the WebDataset key of a file: its path up to the first dot of its name."""
    folder, slash, plain = name.rpartition("/")
    return folder + slash + plain.partition(".")[0]


def read_caption_file(
    open_file: Callable[[str], BinaryIO], name: str, encoding: str | None
) -> Mapping[str, Any]:
    """Read a caption file as a row of metadata.

    The lines of a text file are joined by spaces into one caption.

    Args:
        open_file: Opens a file by its name in the folder tree.
        name: The caption file.
        encoding: Encoding of text without a byte order mark; None for UTF-8.

    Returns:
        The metadata; empty for a blank file.

    Raises:
        InvalidImage: The file cannot be read (code "caption_unreadable").
    """
    is_json = name.lower().endswith(".json")
    max_bytes = MAX_JSON if is_json else MAX_CAPTION_BYTES
    try:
        with open_file(name) as file:
            data = file.read(max_bytes + 1)
    except InvalidImage as error:
        raise unreadable_caption(name, error.sentence) from error
    if len(data) > max_bytes:
        raise unreadable_caption(
            name, f"the file has more than {max_bytes:,} bytes" if is_json else _TOO_LONG
        )
    try:
        text = decode_text(data, encoding)
    except UnreadableText as error:
        hint = "save it as UTF-8, or specify its encoding (for example --encoding gb18030)"
        raise unreadable_caption(name, f"{error.message}; {hint}") from error
    if is_json:
        return _read_json(name, text)
    caption = " ".join(line for line in (part.strip() for part in text.split("\n")) if line)
    if len(caption) > MAX_CAPTION:
        raise unreadable_caption(name, _TOO_LONG)
    return {"text": caption} if caption else {}


_TOO_LONG = f"the caption has more than {MAX_CAPTION:,} characters"


def caption_from_name(name: str) -> str:
    """Return the words of a file name, without trailing numbers and control characters."""
    stem = PurePosixPath(name).stem
    printable = "".join(
        letter if unicodedata.category(letter)[0] != "C" else " " for letter in stem
    )
    words = re.sub(r"[\W_]+", " ", printable).strip()
    return re.sub(r"[\s\d]+$", "", words)[:200] or words[:200] or "picture"


def unreadable_caption(name: str, reason: str) -> InvalidImage:
    """Return the refusal of an image whose caption file cannot be read."""
    return InvalidImage(
        "caption_unreadable", f"its caption {name[:200]!r} cannot be read: {reason}"
    )


def _read_json(name: str, text: str) -> Mapping[str, Any]:
    try:
        row: Any = json.loads(text) if text.strip() else {}
    except (ValueError, RecursionError) as error:
        raise unreadable_caption(name, "the file is not valid JSON") from error
    if isinstance(row, str):
        row = {"text": row}
    if not isinstance(row, dict):
        return {}
    captions = {key: row[key] for key in CAPTION_KEYS if key in row}
    # Other programs store further data in such files; of that, only strings are kept.
    return captions | {key: value for key, value in row.items() if isinstance(value, str)}


def get_text(row: Mapping[str, Any], *keys: str) -> str | None:
    """Return the text of the first present key, verbatim; None if all are null or it is blank.

    Args:
        row: A row of metadata.
        keys: Alternative keys, by precedence.

    Raises:
        InvalidImage: The value is not a string, is too long, or cannot be stored.
    """
    value = next((row[key] for key in keys if row.get(key) is not None), None)
    if value is None:
        return None
    if not isinstance(value, str):
        raise InvalidImage("bad_line", f"{keys[0]} is {type(value).__name__}, not text")
    if len(value) > MAX_CAPTION:
        raise InvalidImage(
            "bad_line", f"{keys[0]} has {len(value):,} characters, more than {MAX_CAPTION:,}"
        )
    if not is_storable(value):
        raise InvalidImage("bad_line", f"{keys[0]} contains characters that cannot be stored")
    return value if value.strip() else None


def get_caption(row: Mapping[str, Any]) -> str | None:
    """Return the caption of a metadata row: the first of CAPTION_KEYS that is not blank.

    Of a list of captions, the first is taken.

    Raises:
        InvalidImage: A caption is not a string, is too long, or cannot be stored.
    """
    for key in CAPTION_KEYS:
        value = row.get(key)
        first = value[0] if isinstance(value, list) and value else value
        if (text := get_text({key: first}, key)) is not None:
            return text
    return None
