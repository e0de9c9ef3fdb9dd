"""Metrics of pairs: how well foreground, background and blend match, and how they correlate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import fmean, stdev

import numpy as np
from scipy.special import stdtrit

from curation.domain import LayerRole
from curation.images.pairs import blended_error, harmony, leakage, seam_energy
from curation.ports import Layers, MeanWithInterval
from training.metrics.lighting import (
    OPAQUE_ALPHA,
    LayerBrightness,
    bootstrap_indices,
    brightness_of_layers,
    correlation,
    percentile_interval,
)

CONFIDENCE = 0.95
MIN_COVERAGE = 0.01
"""A pair shows both layers if alpha > 0.5 on at least this share, and alpha <= 0.5 on as much."""


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
        """Means of the checkpoint's default generation, under the names of its metrics."""
        return {
            f"pair_{name}": row[source].mean
            for name, row in self.table.items()
            for source in row
            if source in _DEFAULT_SOURCES
        }


_DEFAULT_SOURCES = ("joint", "drawn")


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


def _shows_both(layers: Layers) -> bool:
    """Return whether the foreground covers a part of the background, but not all of it."""
    return bool(
        MIN_COVERAGE
        <= np.mean(layers[LayerRole.foreground][..., 3] > OPAQUE_ALPHA)
        <= 1 - MIN_COVERAGE
    )


def set_stored_errors(rows: Sequence[Metrics], stored: Sequence[Layers]) -> None:
    """Replace real pairs' error by that of the stored layers: separate resizing adds its own."""
    for row, layers in zip(rows, stored, strict=True):
        del row["error"]
        if layers.keys() >= set(LAYERS) and len({layer.shape for layer in layers.values()}) == 1:
            row["error"] = blended_error(*(layers[role] for role in LAYERS))


def mean_over_samples(name: str, rows: Sequence[Metrics], samples: int) -> MeanWithInterval | None:
    """Return mean and interval over the samples that have the metric, each with its own mean."""
    # Row i belongs to sample i % samples.
    of_samples = (
        [row[name] for row in rows[index::samples] if name in row] for index in range(samples)
    )
    means = [fmean(values) for values in of_samples if values]
    return mean_with_interval(means) if means else None


def correlate(pairs: Mapping[str, Sequence[Layers]], samples: int) -> dict[str, MeanWithInterval]:
    """Compute light_r of every source and their difference, by resampling prompts.

    A prompt is resampled with all its pairs, since these are not independent.
    """
    # Brightness of both layers, grouped by prompt.
    brightness: dict[str, list[list[LayerBrightness]]] = {}
    for source, layer_sets in pairs.items():
        found = [
            brightness_of_layers(layers[LAYERS[0]], layers[LAYERS[1]])
            if _shows_both(layers)
            else None
            for layers in layer_sets
        ]
        brightness[source] = [
            [pair for pair in found[index::samples] if pair] for index in range(samples)
        ]
    # The first correlation is of all prompts, the others are of bootstrap resamples.
    resamples = [range(samples), *bootstrap_indices(samples)]
    correlations = {
        source: [correlation([rows[index] for index in indices]) for indices in resamples]
        for source, rows in brightness.items()
    }
    counts = {source: sum(map(bool, rows)) for source, rows in brightness.items()}
    # The difference is taken within each resample.
    if {"joint", "apart"} <= correlations.keys():
        paired = zip(correlations["joint"], correlations["apart"], strict=True)
        correlations["joint - apart"] = [
            None if joint is None or apart is None else joint - apart for joint, apart in paired
        ]
        counts["joint - apart"] = min(counts["joint"], counts["apart"])
    results = {}
    for source, (value, *resampled) in correlations.items():
        if value is not None:
            low, high = percentile_interval(resampled)
            results[source] = MeanWithInterval(value, low, high, counts[source])
    return results
