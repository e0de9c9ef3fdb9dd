"""Text that can be stored and printed: one rule for API fields, path words, captions and command line files."""

from __future__ import annotations

import codecs
import logging
import unicodedata
from typing import Annotated

from pydantic import AfterValidator

from curation.errors import LayerloopError

_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


class UnreadableText(LayerloopError):
    """Bytes that are no text in the expected encoding, or text that cannot be stored."""


def storable(text: str) -> bool:
    """Whether PostgreSQL stores the text: no NUL, no half of a surrogate pair."""
    return "\0" not in text and not any(0xD800 <= ord(letter) < 0xE000 for letter in text)


def check_storable(text: str) -> str:
    """Return the text. Raises ValueError where it cannot be stored, as pydantic expects of a validator."""
    if not storable(text):
        raise ValueError("holds characters that cannot be stored (NUL or half of a surrogate pair)")
    return text


StorableText = Annotated[str, AfterValidator(check_storable)]
"""The type of every text that comes through the API; a value that cannot be stored is a 422 naming its field."""


def decode_text(data: bytes, encoding: str | None = None) -> str:
    """Decode a text file: by its byte order mark, else by `encoding`, else as UTF-8; line ends become line feeds.

    Raises:
        UnreadableText: The bytes are not text in that encoding, or hold a character that cannot be stored.
    """
    name = encoding or "utf-8"
    for bom, marked in _BOMS:
        if data.startswith(bom):
            data, name = data[len(bom) :], marked
            break
    try:
        text = data.decode(name)
    except LookupError as error:
        raise UnreadableText(
            f"there is no encoding {name!r}", "name one that Python knows, such as gb18030"
        ) from error
    except ValueError as error:
        raise UnreadableText(
            f"it is not {name} text", "save it as UTF-8, or name its encoding"
        ) from error
    if not storable(text):
        raise UnreadableText("it holds a NUL or half of a surrogate pair", "save it as UTF-8 text")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def printable(text: str) -> str:
    """The text for a terminal or a log line: control characters and direction overrides are written as escapes.

    Line ends and tabs stay. What remains cannot move the cursor, change colours or hide what follows.
    """
    return "".join(
        letter if letter in "\n\t" or not _acts(letter) else _escaped(letter) for letter in text
    )


class PrintableFormatter(logging.Formatter):
    """Escape what could act on a terminal, and indent further lines, so that no text can pass for a line of its own."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's own name
        """Return the line of a record; a traceback follows it as it is."""
        return printable(super().formatMessage(record)).replace("\n", "\n    ")


def _acts(letter: str) -> bool:
    # Cc: controls; Cf would include joiners that scripts and emoji need, so only overrides and isolates are taken.
    return (
        unicodedata.category(letter) in {"Cc", "Cs"}
        or letter in "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
    )


def _escaped(letter: str) -> str:
    number = ord(letter)
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}"
