"""Routes for Label Studio: previews of tasks, and the webhook that triggers a pull."""

from __future__ import annotations

import hmac
import uuid
from typing import Annotated

from fastapi import APIRouter, Header, Query, Request, Response

from curation.api.auth import context_of
from curation.api.contract import answers
from curation.api.fields import STORABLE
from curation.domain import LayerRole
from curation.errors import Refused
from curation.labeling.previews import HOOK_HEADER, Previews, hook_secret

router = APIRouter(prefix="/api/desk", tags=["desk"])

PREVIEW_SECONDS = 600
"""How long a browser may keep a preview: while its candidate is looked at, and no longer than that."""


class WrongSecret(Refused):
    """Whoever rings is not the desk."""

    def __init__(self) -> None:
        super().__init__(
            "this is not the desk's secret", "the desk gets it with its hook, from the worker"
        )


@router.get(
    "/previews/{posting}/{role}.webp",
    summary="Get a layer for the other desk",
    response_class=Response,
    responses=answers(404) | {200: {"content": {"image/webp": {}}}},
)
def get_preview(
    request: Request,
    posting: uuid.UUID,
    role: LayerRole,
    sign: Annotated[str, Query(max_length=64), STORABLE],
) -> Response:
    """A layer of a candidate that is shown at Label Studio; 404 once it was taken down there."""
    previews: Previews = request.app.state.previews
    context = context_of(request)
    with context.database.transaction() as tx:
        sha256 = previews.find(tx, posting, role, sign)
    headers = {
        "cache-control": f"private, max-age={PREVIEW_SECONDS}",
        "content-security-policy": "default-src 'none'; sandbox",
        "cross-origin-resource-policy": "cross-origin",  # the desk's page has another origin
        "access-control-allow-origin": "*",  # its table of tasks asks for it; the address alone is the right to see
    }
    return Response(context.store.get(sha256), headers=headers, media_type="image/webp")


@router.post("/hook", status_code=204, summary="Wake the collector of the other desk")
def ring(
    request: Request,
    secret: Annotated[str, Header(alias=HOOK_HEADER, max_length=200), STORABLE] = "",
    board: uuid.UUID | None = None,
) -> None:
    """The desk says that something changed on a board. What changed is read there; to ring often changes nothing."""
    expected = hook_secret(context_of(request).settings.signing_secret())
    if not hmac.compare_digest(secret.encode(), expected.encode()):
        raise WrongSecret
    with context_of(request).database.transaction() as tx:
        tx.ask("collect", *([str(board)] if board is not None else []))
