"""Checkpoint routes: evaluation, sample grid, lineage and promotion."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any

import sqlalchemy as sa
from fastapi import APIRouter, Path, Request
from pydantic import BaseModel

from curation.api.auth import ReadCheckpoints, WriteCheckpoints
from curation.api.contract import error_responses, operation_link, with_links
from curation.api.fields import STORABLE
from curation.api.signed_urls import SignedUrls
from curation.checkpoints import registry
from curation.db.engine import Transaction
from curation.db.tables import rounds

router = APIRouter(prefix="/api", tags=["checkpoints"], responses=error_responses(401))

Name = Annotated[str, Path(pattern="^[0-9a-f]{8,64}$"), STORABLE]


# Responses


class CheckpointResponse(BaseModel):
    """A checkpoint with its lineage, its metrics, and the rounds that it generated.

    Imported weights have the recipe "imported" and no snapshot; `changes` are overrides of the
    preset.
    """

    id: str
    recipe: str
    preset: str
    changes: dict[str, str]
    snapshot: str | None
    parent: str | None
    seed: int
    code_version: str
    evaluation: dict[str, float]
    sample_grid_url: str | None
    promoted_at: datetime | None
    created_at: datetime
    rounds: list[int]


# Routes


@router.get(
    "/checkpoints",
    summary="List checkpoints",
    responses=with_links(
        200,
        checkpoint=operation_link("get_checkpoint", name="$response.body#/0/id"),
        promote_checkpoint=operation_link("promote_checkpoint", name="$response.body#/0/id"),
    ),
)
def get_checkpoints(request: Request, visit: ReadCheckpoints) -> list[CheckpointResponse]:
    """Return all checkpoints, newest first."""
    with visit.transaction() as (tx, _):
        rows = registry.list_checkpoints(tx)
        by_checkpoint = _rounds_by_checkpoint(tx)
    return [_checkpoint(request, row, by_checkpoint) for row in rows]


@router.get("/checkpoints/{name}", summary="Get a checkpoint", responses=error_responses(404))
def get_checkpoint(request: Request, visit: ReadCheckpoints, name: Name) -> CheckpointResponse:
    """Return a checkpoint by its id or the first eight or more digits of it."""
    with visit.transaction() as (tx, _):
        row = _row(tx, name)
        by_checkpoint = _rounds_by_checkpoint(tx)
    return _checkpoint(request, row, by_checkpoint)


@router.post(
    "/checkpoints/{name}/promote",
    summary="Promote a checkpoint",
    responses=error_responses(404, 409),
)
def promote_checkpoint(request: Request, visit: WriteCheckpoints, name: Name) -> CheckpointResponse:
    """Promote a checkpoint, so that it generates new rounds."""
    with visit.transaction() as (tx, reviewer):
        promoted = registry.promote_checkpoint(tx, name, reviewer.name)
        row = _row(tx, promoted)
        by_checkpoint = _rounds_by_checkpoint(tx)
    return _checkpoint(request, row, by_checkpoint)


def _row(tx: Transaction, name: str) -> dict[str, Any]:
    found = registry.find_checkpoint(tx, name).id
    return next(row for row in registry.list_checkpoints(tx) if row["id"] == found)


def _rounds_by_checkpoint(tx: Transaction) -> Mapping[str, list[int]]:
    found: dict[str, list[int]] = {}
    for row in tx.execute(sa.select(rounds.c.id, rounds.c.checkpoint_id).order_by(rounds.c.id)):
        found.setdefault(row.checkpoint_id, []).append(row.id)
    return found


def _checkpoint(
    request: Request, row: Mapping[str, Any], by_checkpoint: Mapping[str, list[int]]
) -> CheckpointResponse:
    links: SignedUrls = request.app.state.links
    # Columns that have the same name in the response.
    same = (
        "id",
        "recipe",
        "preset",
        "changes",
        "seed",
        "code_version",
        "evaluation",
        "promoted_at",
    )
    return CheckpointResponse(
        **{name: row[name] for name in same},
        snapshot=row["snapshot_id"],
        parent=row["parent_id"],
        sample_grid_url=links.address(row["sample_grid"], "png") if row["sample_grid"] else None,
        created_at=row["created_at"],
        rounds=by_checkpoint.get(row["id"], []),
    )
