"""Strict parser of a language model's completion: one pair prompt as JSON per line."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

from curation.domain import Prompt

MAX_TEXT_LENGTH = 300
"""Characters of a text: about as many as a text encoder with 77 tokens reads."""

KEYS = ("text", "foreground", "background")
"""Keys of a pair prompt."""

Rejection = tuple[str, str]
"""The reason of a rejection, and the beginning of the line."""


@dataclass(frozen=True)
class Completion:
    """The pair prompts of one completion, in order, and the rejected lines."""

    prompts: list[Prompt] = field(default_factory=list)
    refused: list[Rejection] = field(default_factory=list)


def parse_completion(completion: str) -> Completion:
    """Parse a completion line by line; blank lines and Markdown code fences are skipped.

    A line must be a JSON object of exactly three texts: `text` for the blended image, `foreground`
    and `background`. Each is a single line of 1 to MAX_TEXT_LENGTH characters, different from the
    others.
    The `text` must contain a word of the foreground of three or more letters, and the background
    must not contain all of these.

    Args:
        completion: The completion.

    Returns:
        The pair prompts and the rejected lines; no completion raises an exception.
    """
    answer = Completion()
    for line in (line.strip() for line in completion.splitlines()):
        if not line or re.fullmatch(r"```\w*", line):
            continue
        result = parse_line(line)
        if isinstance(result, Prompt):
            answer.prompts.append(result)
        else:
            answer.refused.append((result, line[:80]))
    if not answer.prompts and not answer.refused:
        answer.refused.append(("an empty completion", ""))
    return answer


def parse_line(line: str) -> Prompt | str:
    """Parse one line as a pair prompt, or return the reason of its rejection."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return "not a line of JSON"
    if not isinstance(row, dict):
        return "not a JSON object"
    if set(row) != set(KEYS):
        return "other keys than text, foreground and background"
    # Check each text, then the three texts together.
    texts = {name: _clean(row[name]) for name in KEYS}
    if not all(texts.values()):
        return "a text is empty, too long or not a string"
    prompt = Prompt(**texts)
    if len({text.lower() for text in texts.values()}) < len(KEYS):
        return "two texts are the same"
    return _contradiction(prompt) or prompt


def words(text: str) -> frozenset[str]:
    """Return the words of three or more letters in lower case, without a final s."""
    return (
        frozenset(word.removesuffix("s") for word in re.findall(r"[^\W\d_]{3,}", text.lower()))
        - _SMALL
    )


def _clean(value: Any) -> str:
    """Return a text with normalized whitespace, or an empty string if it is invalid."""
    # Control characters and line breaks are not printable.
    if not isinstance(value, str) or not value.isprintable():
        return ""
    text = " ".join(value.split())
    return text if len(text) <= MAX_TEXT_LENGTH else ""


def _contradiction(prompt: Prompt) -> str:
    """Return why the three texts do not fit together, or an empty string."""
    # A foreground without long words, as in "an ox", cannot be compared.
    subject = words(prompt.foreground or "")
    if subject and not subject & words(prompt.text):
        return "the text does not mention the foreground"
    if subject and subject <= words(prompt.background or ""):
        return "the background mentions the foreground"
    return ""


_SMALL = frozenset({"the", "and", "with", "for", "from", "that", "thi", "it", "are", "some"})
