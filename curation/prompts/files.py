"""Files of prompts that people bring: a prompt a line, or for pairs an object of JSON with three texts."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from curation.domain import Prompt
from curation.errors import Refused
from curation.input_files import read_text
from curation.text import storable

MAX_PROMPT = 10_000
"""Characters of one text; no text encoder takes in a tenth of it."""

MAX_FILE = 256 << 20


@dataclass(frozen=True)
class PromptFile:
    """The prompts of a file, each once and in order, and what else was in it."""

    prompts: list[Prompt]
    comments: int = 0
    repeated: int = 0  # lines that say again what an earlier one said


def read_prompt_file(path: Path) -> PromptFile:
    """Read a file of prompts, "-" being standard input. Raises NotFound; Refused, naming the file and the line."""
    try:
        return parse_prompts(read_text(path, MAX_FILE).split("\n"))
    except BadLine as bad:
        raise Refused(f"{path}, {bad.message}", bad.hint) from bad


class BadLine(Refused):
    """A line of a file of prompts that is none; the message names its number."""


def parse_prompts(lines: Iterable[str]) -> PromptFile:
    """Parse lines: plain text, or for pairs an object of JSON with text, foreground and background.

    Blank lines are skipped, and so is a comment: a line that is "#" or begins with "# ". A prompt may begin with "#"
    where no space follows. Equal lines are one prompt.

    Raises:
        BadLine: A line is neither, is too long, or holds what cannot be stored.
    """
    found: dict[Prompt, None] = {}
    comments = repeated = 0
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if text == "#" or text.startswith("# "):
            comments += 1
        elif text:
            prompt = _parse_pair(text, number) if text.startswith("{") else Prompt(text)
            check_texts(prompt, f"line {number}")
            repeated += prompt in found
            found[prompt] = None
    return PromptFile(list(found), comments, repeated)


def check_texts(prompt: Prompt, where: str) -> None:
    """Refuse a prompt with a text that is too long or cannot be stored. Raises BadLine."""
    for text in filter(None, (prompt.text, prompt.foreground, prompt.background)):
        if len(text) > MAX_PROMPT:
            raise BadLine(
                f"{where}: a prompt of {len(text):,} characters",
                f"at most {MAX_PROMPT:,} are taken",
            )
        if not storable(text):
            raise BadLine(
                f"{where}: a text with a NUL or half of a surrogate pair", "write it without"
            )


def _parse_pair(text: str, number: int) -> Prompt:
    try:
        row = json.loads(text)
        return Prompt(row["text"].strip(), row["foreground"].strip(), row["background"].strip())
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        looks = 'a line for a pair looks like {"text": ..., "foreground": ..., "background": ...}'
        raise BadLine(f"line {number} is no prompt: {text[:80]}", looks) from error
