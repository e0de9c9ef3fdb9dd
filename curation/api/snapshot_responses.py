"""Responses of the snapshot routes: snapshots, their samples, and what changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from pydantic import BaseModel

from curation.api.image_urls import ImageUrls
from curation.api.review_items import THUMBNAIL_SIDE
from curation.datasets.snapshots import read_snapshots
from curation.db.engine import Transaction
from curation.db.tables import layers
from curation.domain import CaptionSource, Kind, LayerRole, Sample, Split


class SnapshotResponse(BaseModel):
    """An immutable set of samples, named by its content.

    After a takedown of samples of it, `taken_down` is true, and `successor` has the other samples.
    `change` is the difference of its counts and those of its parent, without equal ones; null
    without a parent that has samples in this instance.
    """

    id: str
    samples: int
    counts: dict[str, dict[str, int]]
    decisions: dict[str, dict[str, int]] | None
    tags: list[str]
    frozen_at: datetime
    query: dict[str, Any] | None
    parent: str | None
    change: dict[str, dict[str, int]] | None
    taken_down: bool
    successor: str | None
    review: dict[str, Any] | None
    notes: list[str]


class SampleLayer(BaseModel):
    """A layer of a sample: URLs that are valid for ten minutes or more, and its size, if known.

    `small` is the same image with at most 320 pixels on its longer side.
    """

    url: str
    small: str
    width: int | None
    height: int | None


class SampleResponse(BaseModel):
    """One sample of a snapshot."""

    id: str
    kind: Kind
    caption: str
    caption_source: CaptionSource
    texts: dict[LayerRole, str]
    licence: str
    source: str
    split: Split
    round: int
    layers: dict[LayerRole, SampleLayer]


class SnapshotPage(BaseModel):
    """Samples in the order of their ids; `next` is the value of `after` for the next page."""

    snapshot: SnapshotResponse
    samples: list[SampleResponse]
    next: str | None


def answer_samples(
    tx: Transaction, images: ImageUrls, shown: Sequence[Sample]
) -> list[SampleResponse]:
    """Return samples with URLs of their layers."""
    shas = {sha for sample in shown for sha in sample.layers.values()}
    rows = tx.execute(
        sa.select(layers.c.sha256, layers.c.width, layers.c.height).where(layers.c.sha256.in_(shas))
    )
    sizes = {row.sha256: row for row in rows}
    return [_sample(images, sample, sizes) for sample in shown]


def answer_snapshots(tx: Transaction, rows: Sequence[Mapping[str, Any]]) -> list[SnapshotResponse]:
    """Return snapshots with what changed since their parents."""
    parents = find_parents(tx, rows)
    return [_snapshot(row, parents.get(row["parent_id"])) for row in rows]


def find_parents(tx: Transaction, rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the parents of snapshots by id, except those without samples here or taken down."""
    found = read_snapshots(tx, [row["parent_id"] for row in rows if row["parent_id"]])
    return {id_: row for id_, row in found.items() if row["samples"] and not row["taken_down_by"]}


def _sample(images: ImageUrls, sample: Sample, sizes: Mapping[str, sa.Row[Any]]) -> SampleResponse:
    return SampleResponse(
        id=sample.id,
        kind=sample.kind,
        caption=sample.caption,
        caption_source=sample.caption_source
        or (CaptionSource.model if sample.captioner else CaptionSource.given),
        texts=dict(sample.texts),
        licence=sample.licence,
        source=sample.source,
        split=sample.split,
        round=sample.round,
        layers={role: _layer(images, sha, sizes.get(sha)) for role, sha in sample.layers.items()},
    )


def _layer(images: ImageUrls, sha256: str, size: sa.Row[Any] | None) -> SampleLayer:
    # The size is unknown if the layer is not recorded in this installation.
    if size is None:
        url = images.own.address(sha256)
        return SampleLayer(url=url, small=url, width=None, height=None)
    small = max(size.width, size.height) <= THUMBNAIL_SIDE
    url = images.layer(sha256)
    return SampleLayer(
        url=url,
        small=url if small else images.own.address(sha256, side=THUMBNAIL_SIDE),
        width=size.width,
        height=size.height,
    )


def _snapshot(row: Mapping[str, Any], parent: Mapping[str, Any] | None) -> SnapshotResponse:
    shown = ("id", "samples", "counts", "decisions", "tags", "query", "review", "notes")
    known = {name: row[name] for name in shown}
    change = _difference(parent["counts"], row["counts"]) if parent else None
    return SnapshotResponse(
        **known,
        frozen_at=row["created_at"],
        parent=row["parent_id"],
        change=change,
        taken_down=row["taken_down_by"] is not None,
        successor=row["successor_id"],
    )


def _difference(
    before: Mapping[str, Mapping[str, int]], after: Mapping[str, Mapping[str, int]]
) -> dict[str, dict[str, int]]:
    found = {
        group: {
            key: after.get(group, {}).get(key, 0) - before.get(group, {}).get(key, 0)
            for key in sorted({*before.get(group, {}), *after.get(group, {})})
        }
        for group in sorted({*before, *after})
    }
    return {
        group: {key: number for key, number in numbers.items() if number}
        for group, numbers in found.items()
        if any(numbers.values())
    }
