"""The difference between two snapshots, from their manifests alone, and as a contact sheet."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw

from curation.datasets.decision_records import read_decisions_part
from curation.datasets.manifest import Manifest, read_manifest, read_part, read_withheld
from curation.domain import LayerRole, Sample
from curation.errors import Corrupt, NotFound
from curation.images.codec import decode_layer
from curation.object_store import ObjectReader

FIELDS = ("caption", "texts", "licence", "source", "split", "layers", "captioner", "kind", "round")
"""Fields of a sample that may change while its id stays."""
TILE = 128
"""Width and height of an image on a contact sheet, in pixels."""
COLUMNS = 8
MAX_SCANNED = 20_000
"""Largest number of samples that a page of changes reads."""
PER_GROUP = 64
"""Largest number of images of a group on a contact sheet."""


@dataclass(frozen=True, slots=True)
class Change:
    """A sample that both snapshots have, with the fields that differ."""

    before: Sample
    after: Sample
    fields: tuple[str, ...]


@dataclass
class DecisionsDiff:
    """The difference between the decided candidates of two snapshots, as ids of candidates.

    Attributes:
        added: Candidates that only the second one has.
        removed: Candidates that only the first one has.
        turned: Candidates with another verdict.
        changed: Candidates with the same verdict that differ otherwise, as in their posterior.
    """

    added: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    turned: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)


@dataclass
class SnapshotDiff:
    """The difference between two snapshots.

    Attributes:
        added: Samples that only the second one has.
        removed: Samples that only the first one has.
        changed: Samples that differ.
        withheld: Ids of samples that are withheld only in the second one.
        released: Ids of samples that are withheld only in the first one.
        licences: By licence, the numbers of samples in both, where they differ.
        decisions: The difference between the decided candidates.
    """

    added: list[Sample] = field(default_factory=list)
    removed: list[Sample] = field(default_factory=list)
    changed: list[Change] = field(default_factory=list)
    withheld: list[str] = field(default_factory=list)
    released: list[str] = field(default_factory=list)
    licences: dict[str, tuple[int, int]] = field(default_factory=dict)
    decisions: DecisionsDiff = field(default_factory=DecisionsDiff)

    def changed_fields(self) -> dict[str, int]:
        """Return the number of changed samples by field."""
        return dict(Counter(name for change in self.changed for name in change.fields))


def compare_snapshots(store: ObjectReader, first: str, second: str) -> SnapshotDiff:
    """Compare two snapshots; parts that both have are not read.

    Args:
        store: Store of both snapshots.
        first: Full id of the older one.
        second: Full id of the newer one.

    Raises:
        NotFound: A snapshot or a part is not in the store.
        Corrupt: A part cannot be read.
    """
    manifests = read_manifest(store, first), read_manifest(store, second)
    diff = SnapshotDiff()
    for before, after in _walk(store, *manifests):
        if before is None and after is not None:
            diff.added.append(after)
        elif after is None and before is not None:
            diff.removed.append(before)
        elif before is not None and after is not None:
            fields = _changed_fields(before, after)
            if fields:
                diff.changed.append(Change(before, _sharing(after, before), fields))
    hidden = read_withheld(store, first), read_withheld(store, second)
    diff.withheld = sorted(hidden[1] - hidden[0])
    diff.released = sorted(hidden[0] - hidden[1])
    diff.decisions = _compare_decisions(store, *manifests)
    counts = [manifest.counts.get("licence", {}) for manifest in manifests]
    for name in sorted({*counts[0], *counts[1]}):
        numbers = counts[0].get(name, 0), counts[1].get(name, 0)
        if numbers[0] != numbers[1]:
            diff.licences[name] = numbers
    return diff


@dataclass(frozen=True)
class ChangedSample:
    """A sample that differs between two snapshots; `before` or `after` is None where it lacks."""

    before: Sample | None
    after: Sample | None

    @property
    def sample(self) -> Sample:
        """The sample as it is in the newer snapshot, or as it was if it was removed."""
        found = self.after or self.before
        assert found is not None  # noqa: S101 - a changed sample is in one of them
        return found

    @property
    def kind(self) -> Literal["added", "removed", "changed"]:
        """How it differs."""
        if self.before is None:
            return "added"
        return "removed" if self.after is None else "changed"

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields that differ, of a sample that both have."""
        return _changed_fields(self.before, self.after) if self.before and self.after else ()


def read_changes(
    store: ObjectReader,
    first: str,
    second: str,
    *,
    kind: str | None = None,
    after: str = "",
    limit: int = 60,
) -> tuple[list[ChangedSample], str | None]:
    """Return a page of the samples that differ between two snapshots, in the order of their ids.

    A page reads at most `MAX_SCANNED` samples, so that it may have fewer than `limit` rows, or
    none, although there are more.

    Args:
        store: Store of both snapshots.
        first: Full id of the older one.
        second: Full id of the newer one.
        kind: Only samples that were "added", "removed" or "changed".
        after: Only samples with a greater id.
        limit: The largest number of samples.

    Returns:
        The samples, and the value of `after` that continues, None at the end.

    Raises:
        NotFound: A snapshot or a part is not in the store.
        Corrupt: A part cannot be read.
    """
    manifests = read_manifest(store, first), read_manifest(store, second)
    found: list[ChangedSample] = []
    for scanned, (old, new) in enumerate(_walk(store, *manifests, after)):
        if len(found) == limit or scanned == MAX_SCANNED:
            return found, after
        one = ChangedSample(old, new)
        after = one.sample.id
        if (one.kind != "changed" or one.fields) and kind in (None, one.kind):
            found.append(one)
    return found, None


