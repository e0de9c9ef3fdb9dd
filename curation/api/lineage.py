"""Lineage routes: where a sample comes from and went, and what a checkpoint was used for."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Path
from pydantic import BaseModel

from curation.api.auth import ReadCheckpoints, ReadSnapshots
from curation.api.checkpoints import Name
from curation.api.contract import error_responses
from curation.api.fields import STORABLE
from curation.reporting import lineage

router = APIRouter(prefix="/api", responses=error_responses(401, 404))

SampleName = Annotated[str, Path(pattern="^[0-9a-f]{8,32}$"), STORABLE]

NEWEST_SNAPSHOTS = 50
"""Snapshots that are searched for a sample, the newest ones."""


# Responses


class SampleDecision(BaseModel):
    """A decision on a sample's candidate."""

    created_at: datetime
    reviewer: str
    verdict: str
    reasons: list[str]


class SampleOrigin(BaseModel):
    """The candidate that was accepted; `checkpoint` is null for imported images."""

    id: str
    prompt: str
    seed: int | None
    round: int
    purpose: str
    checkpoint: str | None
    propensity: float | None
    decisions: list[SampleDecision]


class HoldingSnapshot(BaseModel):
    """A snapshot that holds the sample; withheld samples are in no training."""

    id: str
    tags: list[str]
    withheld: bool


class TrainedCheckpoint(BaseModel):
    """A checkpoint that was trained on a snapshot."""

    id: str
    snapshot_id: str
    promoted_at: datetime | None


class SampleLineage(BaseModel):
    """Where a sample comes from, and which of the newest 50 snapshots hold it.

    `open` is whether its candidate can be decided again; then there is no `candidate`, since review
    is blind. Samples that were imported without review have none either.
    """

    id: str
    caption: str
    licence: str
    source: str
    split: str
    round: int
    withdrawn_at: datetime | None
    open: bool
    candidate: SampleOrigin | None
    snapshots: list[HoldingSnapshot]
    checkpoints: list[TrainedCheckpoint]


class LineageStep(BaseModel):
    """An ancestor of a checkpoint, and the snapshot that it was trained on."""

    id: str
    snapshot: str | None


class GeneratedRound(BaseModel):
    """A round that a checkpoint generated, with the numbers of all and of accepted candidates."""

    id: int
    candidates: int
    accepted: int


class CheckpointLineage(BaseModel):
    """What a checkpoint was made from, and what was made with it: its newest 100 rounds.

    `samples` and `counts` are those of its snapshot; null and empty if it is not in this instance.
    """

    id: str
    snapshot: str | None
    samples: int | None
    counts: dict[str, dict[str, int]]
    ancestors: list[LineageStep]
    rounds: list[GeneratedRound]
    children: list[str]


# Routes


@router.get(
    "/samples/{sample}/lineage",
    summary="Get the lineage of a sample",
    tags=["snapshots"],
    responses=error_responses(410),
)
def get_sample_lineage(visit: ReadSnapshots, sample: SampleName) -> SampleLineage:
    """Return the origin of a sample by its id or its first digits, its decisions and snapshots.

    Of a sample that was taken down, the error names the time and the record.
    """
    # Check the role first. Manifests are read outside of the transaction.
    with visit.transaction():
        pass
    found = lineage.why_sample(
        visit.context.database, visit.context.store, sample, newest=NEWEST_SNAPSHOTS
    )
    return SampleLineage.model_validate(found)


@router.get(
    "/checkpoints/{name}/lineage", summary="Get the lineage of a checkpoint", tags=["checkpoints"]
)
def get_checkpoint_lineage(visit: ReadCheckpoints, name: Name) -> CheckpointLineage:
    """Return the snapshot and the ancestors of a checkpoint, its rounds and its descendants."""
    with visit.transaction() as (tx, _):
        return CheckpointLineage.model_validate(lineage.used_by_checkpoint(tx, name))
