"""The layer stack that all layered file formats are written from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from curation.ports import RGBA


@dataclass(frozen=True)
class StackLayer:
    """One layer of a stack.

    `rgba` is straight H x W x 4 uint8 with its upper left corner at `offset` (x, y); `opacity`
    (0..255) is not part of its alpha.
    """

    name: str
    rgba: RGBA
    offset: tuple[int, int]
    opacity: int


@dataclass(frozen=True)
class LayerStack:
    """Layers from the lowest to the uppermost on a canvas, and their blend.

    `size` is (width, height), `merged` the blend of all layers.
    """

    size: tuple[int, int]
    layers: Sequence[StackLayer]
    merged: RGBA