def contact_sheet(store: ObjectReader, diff: SnapshotDiff) -> bytes:
    """Return a PNG with the first added, removed and changed samples on a checkerboard.

    Args:
        store: Store of the layers; images that cannot be read are left empty.
        diff: The difference.
    """
    groups = [
        (f"{len(diff.added)} added", diff.added),
        (f"{len(diff.removed)} removed", diff.removed),
        (f"{len(diff.changed)} changed", [change.after for change in diff.changed]),
    ]
    return draw_sheet(
        store, [(title, [one.layers for one in samples]) for title, samples in groups if samples]
    )


def draw_sheet(
    store: ObjectReader, groups: Sequence[tuple[str, Sequence[Mapping[LayerRole, str]]]]
) -> bytes:
    """Return a PNG with groups of images on a checkerboard, each below its title.

    Args:
        store: Store of the layers; images that cannot be read are left empty.
        groups: Title and images of each group; an image is given by its layers.
    """
    rows = sum(1 + -(-min(len(images), PER_GROUP) // COLUMNS) for _, images in groups)
    sheet = Image.new("RGB", (COLUMNS * TILE, max(1, rows) * TILE), "white")
    draw, row = ImageDraw.Draw(sheet), 0
    for title, images in groups:
        draw.text((8, row * TILE + TILE - 24), title, fill="black", font_size=18)
        row += 1
        for index, layers in enumerate(images[:PER_GROUP]):
            tile = _tile(store, layers)
            offset = (index % COLUMNS * TILE, (row + index // COLUMNS) * TILE)
            sheet.paste(tile, offset)
        row += -(-min(len(images), PER_GROUP) // COLUMNS)
    out = io.BytesIO()
    sheet.save(out, "PNG")
    return out.getvalue()


def _compare_decisions(store: ObjectReader, first: Manifest, second: Manifest) -> DecisionsDiff:
    """Compare the decided candidates; parts that both have are not read."""
    indexes = first.decisions, second.decisions
    parts = [index.parts if index else () for index in indexes]
    shared = {part.sha256 for part in parts[0]} & {part.sha256 for part in parts[1]}
    old, new = (
        {
            record.candidate: record
            for part in own
            if part.sha256 not in shared
            for record in read_decisions_part(store, part)
        }
        for own in parts
    )
    both = sorted(old.keys() & new.keys())
    turned = [one for one in both if old[one].verdict != new[one].verdict]
    differing = [one for one in both if old[one] != new[one]]
    changed = sorted(set(differing) - set(turned))
    return DecisionsDiff(
        sorted(new.keys() - old.keys()), sorted(old.keys() - new.keys()), turned, changed
    )


def _walk(
    store: ObjectReader, first: Manifest, second: Manifest, start: str = ""
) -> Iterator[tuple[Sample | None, Sample | None]]:
    """Walk the samples after `start` side by side, by id; parts that both have are not read.

    Yields a sample of the first one and of the second one with the same id, or one of them.
    """
    shared = {part.sha256 for part in first.parts} & {part.sha256 for part in second.parts}
    before, after = (_differing(store, manifest, shared, start) for manifest in (first, second))
    old, new = next(before, None), next(after, None)
    while old is not None or new is not None:
        if new is None or (old is not None and old.id < new.id):
            yield old, None
            old = next(before, None)
        elif old is None or new.id < old.id:
            yield None, new
            new = next(after, None)
        else:
            yield old, new
            old, new = next(before, None), next(after, None)


def _differing(
    store: ObjectReader, manifest: Manifest, shared: set[str], start: str
) -> Iterator[Sample]:
    for part in manifest.parts:
        if part.sha256 not in shared and part.prefix >= start[: len(part.prefix)]:
            yield from (sample for sample in read_part(store, part) if sample.id > start)


def _sharing(sample: Sample, other: Sample) -> Sample:
    """Return an equal sample that shares equal values with another: a million may have changed."""
    values = {name: getattr(other, name) for name in (*FIELDS, "id", "visible")}
    equal = {name: value for name, value in values.items() if value == getattr(sample, name)}
    return replace(sample, **equal)


def _changed_fields(before: Sample, after: Sample) -> tuple[str, ...]:
    return tuple(name for name in FIELDS if getattr(before, name) != getattr(after, name))


def _tile(store: ObjectReader, layers: Mapping[LayerRole, str]) -> Image.Image:
    board = np.indices((TILE, TILE)).sum(axis=0) // 8 % 2
    image = Image.fromarray(np.where(board, 204, 255).astype(np.uint8)).convert("RGB")
    name = layers.get(LayerRole.blended) or layers.get(LayerRole.foreground)
    try:
        rgba = Image.fromarray(decode_layer(store.get(name or "")), "RGBA")
    except (NotFound, Corrupt):
        return image
    # Premultiplied while it is shrunk, or hidden colors would appear as a fringe.
    small = rgba.convert("RGBa")
    small.thumbnail((TILE - 4, TILE - 4), Image.Resampling.BOX)
    small = small.convert("RGBA")
    image.paste(small, ((TILE - small.width) // 2, (TILE - small.height) // 2), small)
    return image
