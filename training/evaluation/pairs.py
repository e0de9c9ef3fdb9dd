"""Evaluation of generated pairs: joint and separate generation, and real pairs for reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import fmean, stdev

import numpy as np
from scipy.special import stdtrit

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
from curation.images.pairs import blended_error, composite, harmony, leakage, seam_energy
from curation.ports import (
    RGBA,
    LayerGenerator,
    Layers,
    MeanWithInterval,
    ObjectStore,
    ProgressCallback,
)
from training.checkpoint import LoadedCheckpoint
from training.data.dataset import letterbox
from training.generate import load_generator
from training.interop.modes import SINGLE, plan_modes
from training.layers.sampling import LayersGenerator
from training.metrics.clip_score import ClipScore
from training.metrics.lighting import (
    OPAQUE_ALPHA,
    LayerBrightness,
    bootstrap_indices,
    brightness_of_layers,
    correlation,
    percentile_interval,
)
from training.sample_grid import render_grid

GENERATED_PAIRS = 16
"""Number of pairs that are generated for evaluation after training, and the command's default."""
GRID_PAIRS = 8
CONFIDENCE = 0.95
MIN_COVERAGE = 0.01
"""A pair shows both layers if alpha > 0.5 on at least this share of it, and not on as much."""

LAYERS = tuple(LayerRole)
PAIR_METRICS = ("error", "empty", "leakage", "seam", "harmony")
TEXTS = {role: f"text_{role}" for role in LAYERS}

Metrics = dict[str, float]


@dataclass(frozen=True)
class PairMetrics:
    """Pair metrics by name and source, and a sample grid (PNG).

    Sources are "joint" and "apart" (without joint attention), or "drawn" if there is no joint
    attention to turn off; "joint - apart", the difference for the same prompt and seed; and "real".
    The metrics are those of `measure_pair`, text agreement, and light_r, the correlation of the
    brightness of both layers over all pairs (training.metrics.lighting).
    """

    table: Mapping[str, Mapping[str, MeanWithInterval]]
    sheet: bytes

    @property
    def metrics(self) -> Metrics:
        """Means of the checkpoint's normal way of generating, under the names of its metrics."""
        return {
            f"pair_{name}": row[source].mean
            for name, row in self.table.items()
            for source in row
            if source in _AS_USED
        }


_AS_USED = ("joint", "drawn")


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
    apart = LayersGenerator(joint.parts, joint.alone, joint.layered, store, joint=False)
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
        _request(samples[number % len(samples)], number // len(samples)) for number in range(count)
    ]
    generated = _draw(generators, requests, on_progress)
    rows = {source: _measure(pairs, requests, clip_score) for source, pairs in generated.items()}
    # Paired differences have less variance than differences of means.
    if {"joint", "apart"} <= rows.keys():
        rows["joint - apart"] = [
            {name: joint[name] - apart[name] for name in joint.keys() & apart.keys()}
            for joint, apart in zip(rows["joint"], rows["apart"], strict=True)
        ]
    pairs = dict(generated)
    # Real pairs, for reference.
    if size is not None:
        stored = [
            {role: decode_layer(store.get(sha)) for role, sha in sample.layers.items()}
            for sample in samples
        ]
        pairs["real"] = [_fit(layers, size) for layers in stored]
        rows["real"] = _measure(pairs["real"], requests[: len(samples)], clip_score)
        _set_stored_errors(rows["real"], stored)
    # Mean and interval of each metric and source; empty entries are dropped.
    names = [*PAIR_METRICS, *(TEXTS.values() if clip_score else ())]
    table = {
        name: {
            source: _mean_over_samples(name, found, len(samples)) for source, found in rows.items()
        }
        for name in names
    }
    correlated = _correlate(pairs, len(samples))
    table["light_r"] = {source: correlated.get(source) for source in rows}
    nonempty = {
        name: {source: found for source, found in row.items() if found}
        for name, row in table.items()
    }
    return PairMetrics(
        {name: row for name, row in nonempty.items() if row},
        _sample_grid(generated, requests[:GRID_PAIRS]),
    )


def measure_pair(layers: Layers) -> Metrics:
    """Compute the metrics of one pair: error, empty, leakage, seam and harmony; lower is better.

    error is the difference of blended from foreground over background, in levels; empty is 1 if a
    layer is not visible, and such a pair has no further metrics. For the others see
    curation.images.pairs.
    """
    foreground, background, blended = (layers[role] for role in LAYERS)
    metrics = {"error": blended_error(foreground, background, blended), "empty": 1.0}
    if not _shows_both(layers):
        return metrics
    return metrics | {
        "empty": 0.0,
        "leakage": leakage(foreground, background),
        "seam": seam_energy(foreground, background, blended),
        "harmony": harmony(foreground, background),
    }


