"""Snapshot routes: list, samples by page, and freezing a new snapshot."""

from __future__ import annotations

import itertools
from operator import itemgetter
from typing import Annotated, Any

import sqlalchemy as sa
from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import Field, Strict, StrictBool

from curation.api.auth import ReadSnapshots, WriteSnapshots
from curation.api.contract import error_responses, list_page, operation_link, with_links
from curation.api.fields import JSON_NUMBER, QUERY_NUMBER, STORABLE, Body
from curation.api.image_urls import ImageUrls
from curation.api.paging import Digest, Limit, cut_page
from curation.api.snapshot_responses import (
    SnapshotPage,
    SnapshotResponse,
    answer_samples,
    answer_snapshots,
)
from curation.datasets import snapshots
from curation.datasets.decision_records import has_decision_layer
from curation.datasets.freeze_query import FreezeQuery
from curation.datasets.licences import LicencePolicy
from curation.datasets.manifest import read_samples, snapshot_objects
from curation.datasets.snapshot_tags import TagName
from curation.db.engine import Transaction
from curation.db.tables import candidate_layers, sample_layers
from curation.domain import Kind
from curation.errors import NotFound
from curation.review.frozen_decisions import find_decided

router = APIRouter(prefix="/api/snapshots", tags=["snapshots"], responses=error_responses(401))

Name = Annotated[str, Path(min_length=1, max_length=100), STORABLE]
Text = Annotated[str, Field(min_length=1, max_length=500), STORABLE]
RoundNumber = Annotated[int, Field(ge=0, le=2**31 - 1), JSON_NUMBER]


# Requests and responses


class FreezeRequest(Body):
    """A new snapshot, with a tag if one is given; without conditions it has all samples."""

    tag: TagName | None = None
    rounds: list[RoundNumber] = Field(default=[], max_length=1_000)
    sources: list[Text] = Field(default=[], max_length=100)
    licences: list[Text] = Field(default=[], max_length=100)
    kinds: list[Kind] = Field(default=[], max_length=2)
    min_agreement: Annotated[float, Strict()] = Field(default=0.0, ge=0, le=1)
    allowed_licences: list[Text] = Field(default=[], max_length=100)
    mix_non_commercial: StrictBool = False
    with_rejects: StrictBool = False
    leave_out_damaged: StrictBool = False

    def query(self) -> FreezeQuery:
        """Return the conditions as a query."""
        return FreezeQuery(
            rounds=tuple(self.rounds),
            sources=tuple(self.sources),
            licences=tuple(self.licences),
            kinds=tuple(self.kinds),
            min_agreement=self.min_agreement,
        )


# Routes


@router.get(
    "",
    summary="List snapshots",
    responses=list_page(snapshot=operation_link("get_snapshot", name="$response.body#/0/id")),
)
def get_snapshots(
    request: Request,
    response: Response,
    visit: ReadSnapshots,
    limit: Limit = 100,
    after: Digest | None = None,
) -> list[SnapshotResponse]:
    """Return snapshots, newest first, after the snapshot `after`."""
    with visit.transaction() as (tx, _):
        found = snapshots.list_snapshots(tx, limit + 1, after)
        shown = cut_page(request, response, found, limit, itemgetter("id"))
        return answer_snapshots(tx, shown)


@router.get(
    "/{name}",
    summary="Get a snapshot and a page of its samples",
    responses=error_responses(404, 410),
)
def get_snapshot(
    request: Request,
    visit: ReadSnapshots,
    name: Name,
    after: Annotated[str, Query(pattern="^[0-9a-f]{0,32}$"), STORABLE] = "",
    limit: Annotated[int, Query(ge=1, le=200), QUERY_NUMBER] = 60,
) -> SnapshotPage:
    """Return a snapshot by its tag, its id or the beginning of its id, and a page of samples."""
    images: ImageUrls = request.app.state.images
    with visit.transaction() as (tx, _):
        row = _find(tx, name)
    # One sample more than the page shows whether there is a next page.
    found = list(itertools.islice(read_samples(visit.context.store, row["id"], after), limit + 1))
    shown = found[:limit]
    with visit.transaction() as (tx, _):
        return SnapshotPage(
            snapshot=answer_snapshots(tx, [row])[0],
            samples=answer_samples(tx, images, shown),
            next=shown[-1].id if len(found) > limit else None,
        )


@router.get(
    "/{name}/objects/{sha256}",
    summary="Get an object of a snapshot",
    response_class=Response,
    responses=error_responses(404, 410) | {200: {"content": {"application/octet-stream": {}}}},
)
def get_snapshot_object(
    visit: ReadSnapshots,
    name: Name,
    sha256: Annotated[str, Path(pattern="^[0-9a-f]{64}$"), STORABLE],
) -> Response:
    """Return the manifest of a snapshot, a part, the list of withheld samples, or a layer.

    The bytes have the sha256 that names them; `layerloop snapshot pull` checks it.
    """
    store = visit.context.store
    with visit.transaction() as (tx, _):
        snapshot = snapshots.find_snapshot(tx, name)
        is_layer = tx.scalar(sa.select(sa.exists().where(sample_layers.c.sha256 == sha256)))
        query = sa.select(candidate_layers.c.candidate_id)
        owners = tx.execute(query.where(candidate_layers.c.sha256 == sha256)).scalars().all()
    # Layers of candidates that are neither samples nor decided in it are not given out here.
    if not (
        is_layer
        or sha256 in (snapshot, *snapshot_objects(store, snapshot))
        or has_decision_layer(store, snapshot, sha256, frozenset(one.hex for one in owners))
    ):
        raise NotFound("the snapshot has no such object", "pull it again by its id")
    return Response(
        store.get(sha256),
        media_type="application/octet-stream",
        headers={"cache-control": "private, max-age=31536000, immutable", "etag": f'"{sha256}"'},
    )


@router.post(
    "",
    status_code=201,
    summary="Freeze a snapshot",
    responses=error_responses(409)
    | with_links(201, snapshot=operation_link("get_snapshot", name="$response.body#/id")),
)
def post_snapshot(visit: WriteSnapshots, body: FreezeRequest) -> SnapshotResponse:
    """Freeze accepted samples; equal samples always give the same snapshot.

    `with_rejects` adds the decided candidates with their verdicts, without names of reviewers.
    """
    # Check the role first: objects are read and written outside of a transaction.
    with visit.transaction():
        pass
    prepared = snapshots.prepare_snapshot(
        visit.context.database,
        visit.context.store,
        body.query(),
        LicencePolicy(tuple(body.allowed_licences), body.mix_non_commercial),
        find_decided if body.with_rejects else None,
        leave_out_damaged=body.leave_out_damaged,
    )
    with visit.transaction() as (tx, reviewer):
        snapshots.record_snapshot(tx, prepared, tag=body.tag, actor=reviewer.name)
        return answer_snapshots(tx, [_find(tx, prepared.manifest.id)])[0]


def _find(tx: Transaction, name: str) -> dict[str, Any]:
    snapshot = snapshots.find_snapshot(tx, name)
    return snapshots.read_snapshots(tx, [snapshot])[snapshot]
