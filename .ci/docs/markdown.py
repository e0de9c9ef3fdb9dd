"""Small pieces of Markdown that all generated pages use."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Sequence

NOTICE = (
    "<!-- Generated from the code by .ci/docs/reference.py; "
    "edit the code and run `make reference`. -->"
)


def page(title: str, intro: str, *parts: str) -> str:
    """Return a page: title, notice, introduction, parts."""
    return (
        "\n\n".join([f"# {title}", NOTICE, intro.strip(), *(part for part in parts if part)]) + "\n"
    )


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table; empty where there are no rows."""
    lines = ["| " + " | ".join(cell(value) for value in row) + " |" for row in rows]
    if not lines:
        return ""
    return "\n".join(["| " + " | ".join(head) + " |", "|" + "---|" * len(head), *lines])


def cell(value: object) -> str:
    """Return a text as the content of a table's cell."""
    return " ".join(str(value).split()).replace("|", "\\|").replace("<", "&lt;")


def code(value: object) -> str:
    """Return a text as code; empty text stays empty."""
    text = " ".join(str(value).split())
    return f"`{text}`" if text else ""


def sentence(text: str) -> str:
    """Return a text with a capital first letter and a full stop."""
    text = " ".join(text.split())
    if not text:
        return ""
    return text[0].upper() + text[1:] + ("" if text[-1] in ".!?:" else ".")


def prose(docstring: str | None) -> str:
    """Return a docstring as Markdown: sections become lists, indented examples become code."""
    out: list[str] = []
    section = False
    for block in re.split(r"\n\s*\n", inspect.cleandoc(docstring or "")):
        lines = block.split("\n")
        if re.fullmatch(
            r"(Args|Returns|Raises|Yields|Attributes|Example|Examples|Note|Notes):", lines[0]
        ):
            out.append(f"**{lines[0]}**\n\n{_items(lines[1:])}")
            section = True
        elif all(line.startswith("    ") for line in lines) and not section:
            out.append("```python\n" + inspect.cleandoc(block) + "\n```")
        elif all(line.startswith("    ") for line in lines):
            out.append(_items(lines))
        else:
            out.append(re.sub(r"(?<!`)<(?=\w)", "&lt;", block))
            section = False
    return "\n\n".join(out)


def _items(lines: list[str]) -> str:
    """Return the entries of a section as a list, a name before a colon as code."""
    entries: list[str] = []
    for line in lines:
        if line.startswith("    ") and not line.startswith("     "):
            entries.append(line.strip())
        elif entries:
            entries[-1] += " " + line.strip()
        else:
            entries.append(line.strip())
    return "\n".join("- " + re.sub(r"^([\w*.]+): ", r"`\1`: ", entry) for entry in entries)
