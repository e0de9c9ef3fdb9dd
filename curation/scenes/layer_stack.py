"""What a layered file is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from curation.ports import RGBA


@dataclass(frozen=True)
class StackLayer:
    """One layer: straight H x W x 4 uint8, its upper left corner at `offset` (x, y), `opacity` 0..255 beside it."""

    name: str
    rgba: RGBA
    offset: tuple[int, int]
    opacity: int


@dataclass(frozen=True)
class LayerStack:
    """Layers from the lowest to the uppermost on a canvas of `size` (width, height), and all of them blended."""

    size: tuple[int, int]
    sheets: Sequence[StackLayer]
    merged: RGBA
