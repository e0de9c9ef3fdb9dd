"""Review items as JSON: a candidate and the signed URLs of its layers."""

from __future__ import annotations

import uuid

from fastapi import Request
from pydantic import BaseModel

from curation.api.image_urls import ImageUrls
from curation.domain import Kind, LayerRole, ReviewItem, ReviewItemLayer

THUMBNAIL_SIDE = 320
"""Longer side, in pixels, to which larger layers are shrunk in a grid or a list."""


class LayerResponse(BaseModel):
    """One layer: URLs that are valid for ten minutes or more, and its size in pixels.

    `small` is the same image with at most 320 pixels on its longer side, for grids and lists.
    """

    url: str
    small: str
    width: int
    height: int


class ReviewItemResponse(BaseModel):
    """A candidate as a reviewer sees it."""

    id: uuid.UUID
    round: int
    kind: Kind
    prompt: str
    flags: list[str]
    layers: dict[LayerRole, LayerResponse]
    signals: dict[str, float | None]
    texts: dict[LayerRole, str]


def review_item_response(request: Request, item: ReviewItem) -> ReviewItemResponse:
    """Return a review item as JSON, with signed URLs of its layers."""
    return ReviewItemResponse(
        id=item.id,
        round=item.round,
        kind=item.kind,
        prompt=item.prompt,
        flags=list(item.flags),
        layers={role: layer_response(request, layer) for role, layer in item.layers.items()},
        signals=dict(item.signals),
        texts=dict(item.texts),
    )


def layer_response(request: Request, layer: ReviewItemLayer) -> LayerResponse:
    """Return a layer as JSON, with its signed URLs."""
    images: ImageUrls = request.app.state.images
    url = images.layer(layer.sha256, blind=True)
    small = (
        url
        if max(layer.width, layer.height) <= THUMBNAIL_SIDE
        else images.own.address(layer.sha256, side=THUMBNAIL_SIDE)
    )
    return LayerResponse(url=url, small=small, width=layer.width, height=layer.height)
