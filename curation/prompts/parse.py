"""What a language model answered, read strictly: one triple a line as JSON, and every refused line with its reason."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

from curation.domain import Prompt

LONGEST = 300
"""Characters of a text: about what a text encoder of 77 tokens can hear."""

KEYS = ("text", "foreground", "background")

Refusal = tuple[str, str]
"""A reason in a few words, and the line's beginning."""


@dataclass(frozen=True)
class Answer:
    """The triples of one answer, in their order, and the lines that are none."""

    prompts: list[Prompt] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)


def read_answer(said: str) -> Answer:
    """Read an answer line by line; nothing raises, blank lines and the marks of a code block (```) are passed over.

    A line must be a JSON object of exactly three texts, `text` (the whole), `foreground` and `background`, each of 1 to
    LONGEST characters on one line and different from the others. The whole must speak of the foreground, by one of its
    words of three letters or more, and the background must not name all of it.
    """
    answer = Answer()
    for line in (line.strip() for line in said.splitlines()):
        if not line or re.fullmatch(r"```\w*", line):
            continue
        read = read_line(line)
        if isinstance(read, Prompt):
            answer.prompts.append(read)
        else:
            answer.refused.append((read, line[:80]))
    if not answer.prompts and not answer.refused:
        answer.refused.append(("nothing was said", ""))
    return answer


def read_line(line: str) -> Prompt | str:
    """One line as a triple, or why it is none."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return "not a line of JSON"
    if not isinstance(row, dict):
        return "no JSON object"
    if set(row) != set(KEYS):
        return "other keys than text, foreground and background"
    texts = {name: _clean(row[name]) for name in KEYS}
    if not all(texts.values()):
        return "a text that is empty, too long or no text"
    prompt = Prompt(**texts)
    if len({text.lower() for text in texts.values()}) < len(KEYS):
        return "two texts that are the same"
    return _sense(prompt) or prompt


def words(text: str) -> frozenset[str]:
    """Words of three letters or more, in lower case, without a plural's s."""
    return (
        frozenset(word.removesuffix("s") for word in re.findall(r"[^\W\d_]{3,}", text.lower()))
        - _SMALL
    )


def _clean(value: Any) -> str:
    """The text on one line, without blanks around it; empty where it cannot be one."""
    if not isinstance(value, str) or not value.isprintable():
        return ""
    text = " ".join(value.split())
    return text if len(text) <= LONGEST else ""


def _sense(prompt: Prompt) -> str:
    """What makes no sense of three texts together; empty where nothing does."""
    subject = words(prompt.foreground or "")
    if subject and not subject & words(prompt.text):
        return "a whole without its foreground"
    if subject and subject <= words(prompt.background or ""):
        return "a background that names the foreground"
    return ""


_SMALL = frozenset({"the", "and", "with", "for", "from", "that", "thi", "it", "are", "some"})
