"""A generator of procedural images without weights, and a trainer that trains nothing."""

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
    """Generates procedural images, of which every fourth differs from its prompt or its pair."""

    batch_size = 1

    def generate(
        self, requests: Sequence[GenerationRequest], options: GenerationOptions = DEFAULT_OPTIONS
    ) -> Sequence[Layers]:
        return [
            self._draw_pair(request)
            if request.prompt.background
            else {LayerRole.foreground: self._draw(request)}
            for request in requests
        ]

    def describe(self, options: GenerationOptions) -> Mapping[str, str]:
        return {"model": "painter", "steps": str(options.steps or 1)}

    def environment(self, options: GenerationOptions, *, pair: bool = False) -> Mapping[str, str]:
        return {"device": "cpu", "precision": "uint8"}

    def _draw(self, request: GenerationRequest) -> np.ndarray:
        time.sleep(SECONDS_EACH)
        requested = SUBJECTS[request.prompt.text]
        others = [
            subject
            for subject in SUBJECTS.values()
            if subject.shape == requested.shape and subject.color != requested.color
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
            other_background = draw_pair(replace(sample_scene(rng), **requested), rng, 64)[
                LayerRole.background
            ]
            pair |= {
                LayerRole.background: other_background,
                LayerRole.blended: composite(pair[LayerRole.foreground], other_background),
            }
        return pair


class ForegroundPainter(Painter):
    """A generator of single foregrounds only, also for prompts of pairs."""

    def generate(
        self, requests: Sequence[GenerationRequest], options: GenerationOptions = DEFAULT_OPTIONS
    ) -> Sequence[Layers]:
        return [{LayerRole.foreground: self._draw(request)} for request in requests]


class CollapsedPainter(Painter):
    """A generator that draws one subject for every prompt."""

    def _draw(self, request: GenerationRequest) -> np.ndarray:
        subject = next(iter(SUBJECTS.values()))
        return draw_subject(subject, np.random.default_rng(request.seed), 64)


def train_nothing(
    request: TrainingRequest, store: ObjectStore, folder: Path, report: ProgressCallback
) -> Checkpoint:
    """Return a trained checkpoint for LAYERLOOP_TRAINER, whose weights are a few bytes."""
    sha256 = store.put(f"{request.id}".encode())
    parent = request.parent.id if request.parent else None
    return Checkpoint(
        {"base": sha256}, request.recipe, request.preset, request.snapshot, parent, request.seed, "test",
        {"psnr": 30.0},
    )  # fmt: skip


def open_painter(checkpoint: Checkpoint, store: ObjectStore) -> LayerGenerator:
    """Return a generator for LAYERLOOP_GENERATOR; the weights of the checkpoint are not read."""
    return Painter()


def open_collapsing_painter(checkpoint: Checkpoint, store: ObjectStore) -> LayerGenerator:
    """Return a generator for LAYERLOOP_GENERATOR that collapses after the first checkpoint."""
    return Painter() if checkpoint.parent is None else CollapsedPainter()


def open_foreground_painter(checkpoint: Checkpoint, store: ObjectStore) -> LayerGenerator:
    """Return a generator of single foregrounds for LAYERLOOP_GENERATOR."""
    return ForegroundPainter()
