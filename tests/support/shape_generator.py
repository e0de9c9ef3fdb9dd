"""A generator that needs no training, and a training that trains nothing: they draw the procedural domain's pictures."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from curation.domain import Checkpoint, GenerationRequest, LayerRole, TrainingRequest
from curation.images.pairs import composite
from curation.ports import (
    DEFAULT_OPTIONS,
    GenerationOptions,
    LayerGenerator,
    Layers,
    ObjectStore,
    ProgressCallback,
)
from curation.synthetic.backgrounds import GROUNDS, PAIR_SUBJECTS, draw_pair, sample_scene
from curation.synthetic.shapes import SUBJECTS, draw_subject

SECONDS_EACH = 0.05


class Painter:
    """Every fourth picture is not as its prompt asks: of another colour, or a background of another line and light."""

    batch_size = 1

    def generate(
        self, requests: Sequence[GenerationRequest], options: GenerationOptions = DEFAULT_OPTIONS
    ) -> Sequence[Layers]:
        return [
            self._draw_pair(one)
            if one.prompt.background
            else {LayerRole.foreground: self._draw(one)}
            for one in requests
        ]

    def describe(self, options: GenerationOptions) -> Mapping[str, str]:
        return {"model": "painter", "steps": str(options.steps or 1)}

    def environment(self, options: GenerationOptions, *, pair: bool = False) -> Mapping[str, str]:
        return {"device": "cpu", "precision": "uint8"}

    def _draw(self, request: GenerationRequest) -> np.ndarray:
        time.sleep(SECONDS_EACH)
        requested = SUBJECTS[request.prompt.text]
        others = [
            one
            for one in SUBJECTS.values()
            if one.shape == requested.shape and one.color != requested.color
        ]
        subject = (
            others[request.seed % len(others)] if request.seed % 4 == 0 and others else requested
        )
        return draw_subject(subject, np.random.default_rng(request.seed), 64)

    def _draw_pair(self, request: GenerationRequest) -> Layers:
        rng = np.random.default_rng(request.seed)
        requested = {
            "subject": PAIR_SUBJECTS[request.prompt.foreground],
            "ground": GROUNDS[request.prompt.background],
        }
        pair = draw_pair(replace(sample_scene(rng), **requested), rng, 64)
        if request.seed % 4 == 0:
            apart = draw_pair(replace(sample_scene(rng), **requested), rng, 64)[
                LayerRole.background
            ]
            pair |= {
                LayerRole.background: apart,
                LayerRole.blended: composite(pair[LayerRole.foreground], apart),
            }
        return pair


class LonePainter(Painter):
    """One of a checkpoint from before pairs: a foreground alone, whatever is asked."""

    def generate(
        self, requests: Sequence[GenerationRequest], options: GenerationOptions = DEFAULT_OPTIONS
    ) -> Sequence[Layers]:
        return [{LayerRole.foreground: self._draw(one)} for one in requests]


def train_nothing(
    order: TrainingRequest, store: ObjectStore, folder: Path, report: ProgressCallback
) -> Checkpoint:
    """Return a trained checkpoint for LAYERLOOP_TRAINER, whose weights are a few bytes."""
    sha256 = store.put(f"{order.id}".encode())
    parent = order.parent.id if order.parent else None
    return Checkpoint(
        {"base": sha256}, order.recipe, order.preset, order.snapshot, parent, order.seed, "test",
        {"psnr": 30.0},
    )  # fmt: skip


def open_painter(checkpoint: Checkpoint, store: ObjectStore) -> LayerGenerator:
    """Return a generator for LAYERLOOP_GENERATOR; the weights of the checkpoint are not read."""
    return Painter()


def open_lone_painter(checkpoint: Checkpoint, store: ObjectStore) -> LayerGenerator:
    """As open_painter."""
    return LonePainter()
