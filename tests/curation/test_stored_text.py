"""Text from files and for terminals: encodings by their byte order mark, no guesses, no control sequences."""

from __future__ import annotations

import codecs

import pytest
from pydantic import TypeAdapter, ValidationError

from curation.text import StorableText, UnreadableText, decode_text, escape_control_characters


@pytest.mark.parametrize(
    ("mark", "encoding"),
    [
        (b"", "utf-8"),
        (codecs.BOM_UTF8, "utf-8"),
        (codecs.BOM_UTF16_LE, "utf-16-le"),
        (codecs.BOM_UTF16_BE, "utf-16-be"),
        (codecs.BOM_UTF32_LE, "utf-32-le"),
        (codecs.BOM_UTF32_BE, "utf-32-be"),
    ],
)
def test_byte_order_marks_are_honoured_and_left_out(mark: bytes, encoding: str) -> None:
    assert decode_text(mark + "a fox\r\n狐".encode(encoding)) == "a fox\n狐"


@pytest.mark.parametrize(
    "data", ["狐狸".encode("gbk"), "é".encode("latin-1"), b"a\0b", b"\xed\xa0\x80"]
)
def test_other_encodings_and_unstorable_text_are_refused(data: bytes) -> None:
    with pytest.raises(UnreadableText):
        decode_text(data)


def test_a_named_encoding_is_used() -> None:
    assert decode_text("狐狸".encode("gbk"), "gbk") == "狐狸"
    with pytest.raises(UnreadableText, match="no encoding"):
        decode_text(b"a", "klingon")


def test_text_for_a_terminal_keeps_scripts_and_loses_controls() -> None:
    assert escape_control_characters("a\x1b[31m\x9b\u202eb\r") == "a\\x1b[31m\\x9b\\u202eb\\x0d"
    assert escape_control_characters("狐 é 👩‍🔬\n\t") == "狐 é 👩‍🔬\n\t"


@pytest.mark.parametrize("text", ["a\0b", "\ud800"])
def test_the_api_type_refuses_what_cannot_be_stored(text: str) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(StorableText).validate_python(text)
