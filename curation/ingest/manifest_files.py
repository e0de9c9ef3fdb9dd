"""Manifests: JSON Lines, CSV and JSON files whose rows describe image files."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, BinaryIO, Final

from curation.images.headers import InvalidImage
from curation.text import UnreadableText, decode_text

MAX_LINE = 1 << 20
MAX_MANIFEST = 64 << 20
"""Bytes of a manifest that is read whole: CSV, JSON, and JSON Lines other than in UTF-8."""
MAX_JSON = 32 << 20
"""Bytes of one JSON document, which takes many times as much memory when parsed."""
PRIMARY_MANIFESTS: Final = ("metadata.jsonl", "metadata.csv", "metadata.json")
"""Manifests that are read before others, and so take precedence."""
JSON_LINES_SUFFIXES: Final = (".jsonl", ".ndjson")
TABLE_SEPARATORS: Final = {".csv": ",", ".tsv": "\t"}
FILE_KEYS: Final = (
    "file_name",
    "filename",
    "file",
    "image",
    "image_file",
    "image_path",
    "img",
    "path",
)
"""Metadata keys of an image's file, by precedence."""


@dataclass(frozen=True)
class ManifestRow:
    """One row of a manifest.

    Attributes:
        name: Manifest and number of the line or, in JSON, of the entry: "metadata.jsonl:3".
        row: The parsed row.
        file: The image that it describes, if it can be determined.
        bad: Why the row is not applied.
        lost: Whether its text cannot be read, so that it may describe other files as well.
    """

    name: str
    row: Mapping[str, Any]
    file: str | None = None
    bad: InvalidImage | None = None
    lost: bool = False


@dataclass(frozen=True)
class _Unreadable:
    """A row whose text cannot be read; the fields are those of Row."""

    bad: InvalidImage
    file: str | None = None
    lost: bool = True


class NotAManifestError(Exception):
    """A JSON or CSV file does not describe images, and is listed like any other file."""


def manifest_order(name: str) -> tuple[int, str]:
    """Return the sort key of a manifest in reading order."""
    base_name = PurePosixPath(name).name.lower()
    return (
        PRIMARY_MANIFESTS.index(base_name)
        if base_name in PRIMARY_MANIFESTS
        else len(PRIMARY_MANIFESTS)
    ), name


def is_manifest_name(name: str) -> bool:
    """Return whether a file may be a manifest, by its suffix."""
    return PurePosixPath(name).suffix.lower() in {*JSON_LINES_SUFFIXES, *TABLE_SEPARATORS, ".json"}


def read_rows(
    open_file: Callable[[str], BinaryIO],
    name: str,
    encoding: str | None,
    is_image: Callable[[str], bool],
) -> Iterator[ManifestRow]:
    """Yield the rows of a manifest, including unusable ones with their reason.

    Args:
        open_file: Opens a file by its name; raises InvalidImage.
        name: The manifest.
        encoding: Encoding of text without a byte order mark; None for UTF-8.
        is_image: Returns whether a name is that of an image, for JSON objects keyed by image.

    Raises:
        InvalidImage: The manifest as a whole cannot be read.
        NotAManifestError: The file does not describe images.
    """
    suffix = PurePosixPath(name).suffix.lower()
    if suffix in JSON_LINES_SUFFIXES:
        yield from _read_lines(open_file, name, encoding)
        return
    text = _read_text(open_file, name, encoding)
    found = (
        _read_table(text, TABLE_SEPARATORS[suffix])
        if suffix in TABLE_SEPARATORS
        else _read_json(text, name, is_image)
    )
    for number, row in found:
        yield _row(f"{name}:{number}", row)


def _row(name: str, row: Any) -> ManifestRow:
    if isinstance(row, _Unreadable):
        return ManifestRow(name, {}, row.file, row.bad, row.lost)
    if not isinstance(row, dict):
        return ManifestRow(name, {}, bad=InvalidImage("bad_line", _NO_OBJECT))
    # Hugging Face's imagefolder names several images of one row with this suffix.
    for role in ("foreground", "background", "blended"):
        if role not in row and isinstance(row.get(f"{role}_file_name"), str):
            row = row | {role: row[f"{role}_file_name"]}
    file = next((row[key] for key in FILE_KEYS if isinstance(row.get(key), str)), None)
    if file is None and not isinstance(row.get("foreground"), str):
        return ManifestRow(name, row, bad=InvalidImage("bad_line", _NO_OBJECT))
    return ManifestRow(name, row, file)


_NO_OBJECT = "the line is not a JSON object with a file_name or the files of a pair"


def _read_lines(
    opening: Callable[[str], BinaryIO], name: str, encoding: str | None
) -> Iterator[ManifestRow]:
    """Yield the rows of JSON Lines; UTF-8 is streamed, other encodings are read whole."""
    with opening(name) as file:
        mark = file.read(4)
        file.seek(0)
        # In UTF-16 and UTF-32 a newline is more than one byte.
        if encoding or mark[:2] in {b"\xff\xfe", b"\xfe\xff"} or mark == b"\0\0\xfe\xff":
            file = io.BytesIO(_read_text(opening, name, encoding).encode())  # noqa: PLW2901
        elif mark[:3] == b"\xef\xbb\xbf":
            file.seek(3)
        for number, line in enumerate(iter(lambda: file.readline(MAX_LINE + 1), b""), 1):
            if line.strip():
                yield _read_line(f"{name}:{number}", line)


