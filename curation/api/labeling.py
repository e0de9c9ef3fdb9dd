"""Routes for Label Studio: previews of tasks, and the webhook that triggers a pull."""

from __future__ import annotations

import hmac
import uuid
from typing import Annotated

from fastapi import APIRouter, Header, Query, Request, Response

from curation.api.auth import get_app_context
from curation.api.contract import error_responses
from curation.api.fields import STORABLE
from curation.domain import JobName, LayerRole
from curation.errors import Refused
from curation.labeling.previews import WEBHOOK_HEADER, PreviewUrls, webhook_secret

router = APIRouter(prefix="/api/labeling", tags=["labeling"])

PREVIEW_SECONDS = 600
"""Seconds for which a browser may cache a preview, about as long as its task is open."""


class WrongWebhookSecret(Refused):
    """The secret of a webhook request is wrong."""

    def __init__(self) -> None:
        super().__init__(
            "the webhook's secret is wrong",
            "the worker configures webhook and secret in Label Studio",
        )


@router.get(
    "/previews/{task_id}/{role}.webp",
    summary="Get a layer of a Label Studio task",
    response_class=Response,
    responses=error_responses(404) | {200: {"content": {"image/webp": {}}}},
)
def get_preview(
    request: Request,
    task_id: uuid.UUID,
    role: LayerRole,
    sign: Annotated[str, Query(max_length=64), STORABLE],
) -> Response:
    """Return a layer of a candidate that has a Label Studio task; 404 after the task is removed."""
    previews: PreviewUrls = request.app.state.previews
    context = get_app_context(request)
    with context.database.transaction() as tx:
        sha256 = previews.resolve(tx, task_id, role, sign)
    # Label Studio has another origin, and its data manager loads images with CORS. The signed URL
    # alone authorizes the request.
    headers = {
        "cache-control": f"private, max-age={PREVIEW_SECONDS}",
        "content-security-policy": "default-src 'none'; sandbox",
        "cross-origin-resource-policy": "cross-origin",
        "access-control-allow-origin": "*",
    }
    return Response(context.store.get(sha256), headers=headers, media_type="image/webp")


@router.post("/webhook", status_code=204, summary="Receive a webhook of Label Studio")
def receive_webhook(
    request: Request,
    secret: Annotated[str, Header(alias=WEBHOOK_HEADER, max_length=200), STORABLE] = "",
    project: uuid.UUID | None = None,
) -> None:
    """Enqueue a job that reads the changed annotations of a project, or of all projects."""
    # The webhook has no session; its secret is compared in constant time.
    expected = webhook_secret(get_app_context(request).signing_secret())
    if not hmac.compare_digest(secret.encode(), expected.encode()):
        raise WrongWebhookSecret
    # Equal jobs are sent once, so that frequent requests do no harm.
    with get_app_context(request).database.transaction() as tx:
        tx.enqueue(JobName.pull_annotations, *([str(project)] if project is not None else []))
