"""Descriptions of imported files (caption, license, source, split) and their comparison."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from curation.datasets.samples import UNKNOWN_VALUE
from curation.domain import CaptionSource, LayerRole, Prompt, Sample, Split
from curation.images.headers import InvalidImage

FIELDS = ("caption", "licence", "source", "split", "foreground", "background")
"""Fields in which two descriptions may differ; the last two are the texts of a pair's layers."""


@dataclass(frozen=True)
class FileMetadata:
    """Metadata of one file; None for a missing field.

    Attributes:
        caption: Text of the image.
        caption_source: Where the caption comes from.
        licence: License of the image.
        source: Origin of the image.
        split: Train or held out.
        texts: Texts of the layers of a pair.
        refusal: Why the file is held back: its metadata exists but cannot be read.
    """

    caption: str | None = None
    caption_source: CaptionSource = CaptionSource.given
    licence: str | None = None
    source: str | None = None
    split: Split | None = None
    texts: Mapping[LayerRole, str] = field(default_factory=dict)
    refusal: InvalidImage | None = None

    def filled_from(self, other: FileMetadata) -> FileMetadata:
        """Return this description with its gaps filled by another one."""
        return FileMetadata(
            self.caption or other.caption,
            CaptionSource.given,
            self.licence or other.licence,
            self.source or other.source,
            self.split or other.split,
            self.texts or other.texts,
        )

    @property
    def prompt(self) -> Prompt:
        """The texts of the sample that the file becomes."""
        front, back = (
            self.texts.get(role) for role in (LayerRole.foreground, LayerRole.background)
        )
        return Prompt(self.caption or UNKNOWN_VALUE, front, back)

    def record(self) -> dict[str, Any]:
        """Return the description as a JSON object, as stored with the file's row."""
        row: dict[str, str | None] = {
            "caption": self.caption,
            "caption_source": self.caption_source,
        }
        row |= {"licence": self.licence, "source": self.source, "split": self.split}
        row |= {str(role): text for role, text in self.texts.items()}
        return {name: str(value) for name, value in row.items() if value is not None}


@dataclass(frozen=True)
class ImportDifference:
    """A difference between a file in the folder and its state when it was imported.

    Attributes:
        name: The file.
        field: One of FIELDS, "caption source", "pixels" or "description" (no longer readable).
        before: The imported value; for pixels, a layer's hash.
        after: The value now; for pixels, a layer's hash or the reason of a refusal.
        taken: Whether the sample was updated.
    """

    name: str
    field: str
    before: str | None
    after: str | None
    taken: bool = False


def compare(
    before: Mapping[str, str], after: Mapping[str, str]
) -> dict[str, tuple[str | None, str | None]]:
    """Compare two records of Description.record.

    Args:
        before: The stored record.
        after: The record of the file now.

    Returns:
        The fields that differ, each with its values before and after.
    """
    changed = {
        name: (before.get(name), after.get(name))
        for name in FIELDS
        if before.get(name) != after.get(name)
    }
    # A changed caption implies a new source; only a change of the source alone is reported.
    sources = before.get("caption_source"), after.get("caption_source")
    if "caption" not in changed and sources[0] != sources[1]:
        changed["caption source"] = sources
    return changed


def record_from_sample(
    sample: Sample, source: CaptionSource, now: Mapping[str, str]
) -> dict[str, str]:
    """Reconstruct the record of a sample that was imported before records were stored.

    Args:
        sample: The sample.
        source: Where its caption comes from.
        now: The record of the file now. A split is included only if this has one too.
    """
    # Default values mean that the file had no such metadata.
    record = {"caption": sample.caption, "caption_source": str(source)}
    record |= {str(role): text for role, text in sample.texts.items()}
    if sample.licence != UNKNOWN_VALUE:
        record["licence"] = sample.licence_text or sample.licence
    if not sample.source.startswith("seed folder "):
        record["source"] = sample.source
    if "split" in now:
        record["split"] = sample.split
    return record
