"""Files that describe many pictures: JSON lines, CSV and JSON, read into rows that each name a file."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, BinaryIO, Final

from curation.images.headers import BadFile
from curation.text import UnreadableText, decode_text

MAX_LINE = 1 << 20
MAX_MANIFEST = 64 << 20
"""Bytes of a manifest that is read as a whole: CSV, JSON, and JSON lines in another encoding than UTF-8."""
MAX_JSON = 32 << 20
"""Bytes of one JSON document, which takes many times as much memory when it is parsed."""
FIRST: Final = ("metadata.jsonl", "metadata.csv", "metadata.json")
"""What is read before other manifests, and so counts where they disagree."""
LINES: Final = (".jsonl", ".ndjson")
TABLES: Final = {".csv": ",", ".tsv": "\t"}
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
"""What a picture's file is called in metadata; the first that is there counts."""


@dataclass(frozen=True)
class Row:
    """One row of a manifest; `name` is "metadata.jsonl:3", by line or, in JSON, by entry.

    `file` is the name of the picture that it is about, if that can be told; `bad` is why the row is not followed.
    `lost` says that the text of the row cannot be read, so that it may describe other files as well.
    """

    name: str
    row: Mapping[str, Any]
    file: str | None = None
    bad: BadFile | None = None
    lost: bool = False


@dataclass(frozen=True)
class _Unreadable:
    """A row whose text cannot be read: why, and whether it may describe files that are not known."""

    bad: BadFile
    file: str | None = None
    lost: bool = True


class NoManifest(Exception):
    """A file of JSON or CSV that does not describe pictures: it is listed like any other file."""


def manifest_order(name: str) -> tuple[int, str]:
    """Return where a manifest comes in the order of reading."""
    plain = PurePosixPath(name).name.lower()
    return (FIRST.index(plain) if plain in FIRST else len(FIRST)), name


def is_manifest_name(name: str) -> bool:
    """Return whether a file may describe others, by its name."""
    return PurePosixPath(name).suffix.lower() in {*LINES, *TABLES, ".json"}


def read_rows(
    opening: Callable[[str], BinaryIO],
    name: str,
    encoding: str | None,
    known: Callable[[str], bool],
) -> Iterator[Row]:
    """Yield the rows of a manifest; those that cannot be followed say why.

    Args:
        opening: Opens a file by its name; raises BadFile.
        name: The manifest's own name.
        encoding: How text without a byte order mark is read; UTF-8 where None.
        known: Whether a name is that of a picture: an object of JSON whose keys are pictures describes them.

    Raises:
        BadFile: The manifest as a whole cannot be read.
        NoManifest: It does not describe pictures.
    """
    suffix = PurePosixPath(name).suffix.lower()
    if suffix in LINES:
        yield from _read_lines(opening, name, encoding)
        return
    text = _read_text(opening, name, encoding)
    found = _read_table(text, TABLES[suffix]) if suffix in TABLES else _read_json(text, name, known)
    for number, row in found:
        yield _row(f"{name}:{number}", row)


def _row(name: str, row: Any) -> Row:
    if isinstance(row, _Unreadable):
        return Row(name, {}, row.file, row.bad, row.lost)
    if not isinstance(row, dict):
        return Row(name, {}, bad=BadFile("bad_line", _NO_OBJECT))
    for role in (
        "foreground",
        "background",
        "blended",
    ):  # as imagefolder calls several pictures of one row
        if role not in row and isinstance(row.get(f"{role}_file_name"), str):
            row = row | {role: row[f"{role}_file_name"]}
    file = next((row[key] for key in FILE_KEYS if isinstance(row.get(key), str)), None)
    if file is None and not isinstance(row.get("foreground"), str):
        return Row(name, row, bad=BadFile("bad_line", _NO_OBJECT))
    return Row(name, row, file)


_NO_OBJECT = "the line is not an object with a file_name or the files of a pair"


def _read_lines(
    opening: Callable[[str], BinaryIO], name: str, encoding: str | None
) -> Iterator[Row]:
    """Yield JSON lines, as a stream where line ends can be told without decoding."""
    with opening(name) as file:
        marked = file.read(4)
        file.seek(0)
        if encoding or marked[:2] in {b"\xff\xfe", b"\xfe\xff"} or marked == b"\0\0\xfe\xff":
            file = io.BytesIO(_read_text(opening, name, encoding).encode())  # noqa: PLW2901  # the same, as UTF-8
        elif marked[:3] == b"\xef\xbb\xbf":
            file.seek(3)
        for number, line in enumerate(iter(lambda: file.readline(MAX_LINE + 1), b""), 1):
            if line.strip():
                yield _read_line(f"{name}:{number}", line)


