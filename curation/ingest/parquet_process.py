"""Parquet files of an import, read by a confined process: its requests, work and responses."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import astuple
from itertools import islice
from typing import Any, BinaryIO, Final

from curation.images.headers import InvalidImage
from curation.ingest.caption_files import MAX_CAPTION
from curation.ingest.parquet_rows import ParquetFile, ParquetRow, write_sample
from curation.ingest.sandbox_process import DEFAULT_LIMITS, FailureCause, ItemFailure, Worker
from curation.ingest.sandbox_wire import Message

BLOCK: Final = 500
"""Rows that are described by one response."""
MAX_BLOCK_BYTES: Final = 64 << 20
DESCRIBING, READING = "describing", "reading"
"""Two readers, since rows are described ahead of their images."""


class ParquetTables:
    """Reader of the Parquet files of an import; the confined process starts with the first file."""

    def __init__(self, open_file: Callable[[str], BinaryIO]) -> None:
        """Begin without a process.

        Args:
            open_file: Opens a file by its name.
        """
        self._open_file = open_file
        self._worker: Worker | None = None
        self._opened: dict[str, str] = {}
        self._refused: dict[str, InvalidImage] = {}

    def describe(self, name: str) -> Iterator[tuple[ParquetRow, str, Mapping[str, Any]]]:
        """Yield the rows of a file with the path of the image and the texts of each.

        Args:
            name: The file.

        Raises:
            InvalidImage: The file is refused, or the rest of it.
        """
        self._open(name, DESCRIBING)
        while True:
            answer = self._ask(name, Message({"do": "describe"}))
            rows = _parse_rows(answer)
            if not rows:
                return
            yield from rows

    def read(self, name: str, row: ParquetRow, max_bytes: int) -> bytes:
        """Return the image of a row.

        Args:
            name: The file.
            row: The row.
            max_bytes: Largest size of an image.

        Raises:
            InvalidImage: There is no image in it, it is too large, or the file is refused.
        """
        if self._opened.get(READING) != name:
            self._open(name, READING)
        asked = {"do": "read", "row": list(astuple(row)), "bytes": max_bytes}
        return self._ask(name, Message(asked)).read_part(0, max_bytes)

    def close(self) -> None:
        """End the process."""
        if self._worker is not None:
            self._worker.close()
        self._worker = None
        self._opened.clear()

    def _open(self, name: str, reader: str) -> None:
        if name in self._refused:
            raise self._refused[name]
        if self._worker is None:
            functions = {"function": f"{__name__}:serve", "warm_up": f"{__name__}:warm_up"}
            # The name of the function that the process loads, its warm-up and its memory.
            self._worker = Worker(functions | {"memory": DEFAULT_LIMITS.memory}, DEFAULT_LIMITS)
        with self._open_file(name) as file:
            self._ask(name, Message({"do": "open", "reader": reader}, (file,)))
        self._opened[reader] = name

    def _ask(self, name: str, request: Message) -> Message:
        """Return a response. Raises InvalidImage with what it refuses."""
        if self._worker is None:
            raise self._refused.get(name, _CLOSED)
        answer = self._worker.ask(request)
        if isinstance(answer, ItemFailure):
            # Rows of other files are read by another process; this file is not tried again.
            bad = InvalidImage("corrupt", _SENTENCES.get(answer.cause, _SENTENCES[_OTHER]))
            self._refused[name] = bad
            for other in self._opened.values():
                self._refused.setdefault(other, bad)
            self.close()
            raise bad
        code, sentence = answer.metadata.get("code"), answer.metadata.get("sentence")
        if isinstance(code, str) and isinstance(sentence, str):
            raise InvalidImage(code[:64], sentence[:2_000])
        return answer


_CLOSED: Final = InvalidImage("corrupt", "the reader of the Parquet file has ended")
_OTHER: Final = FailureCause.crashed
_SENTENCES: Final = {
    FailureCause.timed_out: "the Parquet file takes too long to read: write smaller row groups",
    FailureCause.memory: "the Parquet file takes too much memory: write smaller row groups",
    FailureCause.crashed: "the Parquet file ends the program that reads it: write it again",
}
_STATE: dict[str, Any] = {}
"""In the confined process, the open files by reader, and the rows that are being described."""


def serve(request: Message) -> Message:
    """Answer a request, in the confined process.

    Args:
        request: What to do: "open" a file, "describe" the next rows, or "read" an image.
    """
    asked = request.metadata
    try:
        if asked["do"] == "open":
            if former := _STATE.pop(asked["reader"], None):
                former.close()
            file: Any = request.parts[0]
            _STATE[asked["reader"]] = table = ParquetFile(file)
            if asked["reader"] == DESCRIBING:
                _STATE["rows"] = table.describe()
            return Message({})
        if asked["do"] == "describe":
            rows = [
                [*astuple(row), path[:1_000], {name: _short(text) for name, text in texts.items()}]
                for row, path, texts in islice(_STATE["rows"], BLOCK)
            ]
            return Message({}, (json.dumps(rows).encode(),))
        return Message({}, (_STATE[READING].read(ParquetRow(*asked["row"]), asked["bytes"]),))
    except InvalidImage as bad:
        return Message({"code": bad.code, "sentence": bad.sentence})


def warm_up() -> Message:
    """Read one small file, so that all modules are imported before the confinement."""
    table = ParquetFile(write_sample())
    for row, _, _ in table.describe():
        table.read(row, 100)
    return Message({})


def _short(value: Any) -> Any:
    """Return a text, cut where it is too long in any case, or the first of a list of texts."""
    first = value[0] if isinstance(value, list) and value else value
    if isinstance(first, str):
        # A character more than allowed shows a text that is too long.
        return first[: MAX_CAPTION + 1].encode("utf-8", "replace").decode()
    return first if isinstance(first, int | float | bool | None) else str(type(first).__name__)


def _parse_rows(answer: Message) -> list[tuple[ParquetRow, str, Mapping[str, Any]]]:
    """Return the described rows of a response. Raises InvalidImage if it is not of that form."""
    try:
        rows = json.loads(answer.read_part(0, MAX_BLOCK_BYTES))
        return [_parse_row(*row) for row in rows[: BLOCK + 1]]
    except (ValueError, TypeError, RecursionError) as error:
        raise InvalidImage("corrupt", "the rows of the Parquet file cannot be read") from error


def _parse_row(
    number: Any, group: Any, index: Any, path: Any, texts: Any
) -> tuple[ParquetRow, str, Mapping[str, Any]]:
    if not isinstance(path, str) or not isinstance(texts, dict):
        raise TypeError(f"a row of {type(path).__name__} and {type(texts).__name__}")
    return ParquetRow(int(number), int(group), int(index)), path, texts
