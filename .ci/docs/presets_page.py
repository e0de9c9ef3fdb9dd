"""The reference of presets, from the commented columns of Preset and the rows of the table."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_type_hints

from markdown import code, page, sentence, table

ROOT = Path(__file__).resolve().parents[2]
INTRO = """
A preset is one row of the table in `training/presets/presets.py`; all presets have the same
columns. `train --preset NAME` chooses a row, and `--set column=value` changes one number of it.
Values are checked against the range of their column before anything starts. Counts are images,
never steps.
"""


def presets_page() -> str:
    """Return the page."""
    from training.presets.preset import Preset
    from training.presets.presets import PRESETS

    hints = get_type_hints(Preset, include_extras=True)
    parts = []
    for title, columns in _sections():
        meanings = (
            [code(name), code(_type(hints[name])), _meaning(name, text)]
            for name, text in columns
            if name != "name"
        )
        values = (
            [code(name), *(_value(getattr(row, name)) for row in PRESETS.values())]
            for name, _ in columns
            if name != "name"
        )
        names = [f"`{name}`" for name in PRESETS]
        parts.append(
            f"## {title}\n\n{table(['column', 'type', 'meaning'], meanings)}\n\n"
            f"{table(['column', *names], values)}"
        )
    return page("Presets", INTRO, *parts)


def _sections() -> list[tuple[str, list[tuple[str, str]]]]:
    """Return the columns of Preset under the titles that stand as comments between them."""
    source = (ROOT / "training" / "presets" / "preset.py").read_text("utf-8")
    body = source.split("class Preset:")[1].split("    def ")[0]
    found: list[tuple[str, list[tuple[str, str]]]] = [("General", [])]
    comment: list[str] = []
    fresh = False
    for raw in body.splitlines():
        line = raw.strip()
        if not line:
            comment, fresh = [], True
        elif line.startswith("#"):
            text = line.lstrip("# ")
            # The first comment after an empty line is a title where it is a sentence.
            if fresh and text[:1].isupper() and text.endswith("."):
                found.append((text.rstrip("."), []))
            else:
                comment.append(text)
            fresh = False
        elif match := re.match(r"(\w+): [^#]+(?:#\s*(.*))?$", line):
            found[-1][1].append((match[1], " ".join([*comment, match[2] or ""]).strip()))
            comment, fresh = [], False
    return [(title, columns) for title, columns in found if columns]


def _meaning(name: str, text: str) -> str:
    return sentence(text or name.replace("_", " "))


def _type(hint: Any) -> str:
    """Return a type in words with its range."""
    metadata = getattr(hint, "__metadata__", ())
    if not metadata:
        text = getattr(hint, "__name__", "") if isinstance(hint, type) else str(hint)
        text = re.sub(r"\btyping\.|<class '(\w+)'>", r"\1", text).replace("Annotated[", "[")
        return re.sub(r"\[(int|float), FieldInfo\([^\[\]]*\[[^\[\]]*\]\)\]", r"\1", text)
    bounds = []
    for one in metadata[0].metadata:
        for sign, attribute in ((">=", "ge"), (">", "gt"), ("<=", "le"), ("<", "lt")):
            if hasattr(one, attribute):
                bounds.append(f"{sign} {getattr(one, attribute)}")
    return " ".join([hint.__origin__.__name__, ", ".join(bounds)]).strip()


def _value(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, tuple):
        return ", ".join(str(one) for one in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) and value >= 10_000 else str(value)
