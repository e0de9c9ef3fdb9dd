"""Files of pair prompts: JSON Lines that grow by whole lines, so that generation can resume."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from curation.domain import Prompt, canonical_json
from curation.errors import Refused
from curation.input_files import read_input
from curation.prompts.files import MAX_FILE
from curation.prompts.parse import parse_line


def write_line(prompt: Prompt) -> str:
    """Return a pair prompt as a line of canonical JSON with text, foreground and background."""
    row = {"text": prompt.text, "foreground": prompt.foreground, "background": prompt.background}
    return canonical_json(row) + "\n"


def read_pair_prompts(path: Path) -> list[Prompt]:
    """Read the pair prompts of a file, without an incomplete last line.

    Args:
        path: The file; if it does not exist, there are no prompts.

    Raises:
        Refused: A line is not a pair prompt; the message has its number.
    """
    if not path.exists():
        return []
    prompts = []
    for number, line in enumerate(_complete_lines(path).decode("utf-8", "replace").splitlines(), 1):
        prompt = parse_line(line)
        if not isinstance(prompt, Prompt):
            raise Refused(
                f"{path}, line {number}: {prompt}",
                "choose another file with --out; this one stays unchanged",
            )
        prompts.append(prompt)
    return prompts


def append_prompts(path: Path, prompts: Sequence[Prompt]) -> None:
    """Append pair prompts to a file in one write, and sync it to disk.

    Args:
        path: The file; an incomplete last line is truncated first.
        prompts: The pair prompts.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # An interrupted write may have left part of a line.
    complete = len(_complete_lines(path)) if path.exists() else 0
    with path.open("ab") as out:
        out.truncate(complete)
        out.write("".join(map(write_line, prompts)).encode())
        out.flush()
        os.fsync(out.fileno())


def _complete_lines(path: Path) -> bytes:
    data = read_input(path, MAX_FILE)
    return data[: data.rfind(b"\n") + 1]
