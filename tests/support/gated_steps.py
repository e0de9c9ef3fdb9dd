"""Implementations of ports that wait at a chosen step, so that a test can interrupt a command.

LAYERLOOP_TEST_GATE is FOLDER|STAGE|DONE: when the stage has done that much, the file "reached" is
written into the folder, and the work waits to be interrupted. Without the variable nothing waits.
"""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path

from curation.domain import Checkpoint, GenerationRequest, Progress
from curation.ports import DEFAULT_OPTIONS, GenerationOptions, Layers, ProgressCallback
from curation.prompts.grammar import generate
from curation.prompts.pair_files import write_line
from tests.support.pair_generator import PairPainter

WAIT_SECONDS = 300


def gate(stage: str, done: int) -> None:
    """Wait here if the test chose this step."""
    folder, wanted, least = os.environ.get("LAYERLOOP_TEST_GATE", "||0").split("|")
    if wanted != stage or done < int(least):
        return
    (Path(folder) / "reached").touch()
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        time.sleep(0.05)


def _gated(report: ProgressCallback) -> ProgressCallback:
    def gated_report(progress: Progress) -> None:
        report(progress)
        gate(progress.stage, progress.done)

    return gated_report


def train(request, store, folder, report):
    """Train with the real trainer, which waits at the chosen progress."""
    from training.train import train as real

    return real(request, store, folder, _gated(report))


def evaluate(checkpoint, snapshot, store, wanted, report):
    """Evaluate with the real evaluator, which waits at the chosen progress."""
    from training.evaluation.full import evaluate_fully

    return evaluate_fully(checkpoint, snapshot, store, wanted, _gated(report))


class Captioner:
    """Captions each image by its shape and brightness."""

    source = "gated@1"

    def __init__(self) -> None:
        self.calls = itertools.count(1)

    def caption(self, images, prompt: str, tokens: int) -> list[str]:
        gate("caption", next(self.calls))
        return [f"{pixels.shape} of {pixels.astype(int).sum()}" for pixels in images]


def open_captioner(model: str) -> Captioner:
    return Captioner()


class Writer:
    """Generates two pair prompts of the grammar, which depend on the seed."""

    source = "gated@1"

    def __init__(self) -> None:
        self.calls = itertools.count(1)

    def generate(self, question: str, tokens: int, seed: int) -> str:
        gate("triples", next(self.calls))
        rows = [json.loads(write_line(prompt)) for prompt in itertools.islice(generate(seed), 2)]
        return "\n".join(map(json.dumps, rows))


def open_writer(model: str) -> Writer:
    return Writer()


class Painter(PairPainter):
    """Waits before its n-th call."""

    calls = 0

    def generate(
        self, requests: Sequence[GenerationRequest], options: GenerationOptions = DEFAULT_OPTIONS
    ) -> Sequence[Layers]:
        Painter.calls += 1
        gate("draw", Painter.calls)
        return super().generate(requests, options)


def open_painter(checkpoint: Checkpoint, store) -> Painter:
    return Painter(store)
