"""Image routes: layers of candidates and samples, and sample grids of checkpoints."""

from __future__ import annotations

from typing import Annotated, Literal

import sqlalchemy as sa
from fastapi import APIRouter, Path, Query, Request, Response

from curation.api.auth import get_app_context
from curation.api.contract import error_responses
from curation.api.fields import QUERY_NUMBER, STORABLE
from curation.api.signed_urls import SignedUrls
from curation.api.thumbnails import ThumbnailCache
from curation.db.tables import checkpoints, layers
from curation.errors import Corrupt, NotFound
from curation.images.codec import MAX_DIMENSION, make_thumbnail, to_png

router = APIRouter(prefix="/api/layers", tags=["layers"])

PNG = b"\x89PNG\r\n\x1a\n"


@router.get(
    "/{sha256}.{form}",
    summary="Get an image",
    response_class=Response,
    responses=error_responses(404)
    | {
        200: {"content": {"image/webp": {}, "image/png": {}}},
        304: {"description": "The browser has the image already (If-None-Match)."},
    },
)
def get_layer(
    request: Request,
    sha256: Annotated[str, Path(pattern="^[0-9a-f]{64}$"), STORABLE],
    form: Literal["webp", "png"],
    until: Annotated[int, Query(ge=0, le=2**40), QUERY_NUMBER],
    sign: Annotated[str, Query(max_length=64), STORABLE],
    side: Annotated[int, Query(ge=0, le=MAX_DIMENSION), QUERY_NUMBER] = 0,
) -> Response:
    """Return the image of a signed URL: a layer (WebP or PNG), or a sample grid (PNG).

    With `side` the layer is shrunk to that longer side in pixels (lossy WebP) and cached for a
    while. The signature authorizes the request, so that no session is looked up for an image.
    """
    # Check the signature.
    links: SignedUrls = request.app.state.links
    seconds = links.seconds_left(sha256, form, until, sign, side)
    if not seconds:
        raise NotFound("this image URL has expired", "load the page again")
    # The content security policy keeps a browser from running the bytes as a document.
    headers = {
        "cache-control": f"private, max-age={seconds}, immutable",
        "content-security-policy": "default-src 'none'; sandbox",
        "content-disposition": f'inline; filename="{sha256[:12]}.{form}"',
        "etag": f'"{sha256}.{form}{side or ""}"',
    }
    if request.headers.get("if-none-match") == headers["etag"]:
        return Response(status_code=304, headers=headers)
    # Shrink the layer if requested. What is cached may have been taken down since.
    if side:
        _check_recorded(request, sha256)
    thumbnails: ThumbnailCache = request.app.state.renditions
    image = (
        thumbnails.get(
            (sha256, side), lambda: make_thumbnail(_image(request, sha256, "webp"), side)
        )
        if side
        else None
    )
    return Response(
        image or _image(request, sha256, form), headers=headers, media_type=f"image/{form}"
    )


def _check_recorded(request: Request, sha256: str) -> None:
    """Raise NotFound if a layer is not recorded, or no longer."""
    with get_app_context(request).database.transaction() as tx:
        if not tx.scalar(sa.select(sa.exists().where(layers.c.sha256 == sha256))):
            raise NotFound("there is no such image", "load the page again")


def _image(request: Request, sha256: str, form: str) -> bytes:
    context = get_app_context(request)
    with context.database.transaction() as tx:
        layer = bool(tx.scalar(sa.select(sa.exists().where(layers.c.sha256 == sha256))))
        sheet = form == "png" and bool(
            tx.scalar(sa.select(sa.exists().where(checkpoints.c.sample_grid == sha256)))
        )
    if not layer and not sheet:
        raise NotFound("there is no such image", "load the page again")
    stored = context.store.get(sha256)
    if layer:
        return to_png(stored) if form == "png" else stored
    if not stored.startswith(PNG):
        raise Corrupt("a checkpoint's sample grid is not a PNG", "run 'layerloop doctor'")
    return stored