def _read_line(name: str, line: bytes) -> Row:
    if len(line) > MAX_LINE:
        return Row(
            name,
            {},
            bad=BadFile("bad_line", f"the line is longer than {MAX_LINE:,} bytes"),
            lost=True,
        )
    try:
        return _row(name, json.loads(line))
    except UnicodeDecodeError:
        said = "the line is not UTF-8 text; save it so, or name its encoding (such as --encoding gb18030)"
        return Row(name, {}, _file_in(line), BadFile("bad_line", said), lost=_file_in(line) is None)
    except (ValueError, RecursionError):
        # Two objects on one line, or lines that end in carriage returns, describe more files than the first.
        lost = _file_in(line) is None or line.count(b'"file_name"') > 1
        return Row(name, {}, _file_in(line), BadFile("bad_line", "the line is not JSON"), lost=lost)


def _file_in(line: bytes) -> str | None:
    """Return the file that a broken line is about, where its first pair can be read: that file is then held back."""
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
    """Return a whole manifest as text. Raises BadFile with manifest_unreadable."""
    with opening(name) as file:
        data = file.read(MAX_MANIFEST + 1)
    most = MAX_JSON if name.lower().endswith(".json") else MAX_MANIFEST
    if len(data) > most:
        raise BadFile("manifest_unreadable", f"{name[:200]!r} is larger than {most >> 20} MiB")
    try:
        return decode_text(data, encoding)
    except UnreadableText as error:
        if PurePosixPath(name).name.lower() not in FIRST and not any(
            key.encode() in data for key in FILE_KEYS
        ):
            raise NoManifest from error
        way_out = "save it as UTF-8, or name its encoding (such as --encoding gb18030)"
        raise BadFile(
            "manifest_unreadable", f"{name[:200]!r} cannot be read: {error.message}; {way_out}"
        ) from error


def _read_table(text: str, separator: str) -> Iterator[tuple[int, Any]]:
    """Yield the rows of a table whose first row names its columns. Raises NoManifest where none is of files."""
    head = text.partition("\n")[0]
    if separator == "," and ";" in head and "," not in head:
        separator = ";"  # as spreadsheets write it where the comma is a decimal point
    # Strict: a quote that is never closed would else take all rows behind it for the text of one cell.
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        columns = [column.strip() for column in next(reader, [])]
        if not {*FILE_KEYS, "foreground", "foreground_file_name"} & set(columns):
            raise NoManifest
        while (cells := next(reader, None)) is not None:
            if len(cells) > len(columns):
                bad = BadFile("bad_line", f"{len(cells)} cells under {len(columns)} columns")
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
            _Unreadable(BadFile("bad_line", f"the table cannot be read further: {error}")),
        )


def _read_json(text: str, name: str, known: Callable[[str], bool]) -> Iterator[tuple[int, Any]]:
    """Yield the entries of a list, or of an object whose keys are pictures. Raises NoManifest for anything else."""
    try:
        whole: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        if PurePosixPath(name).name.lower() in FIRST:
            raise BadFile("manifest_unreadable", f"{name[:200]!r} is no JSON") from error
        raise NoManifest from error
    rows: Sequence[Any] = []
    if isinstance(whole, list):
        rows = whole
    elif isinstance(whole, dict) and isinstance(whole.get("annotations"), list):
        rows = _join_annotations(whole)
    elif isinstance(whole, dict) and any(key in whole for key in (*FILE_KEYS, "foreground")):
        rows = [whole]
    elif isinstance(whole, dict) and any(known(key) for key in whole):
        rows = [
            (said if isinstance(said, dict) else {"text": said}) | {"file_name": key}
            for key, said in whole.items()
        ]
    if not any(isinstance(row, dict) and _names_file(row) for row in rows):
        raise NoManifest
    yield from enumerate(rows, 1)


def _names_file(row: Mapping[str, Any]) -> bool:
    return any(
        isinstance(row.get(key), str) for key in (*FILE_KEYS, "foreground", "foreground_file_name")
    )


def _join_annotations(whole: Mapping[str, Any]) -> list[Any]:
    """Return images with the first caption that is told of each, as COCO writes them in two lists."""
    captions: dict[Any, Any] = {}
    for one in whole["annotations"]:
        if isinstance(one, dict) and isinstance(one.get("image_id"), str | int):
            captions.setdefault(one["image_id"], one.get("caption"))
    images = whole.get("images")
    return [
        one | {"caption": captions.get(one.get("id"))} if isinstance(one, dict) else one
        for one in (images if isinstance(images, list) else [])
        if not (isinstance(one, dict) and isinstance(one.get("id"), list | dict))
    ]
