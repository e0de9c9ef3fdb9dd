"""Prompt files of users: one prompt per line, as text or, for pairs, as a JSON object."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from curation.domain import Prompt
from curation.errors import Refused
from curation.input_files import read_text
from curation.text import is_storable

MAX_PROMPT = 10_000
"""Characters of one text, more than ten times as many as any text encoder reads."""

MAX_FILE = 256 << 20
"""Bytes of a prompt file."""


@dataclass(frozen=True)
class PromptFile:
    """Content of a prompt file.

    Attributes:
        prompts: The distinct prompts, in order.
        comments: Number of comment lines.
        repeated: Number of lines that repeat an earlier prompt.
    """

    prompts: list[Prompt]
    comments: int = 0
    repeated: int = 0


def read_prompt_file(path: Path) -> PromptFile:
    """Read a prompt file.

    Args:
        path: The file; "-" for standard input.

    Raises:
        NotFound: The file does not exist.
        Refused: A line is invalid; the message names file and line.
    """
    try:
        return parse_prompts(read_text(path, MAX_FILE).split("\n"))
    except BadPromptLine as bad:
        raise Refused(f"{path}, {bad.message}", bad.hint) from bad


class BadPromptLine(Refused):
    """A line of a prompt file is invalid; the message has its number."""


def parse_prompts(lines: Iterable[str]) -> PromptFile:
    """Parse the lines of a prompt file.

    A line is plain text or, for pairs, a JSON object with text, foreground and background. Blank
    lines are skipped, and so are comments: lines that are "#" or begin with "# ". A prompt may
    begin with "#" if no space follows. Equal prompts are merged.

    Args:
        lines: The lines.

    Raises:
        BadLine: A line is invalid, too long, or has characters that cannot be stored.
    """
    # A dictionary keeps the order and merges equal prompts.
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


def check_texts(prompt: Prompt, location: str) -> None:
    """Check the length and characters of a prompt's texts.

    Args:
        prompt: The prompt.
        location: Its location, for the message.

    Raises:
        BadLine: A text is too long or cannot be stored.
    """
    for text in filter(None, (prompt.text, prompt.foreground, prompt.background)):
        if len(text) > MAX_PROMPT:
            raise BadPromptLine(
                f"{location}: the prompt has {len(text):,} characters",
                f"at most {MAX_PROMPT:,} are allowed",
            )
        if not is_storable(text):
            raise BadPromptLine(
                f"{location}: the text contains a NUL or an unpaired surrogate", "remove it"
            )


def _parse_pair(text: str, number: int) -> Prompt:
    # Other keys are ignored; a text of another type raises AttributeError or TypeError.
    try:
        row = json.loads(text)
        return Prompt(row["text"].strip(), row["foreground"].strip(), row["background"].strip())
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        hint = 'the format for a pair is {"text": ..., "foreground": ..., "background": ...}'
        raise BadPromptLine(f"line {number} is not a valid prompt: {text[:80]}", hint) from error
