"""A generator of pairs without weights, determined by texts, seed and given layers."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

from curation.domain import Checkpoint, GenerationRequest, LayerRole
from curation.images.codec import decode_layer
from curation.images.pairs import composite
from curation.ports import (
    DEFAULT_OPTIONS,
    RGBA,
    GenerationOptions,
    LayerGenerator,
    Layers,
    ObjectStore,
)

SIDE = 64


class PairPainter:
    """Generates color gradients as backgrounds, and soft discs, lit by a given background."""

    batch_size = 2

    def __init__(self, store: ObjectStore) -> None:
        self.store = store
        self.asked: list[tuple[GenerationRequest, GenerationOptions]] = []

    def generate(
        self, requests: Sequence[GenerationRequest], options: GenerationOptions = DEFAULT_OPTIONS
    ) -> Sequence[Layers]:
        return [self._pair(request, options) for request in requests]

    def describe(self, options: GenerationOptions) -> Mapping[str, str]:
        width, height = options.size or (SIDE, SIDE)
        if options.size is None and options.aspect:
            width = round(SIDE * options.aspect)
        output = {
            "model": "pair painter",
            "steps": str(options.steps or 1),
            "size": f"{width}x{height}",
        }
        return output | {f"given {role}": sha256 for role, sha256 in options.given.items()}

    def environment(self, options: GenerationOptions, *, pair: bool = False) -> Mapping[str, str]:
        return {"device": "cpu", "precision": "uint8"}

    def _pair(self, request: GenerationRequest, options: GenerationOptions) -> Layers:
        self.asked.append((request, options))
        given = {
            role: decode_layer(self.store.get(sha256)) for role, sha256 in options.given.items()
        }
        prompt, size = request.prompt, options.size or (SIDE, SIDE)
        background = given.get(LayerRole.background)
        if background is None:
            background = gradient(f"{prompt.background}{request.seed}", size)
        foreground = given.get(LayerRole.foreground)
        if foreground is None:
            light = (
                background[..., :3].mean(axis=(0, 1))
                if LayerRole.background in given
                else np.full(3, 128.0)
            )
            foreground = disc(f"{prompt.foreground}{request.seed}", size, light)
        return {
            LayerRole.foreground: foreground,
            LayerRole.background: background,
            LayerRole.blended: composite(foreground, background),
        }


def gradient(text: str, size: tuple[int, int]) -> RGBA:
    """Return an opaque background: from one color at the top to another."""
    first, second = _hash_bytes(text)[:3], _hash_bytes(text)[3:6]
    share = np.linspace(0, 1, size[1])[:, None, None]
    rgba = np.full((size[1], size[0], 4), 255, np.uint8)
    rgba[..., :3] = first * (1 - share) + second * share
    return rgba


def disc(text: str, size: tuple[int, int], light: np.ndarray) -> RGBA:
    """Return a soft disc, whose color is the mean of its own and that of the light."""
    values = _hash_bytes(text)
    y, x = np.mgrid[: size[1], : size[0]]
    center = (0.2 + 0.6 * values[3] / 255) * size[0], (0.2 + 0.6 * values[4] / 255) * size[1]
    radius = min(size) * (0.12 + 0.15 * values[5] / 255)
    alpha = np.clip((radius - np.hypot(x - center[0], y - center[1])) / 3 + 0.5, 0, 1) * 255
    rgba = np.zeros((size[1], size[0], 4), np.uint8)
    rgba[..., :3] = (values[:3] + light) / 2
    rgba[..., 3] = alpha.round()
    rgba[rgba[..., 3] == 0] = 0
    return rgba


def _hash_bytes(text: str) -> np.ndarray:
    return np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint8).astype(float)


def open_pair_painter(checkpoint: Checkpoint, store: ObjectStore) -> LayerGenerator:
    """Return a generator for LAYERLOOP_GENERATOR; the weights of the checkpoint are not read."""
    return PairPainter(store)
