"""Docstrings and comments name exceptions and constants that exist."""

from __future__ import annotations

import ast
import builtins
import io
import re
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("layerloop", "curation", "training", "annotator_ui")
FILES = sorted(file for package in PACKAGES for file in (ROOT / package).rglob("*.py"))

FOREIGN = {
    "AUDIT_ARCH",  # linux/audit.h
    "EX_SOFTWARE",  # sysexits.h
    "ID_0",  # names of files
    "ID_1",
    "L_GAN",  # a term of a formula
    "LOCAL_FILES_DOCUMENT_ROOT",  # a setting of Label Studio
    "WANDB_MODE",  # a setting of Weights & Biases
}
"""Names of other programs, formulas and files."""

RAISED_INLINE = re.compile(r"\bRaises ((?:[A-Z]\w+)(?:(?:, | or | and )[A-Z]\w+)*)")
RAISED_ENTRY = re.compile(r"^ +((?:[A-Z]\w+)(?:(?:, | or )[A-Z]\w+)*): ", re.MULTILINE)
CONSTANT = re.compile(r"\b[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+\b")


def name(file: Path) -> str:
    return str(file.relative_to(ROOT))


@cache
def parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text())


def test_exceptions_that_docstrings_name_exist():
    known, missing = exceptions(), {}
    for file in FILES:
        found = {raised for text in docstrings(file) for raised in raised_names(text)}
        if wrong := found - known:
            missing[name(file)] = wrong
    assert missing == {}


def test_constants_that_docstrings_and_comments_name_exist():
    known, missing = code_words() | FOREIGN, {}
    for file in FILES:
        texts = [*docstrings(file), *comments(file)]
        if wrong := {word for text in texts for word in CONSTANT.findall(text)} - known:
            missing[name(file)] = wrong
    assert missing == {}


def docstrings(file: Path) -> Iterator[str]:
    """Yield the docstrings of a file, those of its constants and fields included."""
    for node in ast.walk(parsed(file)):
        value = node.value if isinstance(node, ast.Expr) else None
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            yield value.value


def comments(file: Path) -> Iterator[str]:
    """Yield the comments of a file."""
    for token in tokenize.generate_tokens(io.StringIO(file.read_text()).readline):
        if token.type == tokenize.COMMENT:
            yield token.string


def raised_names(text: str) -> set[str]:
    """Return the exceptions that a docstring names in a sentence or in its section Raises."""
    section = re.search(r"^ *Raises:\n((?: +.*\n?|\n)*)", text, re.MULTILINE)
    listed = RAISED_INLINE.findall(text) + RAISED_ENTRY.findall(section[1] if section else "")
    return {raised for names in listed for raised in re.split(r", | or | and ", names)}


def exceptions() -> frozenset[str]:
    """Return the names of all exception classes: built-in ones, and classes and imports of ours."""
    found = {name for name, value in vars(builtins).items() if isinstance(value, type)}
    for file in FILES:
        for node in ast.walk(parsed(file)):
            if isinstance(node, ast.ClassDef):
                found.add(node.name)
            elif isinstance(node, ast.ImportFrom):
                found |= {alias.name for alias in node.names}
    return frozenset(found)


def code_words() -> frozenset[str]:
    """Return every word of the code outside of docstrings and comments, and each setting's name."""
    from curation.settings import Settings

    found = {f"LAYERLOOP_{field.upper()}" for field in Settings.model_fields}
    for file in FILES:
        documented = set(docstrings(file))
        for token in tokenize.generate_tokens(io.StringIO(file.read_text()).readline):
            if token.type == tokenize.NAME:
                found.add(token.string)
            elif token.type == tokenize.STRING and ast_text(token.string) not in documented:
                found |= set(re.findall(r"\w+", token.string))
    return frozenset(found)


def ast_text(literal: str) -> object:
    """Return the value of a string literal; None for an f-string."""
    try:
        return ast.literal_eval(literal)
    except (ValueError, SyntaxError):
        return None
