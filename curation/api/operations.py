"""The route of the operations page: workers, queues, webhooks and labeling, for data engineers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from functools import partial
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel

from curation.api.auth import Engineer
from curation.api.contract import error_responses
from curation.db.workers import WorkerProcess, WorkerState
from curation.logs import mask_secrets
from curation.reporting.operations import HeldLeases, Operations, WebhookStatus, read_operations

router = APIRouter(prefix="/api", tags=["operations"], responses=error_responses(401))


class HeldLeasesResponse(BaseModel):
    """Leases of a worker for one purpose, and the seconds until the first of them expires."""

    purpose: str
    count: int
    seconds_left: float


class WorkerResponse(BaseModel):
    """A live worker: what it does, and why it claims nothing where it is paused."""

    id: str
    host: str
    pid: int
    queues: list[str]
    version: str
    state: WorkerState
    reason: str | None
    job: str | None
    last_error: str | None
    started_at: datetime
    seen_at: datetime
    leases: list[HeldLeasesResponse]


class WaitingJobs(BaseModel):
    """Jobs of one name that no worker has taken yet."""

    job: str
    count: int
    oldest_seconds: float


class OpenRound(BaseModel):
    """A round that is not closed, with its candidates by state."""

    id: int
    state: str
    quota: int
    candidates: dict[str, int]


class LastDeliveryResponse(BaseModel):
    """The newest delivery of a webhook."""

    event: str
    state: str
    attempts: int
    error: str | None
    created_at: datetime


class WebhookResponse(BaseModel):
    """A webhook by the origin of its receiver, with its deliveries of the last weeks by state."""

    id: int
    receiver: str
    events: list[str]
    active: bool
    disabled_reason: str | None
    failing_since: datetime | None
    pending: int
    delivered: int
    failed: int
    last: LastDeliveryResponse | None


class LabelingProject(BaseModel):
    """A project in Label Studio of a round that is not closed, with its tasks and annotations."""

    round: int
    part: int
    server_url: str
    remote_id: int | None
    active: bool
    sending: int
    open: int
    annotated: int
    not_accepted: int
    decisions: int
    pending: int
    refused: int
    pulled_at: datetime | None
    error: str | None


class ExcludedRound(BaseModel):
    """An open round that is not pushed to Label Studio, and the reason."""

    round: int
    reason: str


class OperationsResponse(BaseModel):
    """The state of an instance for its operator; `labeling` is the tool that rounds are labeled in.

    Secrets of the settings are replaced in every reason and error.
    """

    workers: list[WorkerResponse]
    queues: list[WaitingJobs]
    rounds: list[OpenRound]
    webhooks: list[WebhookResponse]
    labeling: str
    projects: list[LabelingProject]
    excluded_rounds: list[ExcludedRound]
    trouble: list[str]


@router.get("/operations", summary="Get the state of workers, queues, webhooks and labeling")
def get_operations(visit: Engineer) -> OperationsResponse:
    """Return workers with their leases, waiting jobs, webhooks, labeling projects and trouble."""
    settings = visit.context.settings
    mask = partial(mask_secrets, secrets=settings.secret_values())
    with visit.transaction(one_view=True) as (tx, _):
        found = read_operations(tx, labeling=settings.labeling_url is not None)
    return _response(found, settings.labeling.partition("+")[0], mask)


def _response(found: Operations, labeling: str, mask: Callable[[str], str]) -> OperationsResponse:
    return OperationsResponse(
        workers=[_worker(one, found.held.get(one.id, ()), mask) for one in found.workers],
        queues=[WaitingJobs(**asdict(queue)) for queue in found.queues],
        rounds=[
            OpenRound(id=one.round_id, state=one.state, quota=one.quota, candidates=one.candidates)
            for one in found.rounds
        ],
        webhooks=[_webhook(one, mask) for one in found.webhooks],
        labeling=labeling,
        projects=[LabelingProject(**_masked(row, mask)) for row in found.projects],
        excluded_rounds=[ExcludedRound(**row) for row in found.excluded_rounds],
        trouble=[mask(sentence) for sentence in found.trouble],
    )


def _worker(
    worker: WorkerProcess, held: Sequence[HeldLeases], mask: Callable[[str], str]
) -> WorkerResponse:
    leases = [asdict(one) for one in held]
    return WorkerResponse(**_masked(asdict(worker), mask), leases=leases)


def _webhook(webhook: WebhookStatus, mask: Callable[[str], str]) -> WebhookResponse:
    row = _masked(asdict(webhook), mask)
    return WebhookResponse(**row | {"last": row["last"] and _masked(row["last"], mask)})


def _masked(row: Mapping[str, Any], mask: Callable[[str], str]) -> dict[str, Any]:
    """Return a row without secrets in the texts that errors of other programs are part of."""
    texts = ("reason", "last_error", "disabled_reason", "error")
    return dict(row) | {name: mask(row[name]) for name in texts if row.get(name)}
