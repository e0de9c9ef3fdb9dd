"""Files of triples: JSON lines that grow by whole lines, so that a making that was stopped goes on where it was."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from curation.domain import Prompt, canonical_json
from curation.errors import Refused
from curation.input_files import read_input
from curation.prompts.files import MAX_FILE
from curation.prompts.parse import read_line


def write_line(prompt: Prompt) -> str:
    """A triple as a canonical line of JSON with the keys text (the whole), foreground and background."""
    row = {"text": prompt.text, "foreground": prompt.foreground, "background": prompt.background}
    return canonical_json(row) + "\n"


def read_triples(path: Path) -> list[Prompt]:
    """The triples of a file; none where there is no file. A last line that was cut off by a kill is left out.

    Raises Refused, naming the line, for anything that is no triple.
    """
    if not path.exists():
        return []
    prompts = []
    for number, line in enumerate(_whole(path).decode("utf-8", "replace").splitlines(), 1):
        read = read_line(line)
        if not isinstance(read, Prompt):
            raise Refused(
                f"{path}, line {number}: {read}",
                "name another file with --out; this one is left as it is",
            )
        prompts.append(read)
    return prompts


def append(path: Path, prompts: Sequence[Prompt]) -> None:
    """Add triples at a file's end, all at once and durably; what a kill left of a last line is cut off first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = len(_whole(path)) if path.exists() else 0
    with path.open("ab") as out:
        out.truncate(whole)
        out.write("".join(map(write_line, prompts)).encode())
        out.flush()
        os.fsync(out.fileno())


def _whole(path: Path) -> bytes:
    data = read_input(path, MAX_FILE)
    return data[: data.rfind(b"\n") + 1]
