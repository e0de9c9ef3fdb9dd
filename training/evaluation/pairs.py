"""Evaluation of generated pairs: joint and separate generation, and real pairs for reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from curation.datasets.manifest import read_samples
from curation.domain import (
    Checkpoint,
    GenerationRequest,
    LayerRole,
    Progress,
    Prompt,
    Sample,
    Split,
)
from curation.errors import Refused
from curation.images.codec import BACKGROUNDS, composite_over, decode_layer
from curation.images.pairs import composite
from curation.ports import (
    RGBA,
    LayerGenerator,
    Layers,
    ObjectStore,
    ProgressCallback,
)
from training.checkpoint import LoadedCheckpoint
from training.data.letterbox import letterbox
from training.evaluation.pair_metrics import (
    LAYERS,
    PAIR_METRICS,
    TEXTS,
    Metrics,
    PairMetrics,
    correlate,
    mean_over_samples,
    measure_pair,
    set_stored_errors,
)
from training.generate import load_generator
from training.interop.modes import SINGLE, plan_modes
from training.layers.sampling import LayersGenerator
from training.metrics.clip_score import ClipScore
from training.sample_grid import render_grid

GENERATED_PAIRS = 16
"""Number of pairs that are generated for evaluation after training, and the command's default."""
GRID_PAIRS = 8


def generates_pairs(checkpoint: LoadedCheckpoint) -> bool:
    """Return whether a checkpoint can generate the layers of a pair."""
    if checkpoint.layers is not None or checkpoint.preset.inpainter is not None:
        return True
    try:
        return bool(
            checkpoint.modes
            and plan_modes([*checkpoint.modes, *([SINGLE.name] if checkpoint.base else [])], set())
        )
    except Refused:
        return False


def heldout_pairs(store: ObjectStore, snapshot: str) -> list[Sample]:
    """Return held-out samples that have a foreground and a background, in the order of ids."""
    both = {LayerRole.foreground, LayerRole.background}
    samples = (sample for sample in read_samples(store, snapshot) if sample.split == Split.heldout)
    return sorted(
        (sample for sample in samples if sample.layers.keys() >= both), key=lambda sample: sample.id
    )


def evaluate_generated_pairs(
    checkpoint: Checkpoint,
    store: ObjectStore,
    samples: Sequence[Sample],
    on_progress: ProgressCallback,
    count: int = GENERATED_PAIRS,
) -> Metrics:
    """Generate pairs and compute pair_error, pair_empty, pair_leakage, pair_seam and pair_harmony.

    Args:
        checkpoint: The checkpoint.
        store: Where it is stored.
        samples: Real pairs, whose texts are the prompts.
        on_progress: Progress callback.
        count: Number of pairs to generate.
    """
    generators = {"drawn": load_generator(checkpoint, store)}
    return compare_pairs(generators, samples, count, None, store, on_progress).metrics


def open_pair_generators(checkpoint: Checkpoint, store: ObjectStore) -> dict[str, LayerGenerator]:
    """Open the generators of a checkpoint by source: joint and apart, or drawn (`PairMetrics`)."""
    joint = load_generator(checkpoint, store)
    if not isinstance(joint, LayersGenerator):
        return {"drawn": joint}
    apart = LayersGenerator(joint.parts, joint.single_generator, joint.layered, store, joint=False)
    return {"joint": joint, "apart": apart}