def _read_line(name: str, line: bytes) -> ManifestRow:
    if len(line) > MAX_LINE:
        return ManifestRow(
            name,
            {},
            bad=InvalidImage("bad_line", f"the line is longer than {MAX_LINE:,} bytes"),
            lost=True,
        )
    try:
        return _row(name, json.loads(line))
    except UnicodeDecodeError:
        sentence = (
            "the line is not UTF-8 text; save it as UTF-8, or specify its encoding (for "
            "example --encoding gb18030)"
        )
        file = _file_in(line)
        return ManifestRow(name, {}, file, InvalidImage("bad_line", sentence), lost=file is None)
    except (ValueError, RecursionError):
        # Two objects on one line, or lines that end in carriage returns, describe several files.
        file = _file_in(line)
        lost = file is None or line.count(b'"file_name"') > 1
        return ManifestRow(
            name, {}, file, InvalidImage("bad_line", "the line is not valid JSON"), lost=lost
        )


def _file_in(line: bytes) -> str | None:
    """Return the file_name of a broken line, if it can be read, to hold that file back."""
    start = line.find(b'"file_name"')
    if start < 0:
        return None
    rest = line[start + len(b'"file_name"') :].lstrip(b" \t:")
    try:
        found, _ = json.JSONDecoder().raw_decode(rest.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, str) else None


def _read_text(opening: Callable[[str], BinaryIO], name: str, encoding: str | None) -> str:
    """Return a whole manifest as text. Raises InvalidImage with manifest_unreadable."""
    with opening(name) as file:
        data = file.read(MAX_MANIFEST + 1)
    most = MAX_JSON if name.lower().endswith(".json") else MAX_MANIFEST
    if len(data) > most:
        raise InvalidImage("manifest_unreadable", f"{name[:200]!r} is larger than {most >> 20} MiB")
    try:
        return decode_text(data, encoding)
    except UnreadableText as error:
        # Only a file that looks like a manifest is one that cannot be read.
        if PurePosixPath(name).name.lower() not in PRIMARY_MANIFESTS and not any(
            key.encode() in data for key in FILE_KEYS
        ):
            raise NotAManifestError from error
        hint = "save it as UTF-8, or specify its encoding (for example --encoding gb18030)"
        raise InvalidImage(
            "manifest_unreadable", f"{name[:200]!r} cannot be read: {error.message}; {hint}"
        ) from error


def _read_table(text: str, separator: str) -> Iterator[tuple[int, Any]]:
    """Yield the rows of a table. Raises NotAManifestError if no column names files."""
    # Spreadsheets separate by semicolons in locales where the comma is the decimal point.
    head = text.partition("\n")[0]
    if separator == "," and ";" in head and "," not in head:
        separator = ";"
    # Strict: otherwise an unclosed quote would turn all following rows into one cell.
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        columns = [column.strip() for column in next(reader, [])]
        if not {*FILE_KEYS, "foreground", "foreground_file_name"} & set(columns):
            raise NotAManifestError
        while (cells := next(reader, None)) is not None:
            if len(cells) > len(columns):
                bad = InvalidImage(
                    "bad_line", f"the row has {len(cells)} cells for {len(columns)} columns"
                )
                file = next(
                    (cell for name, cell in zip(columns, cells, strict=False) if name in FILE_KEYS),
                    None,
                )
                yield reader.line_num, _Unreadable(bad, file, lost=file is None)
            elif any(cells):
                yield (
                    reader.line_num,
                    {name: cell for name, cell in zip(columns, cells, strict=False) if cell},
                )
    except csv.Error as error:
        yield (
            reader.line_num,
            _Unreadable(
                InvalidImage("bad_line", f"the table cannot be read beyond this line: {error}")
            ),
        )


def _read_json(text: str, name: str, known: Callable[[str], bool]) -> Iterator[tuple[int, Any]]:
    """Yield the entries of a JSON manifest. Raises NotAManifestError if none names a file."""
    try:
        document: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        if PurePosixPath(name).name.lower() in PRIMARY_MANIFESTS:
            raise InvalidImage(
                "manifest_unreadable", f"{name[:200]!r} is not valid JSON"
            ) from error
        raise NotAManifestError from error
    # A list of rows, COCO annotations, a single row, or an object keyed by image.
    rows: Sequence[Any] = []
    if isinstance(document, list):
        rows = document
    elif isinstance(document, dict) and isinstance(document.get("annotations"), list):
        rows = _join_annotations(document)
    elif isinstance(document, dict) and any(key in document for key in (*FILE_KEYS, "foreground")):
        rows = [document]
    elif isinstance(document, dict) and any(known(key) for key in document):
        rows = [
            (value if isinstance(value, dict) else {"text": value}) | {"file_name": key}
            for key, value in document.items()
        ]
    if not any(isinstance(row, dict) and _names_file(row) for row in rows):
        raise NotAManifestError
    yield from enumerate(rows, 1)


def _names_file(row: Mapping[str, Any]) -> bool:
    return any(
        isinstance(row.get(key), str) for key in (*FILE_KEYS, "foreground", "foreground_file_name")
    )


def _join_annotations(document: Mapping[str, Any]) -> list[Any]:
    """Join the images and annotations of COCO, with the first caption of each image."""
    captions: dict[Any, Any] = {}
    for annotation in document["annotations"]:
        if isinstance(annotation, dict) and isinstance(annotation.get("image_id"), str | int):
            captions.setdefault(annotation["image_id"], annotation.get("caption"))
    images = document.get("images")
    # An unhashable ID cannot be looked up.
    return [
        image | {"caption": captions.get(image.get("id"))} if isinstance(image, dict) else image
        for image in (images if isinstance(images, list) else [])
        if not (isinstance(image, dict) and isinstance(image.get("id"), list | dict))
    ]
