"""Review items as JSON: a candidate and the signed addresses of its layers."""

from __future__ import annotations

import uuid

from fastapi import Request
from pydantic import BaseModel

from curation.api.signed_urls import SignedUrls
from curation.domain import Kind, LayerRole, ReviewItem, ReviewItemLayer

SMALL = 320
"""Longer side in pixels of a layer on a contact sheet or in a list; larger ones are served shrunk to it."""


class LayerAnswer(BaseModel):
    """One layer: addresses that work for ten minutes or more, and its size in pixels.

    `small` is the same picture with at most 320 pixels on its longer side, to find one's way by and not to judge by.
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
    """A card with signed addresses in the place of hashes."""
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
    """A layer with the addresses at which it is served."""
    links: SignedUrls = request.app.state.links
    url = links.address(layer.sha256)
    small = (
        url if max(layer.width, layer.height) <= SMALL else links.address(layer.sha256, side=SMALL)
    )
    return LayerAnswer(url=url, small=small, width=layer.width, height=layer.height)
