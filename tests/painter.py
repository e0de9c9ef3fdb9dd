"""A generator that needs no training: it draws what the prompt says with the procedural seed's own figures."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import numpy as np

from curation.domain import Checkpoint, DrawRequest, LayerRole
from curation.intake.figures import SUBJECTS, draw
from curation.ports import PLAIN, DrawOptions, LayerGenerator, Layers, ObjectStore

SECONDS_EACH = 0.05


class Painter:
    """Every fourth picture is of another colour than its prompt asks for, so that a reviewer has something to reject."""

    at_once = 1

    def draw(self, requests: Sequence[DrawRequest], options: DrawOptions = PLAIN) -> Sequence[Layers]:
        return [{LayerRole.foreground: self._draw(request)} for request in requests]

    def describe(self, options: DrawOptions) -> Mapping[str, str]:
        return {"model": "painter", "steps": str(options.steps or 1)}

    def _draw(self, request: DrawRequest) -> np.ndarray:
        time.sleep(SECONDS_EACH)
        asked = SUBJECTS[request.prompt.text]
        others = [one for one in SUBJECTS.values() if one.figure == asked.figure and one.colour != asked.colour]
        subject = others[request.seed % len(others)] if request.seed % 4 == 0 and others else asked
        return draw(subject, np.random.default_rng(request.seed), 64)


def open_painter(checkpoint: Checkpoint, store: ObjectStore) -> LayerGenerator:
    """What LAYERLOOP_GENERATOR may name; the checkpoint's weights are not looked at."""
    return Painter()