def compare_pairs(
    generators: Mapping[str, LayerGenerator],
    samples: Sequence[Sample],
    count: int,
    size: int | None,
    store: ObjectStore,
    on_progress: ProgressCallback,
    clip_score: ClipScore | None = None,
) -> PairMetrics:
    """Generate pairs from the texts of real pairs, with equal seeds per source, and measure all.

    If there are fewer samples than pairs, their texts are used again with other seeds. A seed
    depends on the sample only, and the order of samples does not matter. A metric's mean is over
    samples, each with the mean of its pairs; light_r has a bootstrap interval over samples.

    Args:
        generators: Generators by source.
        samples: Real pairs.
        count: Number of pairs per source.
        size: Longer side in pixels at which real pairs are measured; None leaves them out.
        store: Where the samples are stored.
        on_progress: Progress callback.
        clip_score: A CLIP score; None leaves text agreement out.
    """
    # The same prompts and seeds for every source.
    samples = sorted(samples, key=lambda sample: sample.id)[:count]
    requests = [
        _request(samples[index % len(samples)], index // len(samples)) for index in range(count)
    ]
    generated = _generate(generators, requests, on_progress)
    rows = {source: _measure(pairs, requests, clip_score) for source, pairs in generated.items()}
    # Paired differences have less variance than differences of means.
    if {"joint", "apart"} <= rows.keys():
        rows["joint - apart"] = [
            {name: joint[name] - apart[name] for name in joint.keys() & apart.keys()}
            for joint, apart in zip(rows["joint"], rows["apart"], strict=True)
        ]
    pairs = dict(generated)
    # Measure real pairs for reference.
    if size is not None:
        stored = [
            {role: decode_layer(store.get(sha)) for role, sha in sample.layers.items()}
            for sample in samples
        ]
        pairs["real"] = [_fit(layers, size) for layers in stored]
        rows["real"] = _measure(pairs["real"], requests[: len(samples)], clip_score)
        set_stored_errors(rows["real"], stored)
    # Mean and interval of each metric and source; empty entries are dropped.
    names = [*PAIR_METRICS, *(TEXTS.values() if clip_score else ())]
    table = {
        name: {
            source: mean_over_samples(name, found, len(samples)) for source, found in rows.items()
        }
        for name in names
    }
    correlated = correlate(pairs, len(samples))
    table["light_r"] = {source: correlated.get(source) for source in rows}
    nonempty = {
        name: {source: found for source, found in row.items() if found}
        for name, row in table.items()
    }
    return PairMetrics(
        {name: row for name, row in nonempty.items() if row},
        _sample_grid(generated, requests[:GRID_PAIRS]),
    )


def _request(sample: Sample, repeat: int) -> GenerationRequest:
    """Return the request for a sample's texts; its seed is from the sample's id and `repeat`."""
    texts = (sample.caption_for(role) for role in (LayerRole.foreground, LayerRole.background))
    return GenerationRequest(
        Prompt(sample.caption_for(), *texts), int(sample.id[-12:], 16) + (repeat << 48)
    )


def _generate(
    generators: Mapping[str, LayerGenerator],
    requests: Sequence[GenerationRequest],
    on_progress: ProgressCallback,
) -> dict[str, list[Layers]]:
    generated: dict[str, list[Layers]] = {}
    for index, (source, generator) in enumerate(generators.items()):
        generated[source] = []
        for start in range(0, len(requests), generator.batch_size):
            on_progress(
                Progress("pairs", index * len(requests) + start, len(generators) * len(requests))
            )
            generated[source] += generator.generate(requests[start : start + generator.batch_size])
    on_progress(Progress("pairs", len(generators) * len(requests), len(generators) * len(requests)))
    return generated


def _measure(
    pairs: Sequence[Layers], requests: Sequence[GenerationRequest], clip_score: ClipScore | None
) -> list[Metrics]:
    """Compute the metrics of each pair, and its text agreement per layer."""
    rows = [measure_pair(layers) for layers in pairs]
    if clip_score is None:
        return rows
    for role, name in TEXTS.items():
        texts = [_texts(request)[role] for request in requests]
        scores = clip_score(
            [composite_over(layers[role], BACKGROUNDS["grey"]) for layers in pairs], texts
        )
        for row, score in zip(rows, scores, strict=True):
            row[name] = score
    return rows


def _fit(layers: Layers, size: int) -> Layers:
    """Resize a pair to a longer side, without letterbox margins, which have no background."""
    fitted = {role: letterbox(layer, size) for role, layer in layers.items()}
    visible = fitted[LayerRole.background][..., 3] > 0
    if visible.any():
        # Crop all layers to the rows and columns of the background.
        rows, columns = (np.flatnonzero(visible.any(axis)) for axis in (1, 0))
        inside = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        fitted = {role: np.ascontiguousarray(layer[inside]) for role, layer in fitted.items()}
    blended = composite(fitted[LayerRole.foreground], fitted[LayerRole.background])
    return {LayerRole.blended: blended, **fitted}


def _sample_grid(
    generated: Mapping[str, Sequence[Layers]], requests: Sequence[GenerationRequest]
) -> bytes:
    """Draw a grid with a column per prompt, and rows of the three layers for each source."""
    images: list[list[RGBA]] = []
    captions = []
    for source, pairs in generated.items():
        for role in LAYERS:
            images.append([layers[role] for layers in pairs[: len(requests)]])
            captions.append([f"{source}: {_texts(request)[role]}" for request in requests])
    return render_grid(images, captions)


def _texts(request: GenerationRequest) -> dict[LayerRole, str]:
    """Return the text of each layer; a single-layer prompt has only that of the blended image."""
    prompt = request.prompt
    return dict(
        zip(LAYERS, (prompt.foreground or "", prompt.background or "", prompt.text), strict=True)
    )
