"""Compare layers generated together and apart: do they share the light and the ground line that no text names?"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from curation.domain import (
    Checkpoint,
    GenerationRequest,
    LayerRole,
    Progress,
    Prompt,
    TrainingRequest,
)
from curation.images.codec import encode_layer
from curation.object_store import FolderStore
from curation.ports import DEFAULT_OPTIONS, RGBA, GenerationOptions, ObjectStore
from curation.synthetic.pair_dataset import check_pair
from tests.support.composite_pairs import compose, freeze_pairs
from training.generate import load_generator
from training.metrics.lighting import OPAQUE_ALPHA, brightness_of_layers, correlation
from training.presets.presets import find_preset
from training.sample_grid import render_grid
from training.train import train

SHOWN = 8  # pairs in a sample grid
FIRST = 50_000  # pairs from this number on are never trained on
BACKGROUND = LayerRole.background


def main() -> None:
    """Train the recipe "pairs", generate each prompt together, apart and to given layers, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--pairs", type=int, default=900, help="pairs to train on")
    parser.add_argument("--singles", type=int, default=600, help="single layers beside them")
    parser.add_argument("--drawn", type=int, default=96)
    parser.add_argument(
        "--images", type=int, default=0, help="images of each stage instead of the preset's"
    )
    parser.add_argument(
        "--set", action="append", default=[], help="another number of the preset, as name=value"
    )
    parser.add_argument("--grids", type=Path, help="a folder for sample grids")
    parser.add_argument(
        "--folder", type=Path, help="where to keep the run, which another call goes on from"
    )
    given = parser.parse_args()
    changes = dict(item.split("=", 1) for item in given.set)
    with tempfile.TemporaryDirectory(prefix="layerloop-bench-") as scratch:
        folder = given.folder or Path(scratch)
        store = FolderStore(folder / "objects")
        side = min(256, find_preset(given.preset, changes).image_size)
        snapshot = freeze_pairs(
            store, range(given.pairs), given.singles, heldout_every=20, side=side
        )
        checkpoint = _train(store, snapshot, folder / "run", given.preset, given.images, changes)
        print(*(f"{name} {value:.4f}" for name, value in checkpoint.evaluation.items()), sep="\n")
        tell_all(checkpoint, store, given.drawn, side=side, grids=given.grids)


def tell_all(
    checkpoint: Checkpoint,
    store: ObjectStore,
    drawn: int,
    options: GenerationOptions = DEFAULT_OPTIONS,
    *,
    side: int = 64,
    grids: Path | None = None,
) -> None:
    """Pairs themselves, pairs of layers that are strangers, and what is drawn: together, apart, and to a given layer."""
    pairs = [compose(FIRST + number, side) for number in range(drawn)]
    prompts = [pair.prompt for pair in pairs]
    requests = [GenerationRequest(prompt, seed) for seed, prompt in enumerate(prompts)]
    tell_header()
    tell_pairs("pairs themselves", prompts, [pair.layers for pair in pairs])
    mixed = [
        {**pair.layers, BACKGROUND: other.layers[BACKGROUND]}
        for pair, other in pairwise([*pairs, pairs[0]])
    ]
    strangers = [
        Prompt("", one.foreground, other.background)
        for one, other in pairwise([*prompts, prompts[0]])
    ]
    tell_pairs("layers of different pairs", strangers, mixed)
    for joined in (True, False):
        generator = load_generator(checkpoint, store, joined=joined)
        name, begun = "joint" if joined else "apart", time.process_time()
        together = generator.generate(requests, options)
        tell_pairs(f"drawn, {name}", prompts, together)
        if grids:
            grids.mkdir(parents=True, exist_ok=True)
            rows = [[layers[role] for layers in together[:SHOWN]] for role in LayerRole]
            (grids / f"{checkpoint.preset}-{name}.png").write_bytes(render_grid(rows))
        print(f"{'':<28} {time.process_time() - begun:.0f} CPU-s", flush=True)
        for role in (LayerRole.foreground, BACKGROUND):
            fitted = [
                generator.generate(
                    [request],
                    replace(options, given={role: store.put(encode_layer(pair.layers[role]))}),
                )[0]
                for request, pair in zip(requests[: drawn // 3], pairs, strict=False)
            ]
            tell_pairs(f"{role} given, {name}", prompts[: drawn // 3], fitted)


def _train(
    store: FolderStore,
    snapshot: str,
    run: Path,
    preset: str,
    images: int,
    changes: Mapping[str, str],
) -> Checkpoint:
    begun: dict[str, tuple[float, float]] = {}

    def report(progress: Progress) -> None:
        if progress.stage not in begun:
            begun[progress.stage] = time.perf_counter(), time.process_time()
        if progress.done >= progress.total:
            wall, cpu = begun[progress.stage]
            spent = f"{time.perf_counter() - wall:6.0f} s, {time.process_time() - cpu:6.0f} CPU-s"
            print(f"{progress.stage:<14} {progress.total:7} {spent}", flush=True)

    request = TrainingRequest("pairs", preset, snapshot, None, None, 0, images, changes)
    return train(request, store, run, report)


def tell_pairs(
    name: str, prompts: Sequence[Prompt], drawn: Sequence[Mapping[LayerRole, RGBA]]
) -> None:
    """Print a row: text agreement of the pairs, and differences of light and ground line of their layers.

    r is of how bright both layers are (training.metrics.lighting); gaps are medians, in levels and in a hundredth of the
    height (curation.synthetic.pair_dataset).
    """
    both = [(layers[LayerRole.foreground], layers[LayerRole.background]) for layers in drawn]
    agreed = [check_pair(*pair, prompt) for pair, prompt in zip(both, prompts, strict=True)]
    shown = [
        np.mean([getattr(one, what) for one in agreed if one])
        for what in ("shape", "colour", "ground")
    ]
    gaps = [[getattr(one, what) for one in agreed if one] for what in ("light_gap", "foot_gap")]
    light, foot = (
        float(np.median([gap for gap in column if gap is not None] or [np.nan])) for column in gaps
    )
    visible = [
        pair
        for pair in both
        if (pair[0][..., 3] > OPAQUE_ALPHA).any() and not (pair[0][..., 3] > OPAQUE_ALPHA).all()
    ]
    r = correlation([[brightness_of_layers(*pair)] for pair in visible])
    print(
        f"{name:<28}",
        *(f"{share:7.0%}" for share in shown),
        f"{light:10.1f} {100 * foot:9.1f} {r or 0:6.2f}",
        flush=True,
    )


def tell_header() -> None:
    """Print the header."""
    print(
        f"{'layers':<28} {'shape':>7} {'colour':>7} {'ground':>7} {'light gap':>10} {'foot gap':>9} {'r':>6}"
    )


if __name__ == "__main__":
    main()