def mean_with_interval(values: Sequence[float]) -> MeanWithInterval:
    """Return the mean and its 95 % interval by Student's t, assuming normally distributed values.

    The result does not depend on the order of values. A single value has no interval.
    """
    mean = fmean(values)
    if len(values) < 2:
        return MeanWithInterval(mean, None, None, len(values))
    half_width = (
        float(stdtrit(len(values) - 1, (1 + CONFIDENCE) / 2)) * stdev(values) / sqrt(len(values))
    )
    return MeanWithInterval(mean, mean - half_width, mean + half_width, len(values))


def _request(sample: Sample, repeat: int) -> GenerationRequest:
    """Return the request for a sample's texts; its seed is from the sample's id and `repeat`."""
    texts = (sample.caption_for(role) for role in (LayerRole.foreground, LayerRole.background))
    return GenerationRequest(
        Prompt(sample.caption_for(), *texts), int(sample.id[-12:], 16) + (repeat << 48)
    )


def _draw(
    generators: Mapping[str, LayerGenerator],
    requests: Sequence[GenerationRequest],
    on_progress: ProgressCallback,
) -> dict[str, list[Layers]]:
    generated: dict[str, list[Layers]] = {}
    for number, (source, generator) in enumerate(generators.items()):
        generated[source] = []
        for start in range(0, len(requests), generator.batch_size):
            on_progress(
                Progress("pairs", number * len(requests) + start, len(generators) * len(requests))
            )
            generated[source] += generator.generate(requests[start : start + generator.batch_size])
    on_progress(Progress("pairs", len(generators) * len(requests), len(generators) * len(requests)))
    return generated


def _shows_both(layers: Layers) -> bool:
    """Return whether the foreground covers a part of the background, but not all of it."""
    return bool(
        MIN_COVERAGE
        <= np.mean(layers[LayerRole.foreground][..., 3] > OPAQUE_ALPHA)
        <= 1 - MIN_COVERAGE
    )


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


def _set_stored_errors(rows: Sequence[Metrics], stored: Sequence[Layers]) -> None:
    """Replace real pairs' error by that of the stored layers: separate resizing adds its own."""
    for row, layers in zip(rows, stored, strict=True):
        del row["error"]
        if layers.keys() >= set(LAYERS) and len({layer.shape for layer in layers.values()}) == 1:
            row["error"] = blended_error(*(layers[role] for role in LAYERS))


def _fit(layers: Layers, size: int) -> Layers:
    """Resize a pair to a longer side, without letterbox bars, on which no foreground can stand."""
    fitted = {role: letterbox(layer, size) for role, layer in layers.items()}
    visible = fitted[LayerRole.background][..., 3] > 0
    if visible.any():
        # Crop all layers to the rows and columns of the background.
        rows, columns = (np.flatnonzero(visible.any(axis)) for axis in (1, 0))
        inside = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        fitted = {role: np.ascontiguousarray(layer[inside]) for role, layer in fitted.items()}
    blended = composite(fitted[LayerRole.foreground], fitted[LayerRole.background])
    return {LayerRole.blended: blended, **fitted}


def _mean_over_samples(name: str, rows: Sequence[Metrics], samples: int) -> MeanWithInterval | None:
    """Return mean and interval over the samples that have the metric, each with its own mean."""
    # Row i belongs to sample i % samples.
    of_samples = (
        [row[name] for row in rows[index::samples] if name in row] for index in range(samples)
    )
    means = [fmean(values) for values in of_samples if values]
    return mean_with_interval(means) if means else None


def _correlate(pairs: Mapping[str, Sequence[Layers]], samples: int) -> dict[str, MeanWithInterval]:
    """Compute light_r of every source and their difference, by resampling prompts.

    A prompt is resampled with all its pairs, since these are not independent.
    """
    # Brightness of both layers, grouped by prompt.
    lights: dict[str, list[list[LayerBrightness]]] = {}
    for source, layer_sets in pairs.items():
        found = [
            brightness_of_layers(layers[LAYERS[0]], layers[LAYERS[1]])
            if _shows_both(layers)
            else None
            for layers in layer_sets
        ]
        lights[source] = [
            [pair for pair in found[index::samples] if pair] for index in range(samples)
        ]
    # The first correlation is of all prompts, the others are of bootstrap resamples.
    chosen = [range(samples), *bootstrap_indices(samples)]
    correlations = {
        source: [correlation([rows[index] for index in indices]) for indices in chosen]
        for source, rows in lights.items()
    }
    counts = {source: sum(map(bool, rows)) for source, rows in lights.items()}
    # The difference is taken within each resample.
    if {"joint", "apart"} <= correlations.keys():
        both = zip(correlations["joint"], correlations["apart"], strict=True)
        correlations["joint - apart"] = [
            None if joint is None or apart is None else joint - apart for joint, apart in both
        ]
        counts["joint - apart"] = min(counts["joint"], counts["apart"])
    spreads = {}
    for source, (value, *resampled) in correlations.items():
        if value is not None:
            low, high = percentile_interval(resampled)
            spreads[source] = MeanWithInterval(value, low, high, counts[source])
    return spreads


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
