"""Rules for text that can be stored and printed, for the API, captions and input files."""

from __future__ import annotations

import codecs
import unicodedata
from typing import Annotated

from pydantic import AfterValidator

from curation.errors import LayerloopError

_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16, whose mark is a prefix of this mark
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


class UnreadableText(LayerloopError):
    """Bytes that are not text in the expected encoding, or text that cannot be stored."""


def is_storable(text: str) -> bool:
    """Return whether PostgreSQL can store the text: no NUL, and no half of a surrogate pair."""
    return "\0" not in text and not any(0xD800 <= ord(letter) < 0xE000 for letter in text)


def check_storable(text: str) -> str:
    """Return the text; the pydantic validator of StorableText.

    Args:
        text: The text to check.

    Raises:
        ValueError: The text cannot be stored.
    """
    if not is_storable(text):
        raise ValueError("holds characters that cannot be stored (NUL or half of a surrogate pair)")
    return text


StorableText = Annotated[str, AfterValidator(check_storable)]
"""The type of every text in a request; text that cannot be stored is a 422 naming its field."""


def decode_text(data: bytes, encoding: str | None = None) -> str:
    """Decode a text file: by its byte order mark, else by `encoding`, else as UTF-8.

    Args:
        data: The file's bytes.
        encoding: The encoding of a file without a byte order mark; UTF-8 when None.

    Returns:
        The text, with line feeds as line ends.

    Raises:
        UnreadableText: The bytes are not text in that encoding, or hold a character that cannot be
            stored.
    """
    # A byte order mark is more reliable than a given encoding.
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
            f"it is not {name} text", "save the file as UTF-8, or name its encoding"
        ) from error
    if not is_storable(text):
        raise UnreadableText(
            "it holds a NUL or half of a surrogate pair", "save the file as UTF-8 text"
        )
    return text.replace("\r\n", "\n").replace("\r", "\n")


def escape_control_characters(text: str) -> str:
    """Escape control characters and direction overrides for a terminal or a log line.

    Line ends and tabs stay. The result cannot move the cursor, change colors or hide other text.
    """
    return "".join(
        letter if letter in "\n\t" or not _is_control(letter) else _escaped(letter)
        for letter in text
    )


def _is_control(letter: str) -> bool:
    # Cc are controls. Cf would include joiners that scripts and emoji need, so of these only the
    # direction overrides and isolates are escaped.
    return (
        unicodedata.category(letter) in {"Cc", "Cs"}
        or letter in "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
    )


def _escaped(letter: str) -> str:
    number = ord(letter)
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}"
