"""A generator that sleeps TEST_SECONDS_EACH for each candidate, and records each of them.

TEST_NOTES is a folder: each process appends the seeds that it generated to a file of its own. TEST_CANNOT_LOAD makes
the loading fail; TEST_POISON is a seed whose generation ends the process.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from curation.domain import Checkpoint, GenerationRequest, LayerRole
from curation.ports import DEFAULT_OPTIONS, GenerationOptions, Layers, ObjectStore

SIZE = 32


class SleepingGenerator:
    """Generates small random images, which depend on the seed."""

    batch_size = 1

    def generate(
        self, requests: Sequence[GenerationRequest], options: GenerationOptions = DEFAULT_OPTIONS
    ) -> Sequence[Layers]:
        if os.environ.get("TEST_POISON") in {str(request.seed) for request in requests}:
            os._exit(9)
        time.sleep(float(os.environ.get("TEST_SECONDS_EACH", "0")) * len(requests))
        if folder := os.environ.get("TEST_NOTES"):
            with (Path(folder) / str(os.getpid())).open("a") as out:
                out.writelines(f"{request.seed}\n" for request in requests)
        return [self._draw(request.seed) for request in requests]

    def describe(self, options: GenerationOptions) -> Mapping[str, str]:
        return {"model": "sleeping"}

    def environment(self, options: GenerationOptions, *, pair: bool = False) -> Mapping[str, str]:
        return {"device": "cpu", "precision": "uint8"}

    def _draw(self, seed: int) -> Layers:
        rgba = np.random.default_rng(seed).integers(0, 256, (SIZE, SIZE, 4), dtype=np.uint8)
        rgba[: SIZE // 2, :, 3] = 0
        return {LayerRole.foreground: rgba}


def load(checkpoint: Checkpoint, store: ObjectStore) -> SleepingGenerator:
    """Return a generator for LAYERLOOP_GENERATOR."""
    if os.environ.get("TEST_CANNOT_LOAD"):
        raise RuntimeError("no graphics card")
    return SleepingGenerator()
