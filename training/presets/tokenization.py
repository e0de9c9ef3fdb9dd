"""Tokenization of built-in presets: runs of letters, digits and underscores."""

from __future__ import annotations

import re
import unicodedata

_WORD = re.compile(r"\w+")


def split_words(text: str) -> list[str]:
    """Return the words of a text after NFC normalization and lower-casing."""
    return _WORD.findall(unicodedata.normalize("NFC", text).lower())
