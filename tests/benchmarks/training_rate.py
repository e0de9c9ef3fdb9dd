"""Measure images per second in training the preset tiny, and generated candidates per second."""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from curation.datasets.manifest import Manifest, Part
from curation.domain import (
    GenerationRequest,
    Kind,
    LayerRole,
    Progress,
    Prompt,
    Sample,
    TrainingRequest,
    assign_split,
)
from curation.images.codec import encode_layer, pixel_hash
from curation.object_store import FolderStore
from curation.synthetic.dataset import draw_seed_set
from training.generate import load_generator
from training.train import train


def main() -> None:
    """Print the rates."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--images", type=int, default=2_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="layerloop-bench-") as folder:
        store = FolderStore(Path(folder) / "objects")
        snapshot = freeze_shapes(store, Path(folder) / "seeds", 300)
        stages = {stage: StageTimer(stage) for stage in ("transparency", "base")}

        def report(progress: Progress) -> None:
            for timer in stages.values():
                timer(progress)

        request = TrainingRequest("whole", options.preset, snapshot, None, None, 0, options.images)
        checkpoint = train(request, store, Path(folder) / "run", report)
        for stage, timer in stages.items():
            print(f"{'training ' + stage:<24} {timer.rate(0):8.1f} images/s", flush=True)
        generator = load_generator(checkpoint, store)
        requests = [GenerationRequest(Prompt("a red circle"), seed) for seed in range(32)]
        started = time.perf_counter()
        generator.generate(requests)
        print(
            f"{'generation':<24} {len(requests) / (time.perf_counter() - started):8.1f} candidates/s"
        )


class StageTimer:
    """A progress callback that records the time and the images of each report of a stage."""

    def __init__(self, stage: str) -> None:
        self.stage = stage
        self.seen: list[tuple[float, int]] = []

    def __call__(self, progress: Progress) -> None:
        """Record the time of a report, once the GPU has finished its work."""
        if progress.stage == self.stage:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.seen.append((time.perf_counter(), progress.done))

    def rate(self, warm: int) -> float:
        """Return images per second after a warm-up of `warm` images."""
        started, first = next(mark for mark in self.seen if mark[1] >= warm)
        ended, last = self.seen[-1]
        return (last - first) / (ended - started)


def freeze_shapes(store: FolderStore, folder: Path, count: int) -> str:
    """Return the id of a snapshot of synthetic shapes, made without a database."""
    draw_seed_set(folder, count)
    samples = []
    for line in (folder / "metadata.jsonl").read_text().splitlines():
        row = json.loads(line)
        rgba = np.asarray(Image.open(folder / row["file_name"]).convert("RGBA"))
        digest = pixel_hash(rgba)
        layers = {LayerRole.foreground: store.put(encode_layer(rgba))}
        split = assign_split(digest)
        fields = (row["text"], row["licence"], row["source"], split)
        samples.append(Sample(digest[:32], Kind.single, *fields, 0, digest, layers))
    lines = "".join(
        sample.line() + "\n" for sample in sorted(samples, key=lambda sample: sample.id)
    )
    manifest = Manifest((Part("", store.put(lines.encode()), len(samples)),), {})
    return store.put(manifest.bytes())


if __name__ == "__main__":
    main()
