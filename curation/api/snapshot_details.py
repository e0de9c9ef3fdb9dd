"""Routes of one snapshot: what changed since its parent, distributions, formats of pulls."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel

from curation.api.auth import ReadSnapshots
from curation.api.contract import error_responses
from curation.api.fields import QUERY_NUMBER, STORABLE
from curation.api.image_urls import ImageUrls
from curation.api.snapshot_responses import SampleResponse, answer_samples, find_parents
from curation.api.snapshots import Name
from curation.datasets import snapshot_statistics, snapshots
from curation.exports.diff import ChangedSample, read_changes
from curation.exports.formats import FORMATS

router = APIRouter(
    prefix="/api/snapshots", tags=["snapshots"], responses=error_responses(401, 404, 410)
)

Change = Literal["added", "removed", "changed"]


# Responses


class ChangeResponse(BaseModel):
    """A sample that differs from the parent; `before` is its caption there if that changed."""

    change: Change
    fields: list[str]
    before: str | None
    sample: SampleResponse


class ChangePage(BaseModel):
    """Samples in the order of their ids; `next` is the value of `after` for the next page.

    A page may have fewer samples than its limit, or none, although there are more.
    """

    parent: str | None
    changes: list[ChangeResponse]
    next: str | None


class HistogramResponse(BaseModel):
    """Counts of values in bins of equal width between `low` and `high`, and their median."""

    low: float
    high: float
    median: float
    counts: list[int]


class WordCount(BaseModel):
    """A word, and the number of measured captions that have it."""

    word: str
    captions: int


class SnapshotStatistics(BaseModel):
    """Distributions over the `measured` first samples by id; ids are hashes, so a random choice.

    Lengths of captions are in words. Signals are known of samples that were candidates here.
    """

    samples: int
    measured: int
    caption_lengths: HistogramResponse | None
    words: list[WordCount]
    signals: dict[str, HistogramResponse]


class PullFormat(BaseModel):
    """A format of `layerloop snapshot pull --format`, and the programs that read it."""

    name: str
    reader: str


# Routes


@router.get("/{name}/changes", summary="List changes since the parent")
def get_snapshot_changes(
    request: Request,
    visit: ReadSnapshots,
    name: Name,
    kind: Change | None = None,
    after: Annotated[str, Query(pattern="^[0-9a-f]{0,32}$"), STORABLE] = "",
    limit: Annotated[int, Query(ge=1, le=200), QUERY_NUMBER] = 60,
) -> ChangePage:
    """Return a page of the samples that differ from the snapshot's parent.

    Without a parent that has samples in this instance, `parent` is null, and there are no changes.
    """
    images: ImageUrls = request.app.state.images
    with visit.transaction() as (tx, _):
        id_ = snapshots.find_snapshot(tx, name)
        row = snapshots.read_snapshots(tx, [id_])[id_]
        parent = row["parent_id"]
        if parent not in find_parents(tx, [row]):
            parent = None
    if parent is None:
        return ChangePage(parent=None, changes=[], next=None)
    # The parts are read without a transaction.
    found, following = read_changes(
        visit.context.store, parent, id_, kind=kind, after=after, limit=limit
    )
    with visit.transaction() as (tx, _):
        shown = answer_samples(tx, images, [change.sample for change in found])
    changes = [_change(change, sample) for change, sample in zip(found, shown, strict=True)]
    return ChangePage(parent=parent, changes=changes, next=following)


@router.get("/{name}/statistics", summary="Get distributions of captions and signals")
def get_snapshot_statistics(visit: ReadSnapshots, name: Name) -> SnapshotStatistics:
    """Return lengths and frequent words of captions, and the signals of screening."""
    with visit.transaction() as (tx, _):
        id_ = snapshots.find_snapshot(tx, name)
        total = snapshots.read_snapshots(tx, [id_])[id_]["samples"]
    measured = snapshot_statistics.read_measured(visit.context.store, id_)
    captions = snapshot_statistics.measure_captions(measured)
    with visit.transaction() as (tx, _):
        signals = snapshot_statistics.measure_signals(tx, measured)
    return SnapshotStatistics(
        samples=total,
        measured=len(measured),
        caption_lengths=_histogram(captions.lengths) if captions.lengths else None,
        words=[WordCount(word=word, captions=count) for word, count in captions.words],
        signals={signal: _histogram(found) for signal, found in signals.items()},
    )


@router.get("/{name}/formats", summary="List formats of pulls")
def get_snapshot_formats(visit: ReadSnapshots, name: Name) -> list[PullFormat]:
    """Return the formats in which the snapshot can be pulled; some hold only pairs."""
    with visit.transaction() as (tx, _):
        id_ = snapshots.find_snapshot(tx, name)
        kinds = snapshots.read_snapshots(tx, [id_])[id_]["counts"].get("kind", {})
    return [
        PullFormat(name=one.name, reader=one.reader)
        for one in FORMATS.values()
        if kinds.get("pair") or not one.pairs_only
    ]


def _change(change: ChangedSample, sample: SampleResponse) -> ChangeResponse:
    before = change.before.caption if change.before and "caption" in change.fields else None
    return ChangeResponse(
        change=change.kind, fields=list(change.fields), before=before, sample=sample
    )


def _histogram(found: snapshot_statistics.Histogram) -> HistogramResponse:
    return HistogramResponse(
        low=found.low, high=found.high, median=found.median, counts=list(found.counts)
    )
