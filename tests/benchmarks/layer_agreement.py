"""Layers drawn together against layers drawn apart: whether they stand in one light that no text tells of."""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from curation.domain import DrawRequest, LayerRole, Progress, Prompt, TrainingOrder
from curation.intake.procedural import shows_prompt
from curation.objects import FolderStore
from curation.ports import RGBA, DrawOptions
from tests.training.composed import Composed, compose, freeze_pairs, light_of
from training.generate import open_generator
from training.presets.table import find_preset
from training.sheets import draw_sheet
from training.train import train

SHOWN = 8  # pairs on a sheet
FIRST = 50_000  # pairs from this number on are never trained on


def main() -> None:
    """Train the recipe "pairs", draw each prompt together and apart and to given layers, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--pairs", type=int, default=1_500, help="pairs to train on")
    parser.add_argument("--drawn", type=int, default=96)
    parser.add_argument("--images", type=int, default=0, help="images of each stage instead of the preset's")
    parser.add_argument("--set", action="append", default=[], help="another number of the preset, as name=value")
    parser.add_argument("--sheets", type=Path, help="a folder for pictures of what was drawn")
    parser.add_argument("--folder", type=Path, help="where to keep the run, which another call goes on from")
    given = parser.parse_args()
    changes = dict(item.split("=", 1) for item in given.set)
    with tempfile.TemporaryDirectory(prefix="layerloop-bench-") as scratch:
        folder = given.folder or Path(scratch)
        store = FolderStore(folder / "objects")
        side = min(256, find_preset(given.preset, changes).image_size)
        snapshot = freeze_pairs(store, range(given.pairs), heldout_every=20, side=side)
        checkpoint = _train(store, snapshot, folder / "run", given.preset, given.images, changes)
        print(*(f"{name} {value:.4f}" for name, value in checkpoint.evaluation.items()), sep="\n")
        pairs = [compose(FIRST + number, side) for number in range(given.drawn)]
        requests = [_request(pair, seed) for seed, pair in enumerate(pairs)]
        print(f"{'layers':<28} {'brightness r':>12} {'warmth r':>9} {'|d log light|':>13} {'shown':>6}")
        _tell("held-out pairs themselves", pairs, [_layers(pair) for pair in pairs])
        for joined in (True, False):
            generator = open_generator(checkpoint, store, joined=joined)
            name = "joint" if joined else "apart"
            begun = time.process_time()
            together = generator.draw(requests)
            _tell(f"drawn, {name}", pairs, together)
            if given.sheets:
                given.sheets.mkdir(parents=True, exist_ok=True)
                rows = [[layers[role] for layers in together[:SHOWN]] for role in LayerRole]
                (given.sheets / f"{given.preset}-{name}.png").write_bytes(draw_sheet(rows))
            for role in (LayerRole.foreground, LayerRole.background):
                drawn = [
                    generator.draw([request], DrawOptions(given={role: _store(store, pair, role)}))[0]
                    for request, pair in zip(requests[: given.drawn // 2], pairs, strict=False)
                ]
                _tell(f"{role} given, {name}", pairs, drawn)
            print(f"{'':<28} {time.process_time() - begun:.0f} CPU-s of drawing", flush=True)


def _train(store: FolderStore, snapshot: str, run: Path, preset: str, images: int, changes: Mapping[str, str]):  # type: ignore[no-untyped-def]
    begun: dict[str, tuple[float, float]] = {}

    def report(progress: Progress) -> None:
        if progress.stage not in begun:
            begun[progress.stage] = time.perf_counter(), time.process_time()
        if progress.done >= progress.total:
            wall, cpu = begun[progress.stage]
            spent = f"{time.perf_counter() - wall:6.0f} s, {time.process_time() - cpu:6.0f} CPU-s"
            print(f"{progress.stage:<14} {progress.total:7} {spent}", flush=True)

    order = TrainingOrder("pairs", preset, snapshot, None, None, 0, images, changes)
    torch.manual_seed(0)
    return train(order, store, run, report)


def _request(pair: Composed, seed: int) -> DrawRequest:
    texts = pair.texts
    return DrawRequest(Prompt(pair.caption, texts[LayerRole.foreground], texts[LayerRole.background]), seed)


def _layers(pair: Composed) -> dict[LayerRole, RGBA]:
    return {LayerRole.foreground: pair.foreground, LayerRole.background: pair.background}


def _store(store: FolderStore, pair: Composed, role: LayerRole) -> str:
    from curation.layers import encode_layer

    return store.put(encode_layer(_layers(pair)[role]))


def _tell(name: str, pairs: Sequence[Composed], drawn: Sequence[Mapping[LayerRole, RGBA]]) -> None:
    """Pearson's r of the logarithms of what both layers' lights are: mean of the channels, and red against blue."""
    lights, shown = [], []
    for pair, layers in zip(pairs, drawn, strict=False):
        found = [
            light_of(layers[role], role, pair.texts[role]) for role in (LayerRole.foreground, LayerRole.background)
        ]
        if all(light is not None for light in found):
            lights.append([np.log(light) for light in found])
        agreed = shows_prompt(layers[LayerRole.foreground], pair.texts[LayerRole.foreground])
        shown.append(agreed is not None and agreed.shape)
    values = np.array(lights)  # pairs x layers x channels
    bright = np.corrcoef(values[:, 0].mean(1), values[:, 1].mean(1))[0, 1]
    warm = np.corrcoef(values[:, 0, 0] - values[:, 0, 2], values[:, 1, 0] - values[:, 1, 2])[0, 1]
    apart = np.abs(values[:, 0] - values[:, 1]).mean()
    print(f"{name:<28} {bright:12.2f} {warm:9.2f} {apart:13.3f} {np.mean(shown):6.0%}", flush=True)


if __name__ == "__main__":
    main()
