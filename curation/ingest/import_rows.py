"""Rows of the import log: one for each file and unreadable manifest line."""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Mapping
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Final

from curation.datasets.duplicates import Duplicate
from curation.ingest.caption_files import CAPTION_SUFFIXES
from curation.ingest.inspection_result import InspectionOutcome, InspectionResult
from curation.ingest.listing import BadLine, Listing

SUPPORTED_FILES = (
    "an import reads images, caption files (x.txt, x.caption, x.json), "
    "metadata (.jsonl, .csv, .tsv, .json), and zip and tar archives of these"
)
"""Sentence for a file of a type that imports do not read."""


MAX_NAME: Final = 2_600
"""Bytes of a stored file name: a PostgreSQL index row holds 2,704, including the import's ID."""


CAPTION_WITHOUT_IMAGE = "a caption or metadata file without an image of the same name"


def file_row(
    import_id: uuid.UUID,
    name: str,
    stamp: str,
    found: InspectionResult,
    layer: str | None = None,
    described: Mapping[str, str] | None = None,
) -> dict[str, object]:
    """Return the row of import_files for one file.

    Args:
        import_id: ID of the import.
        name: The file.
        stamp: Sizes and modification times of its files, to detect changes.
        found: The outcome.
        layer: Hash of the identifying layer, if it is stored.
        described: The record of its description.
    """
    sentence = found.sentence
    if found.code == "not_an_image":
        is_caption = PurePosixPath(name).suffix.lower() in CAPTION_SUFFIXES
        sentence = CAPTION_WITHOUT_IMAGE if is_caption else f"{sentence}; {SUPPORTED_FILES}"
    return {
        "import_id": import_id,
        "name": row_name(name),
        "stamp": stamp,
        "outcome": found.outcome,
        "codes": [storable_name(code) for code in found.codes],
        "message": storable_name(sentence),
        "layer": layer,
        "description": described,
    }


def bad_line_rows(import_id: uuid.UUID, listing: Listing) -> list[dict[str, object]]:
    """Return rows for the bad lines of a listing's manifests, and a row per manifest with any."""
    rows = []
    manifests: dict[str, list[BadLine]] = {}
    for line in listing.bad_lines:
        manifests.setdefault(line.name.rpartition(":")[0], []).append(line)
        name = listing.inside + line.name
        rows.append(
            file_row(
                import_id,
                name,
                "",
                InspectionResult(name, line.outcome, (line.code,), line.sentence),
            )
        )
    for manifest, lines in manifests.items():
        name = listing.inside + manifest
        code = next(
            (line.code for line in lines if line.outcome is InspectionOutcome.reject), lines[0].code
        )
        sentence = f"{len(lines)} of its lines cannot be applied, each is listed"
        rows.append(
            file_row(
                import_id,
                name,
                "",
                InspectionResult(name, InspectionOutcome.partial, (code,), sentence),
            )
        )
    return rows


def as_duplicate(
    found: InspectionResult, first: Duplicate, names: dict[str, str]
) -> InspectionResult:
    """Return the outcome of a duplicate, which keeps the codes and sentences of its own findings.

    Args:
        found: The duplicate as inspected.
        first: The layer that it duplicates.
        names: File names by layer hash; without one, the hash identifies the layer.
    """
    original = names.get(first.of, f"layer {first.of[:12]}")
    kind = "duplicate_of" if first.exact else "near_duplicate_of"
    sentence = (
        f"the same visible pixels as {original}"
        if first.exact
        else f"nearly the same image as {original}"
    )
    findings = f"; {found.sentence}" if found.sentence else ""
    codes = (f"{kind}:{original}", *found.codes)
    return replace(
        found,
        outcome=InspectionOutcome.duplicate,
        codes=codes,
        sentence=sentence + findings,
        layer=None,
    )


def storable_name(text: str) -> str:
    """Return a file name as valid UTF-8 text, with invalid bytes and NUL as escapes."""
    return os.fsencode(text).decode("utf-8", "backslashreplace").replace("\0", "\\0")


def row_name(name: str) -> str:
    """Return the stored form of a file name; one of more than MAX_NAME bytes is cut and hashed."""
    data = storable_name(name).encode()
    if len(data) <= MAX_NAME:
        return data.decode()
    return f"{data[:200].decode('utf-8', 'ignore')}...{hashlib.sha256(data).hexdigest()[:16]}"
