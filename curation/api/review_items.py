"""Review items as JSON: a candidate and the signed URLs of its layers."""

from __future__ import annotations

import uuid

from fastapi import Request
from pydantic import BaseModel

from curation.api.signed_urls import SignedUrls
from curation.domain import Kind, LayerRole, ReviewItem, ReviewItemLayer

SMALL = 320
"""Longer side, in pixels, to which larger layers are shrunk in a grid or a list."""


class LayerAnswer(BaseModel):
    """One layer: URLs that are valid for ten minutes or more, and its size in pixels.

    `small` is the same image with at most 320 pixels on its longer side, for grids and lists.
    """

    url: str
    small: str
    width: int
    height: int


class CardAnswer(BaseModel):
    """A candidate as a reviewer sees it."""

    id: uuid.UUID
    round: int
    kind: Kind
    prompt: str
    flags: list[str]
    layers: dict[LayerRole, LayerAnswer]
    signals: dict[str, float | None]
    texts: dict[LayerRole, str]


def card_answer(request: Request, card: ReviewItem) -> CardAnswer:
    """Return a review item as JSON, with signed URLs of its layers."""
    return CardAnswer(
        id=card.id,
        round=card.round,
        kind=card.kind,
        prompt=card.prompt,
        flags=list(card.flags),
        layers={role: layer_answer(request, layer) for role, layer in card.layers.items()},
        signals=dict(card.signals),
        texts=dict(card.texts),
    )


def layer_answer(request: Request, layer: ReviewItemLayer) -> LayerAnswer:
    """Return a layer as JSON, with its signed URLs."""
    links: SignedUrls = request.app.state.links
    url = links.address(layer.sha256)
    small = url if max(layer.width, layer.height) <= SMALL else links.address(layer.sha256, side=SMALL)
    return LayerAnswer(url=url, small=small, width=layer.width, height=layer.height)
