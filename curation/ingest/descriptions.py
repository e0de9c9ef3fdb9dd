"""What is said of an imported file beside its pixels, in a form that is kept and compared with what is said later."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from curation.datasets.samples import UNKNOWN
from curation.domain import CaptionSource, LayerRole, Prompt, Sample, Split
from curation.images.headers import BadFile

FIELDS = ("caption", "licence", "source", "split", "foreground", "background")
"""What two descriptions of one file may differ in; the last two are the texts of a pair's layers."""


@dataclass(frozen=True)
class Description:
    """What is known of one file; None where nothing was said.

    `refusal` is why the file is held back: something is said of it that cannot be read, so nothing is made up instead.
    """

    caption: str | None = None
    caption_source: CaptionSource = CaptionSource.given
    licence: str | None = None
    source: str | None = None
    split: Split | None = None
    texts: Mapping[LayerRole, str] = field(default_factory=dict)
    refusal: BadFile | None = None

    @property
    def prompt(self) -> Prompt:
        """Return the texts of the sample that is made of the file."""
        front, back = (
            self.texts.get(role) for role in (LayerRole.foreground, LayerRole.background)
        )
        return Prompt(self.caption or UNKNOWN, front, back)

    def record(self) -> dict[str, Any]:
        """Return the description as JSON, as it is kept with the file's row."""
        row: dict[str, str | None] = {
            "caption": self.caption,
            "caption_source": self.caption_source,
        }
        row |= {"licence": self.licence, "source": self.source, "split": self.split}
        row |= {str(role): text for role, text in self.texts.items()}
        return {name: str(value) for name, value in row.items() if value is not None}


@dataclass(frozen=True)
class Difference:
    """Something that a folder says of an imported file otherwise than when it was imported.

    `field` is one of FIELDS, "caption source", "pixels" (`before` and `after` are layers, or why the new file is
    refused) or "description" (it cannot be read any more); `taken` says whether the sample was changed.
    """

    name: str
    field: str
    before: str | None
    after: str | None
    taken: bool = False


def compare(
    before: Mapping[str, str], after: Mapping[str, str]
) -> dict[str, tuple[str | None, str | None]]:
    """Return the fields of two records that differ, each with its values before and after."""
    changed = {
        name: (before.get(name), after.get(name))
        for name in FIELDS
        if before.get(name) != after.get(name)
    }
    sources = before.get("caption_source"), after.get("caption_source")
    if "caption" not in changed and sources[0] != sources[1]:
        changed["caption source"] = sources
    return changed


def record_of(sample: Sample, source: CaptionSource, now: Mapping[str, str]) -> dict[str, str]:
    """Return what must have been said of a sample that was imported before descriptions were kept.

    What nobody told then is no difference where nobody tells it now: `now` is the record of today.
    """
    record = {"caption": sample.caption, "caption_source": str(source)}
    record |= {str(role): text for role, text in sample.texts.items()}
    if sample.licence != UNKNOWN:
        record["licence"] = sample.licence
    if not sample.source.startswith("seed folder "):
        record["source"] = sample.source
    if "split" in now:
        record["split"] = sample.split
    return record
