"""How well drawn pairs belong together: drawn jointly and apart from the same texts and seeds, beside real ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import fmean, stdev

import numpy as np
from scipy.special import stdtrit

from curation.datasets.manifest import read_samples
from curation.domain import Checkpoint, DrawRequest, LayerRole, Progress, Prompt, Sample, Split
from curation.errors import Refused
from curation.images.codec import BACKGROUNDS, decode_layer, over
from curation.images.pairs import blended_error, composite, harmony, leakage, seam_energy
from curation.ports import RGBA, LayerGenerator, Layers, MeanWithInterval, ObjectStore, Report
from training.checkpoint import LoadedCheckpoint
from training.data.dataset import letterbox
from training.generate import open_generator
from training.interop.modes import SINGLE, plan
from training.layers.sampling import LayersGenerator
from training.metrics.clip_score import TextAgreement
from training.metrics.lighting import SOLID, Lights, correlation, interval, lights_of, resample
from training.sample_grid import draw_sheet

DRAWN = 16
"""Pairs that a training draws to be measured by, and the command unless it is told otherwise."""
SHOWN = 8
SURE = 0.95
LEAST = 0.01
"""A pair shows both its layers where the foreground covers (alpha > 0.5) this share of it at least, and leaves it."""

LAYERS = tuple(LayerRole)
FIGURES = ("error", "empty", "leakage", "seam", "harmony")
TEXTS = {role: f"text_{role}" for role in LAYERS}

Figures = dict[str, float]


@dataclass(frozen=True)
class PairFigures:
    """What was measured of pairs: by figure, then by whose they are, and a sheet (PNG) of what was drawn.

    Whose: "joint" and "apart", or "drawn" where there is no exchange to leave out; "joint - apart", the difference of
    one text and seed; and "real". The figures are those of `measure_pair`, without a prefix; text agreement; and, of
    all pairs together, light_r: how the brightness of both layers correlates (training.metrics.lighting).
    """

    table: Mapping[str, Mapping[str, MeanWithInterval]]
    sheet: bytes

    @property
    def figures(self) -> Figures:
        """The means of what the checkpoint draws as it is used, by the names that are kept with it."""
        return {
            f"pair_{name}": row[way].mean
            for name, row in self.table.items()
            for way in row
            if way in _AS_USED
        }


_AS_USED = ("joint", "drawn")


def draws_pairs(parts: LoadedCheckpoint) -> bool:
    """Whether a checkpoint draws foreground, background and blended for the texts of a pair."""
    if parts.layers is not None or parts.preset.inpainter is not None:
        return True
    try:
        return bool(
            parts.modes and plan([*parts.modes, *([SINGLE.name] if parts.base else [])], set())
        )
    except Refused:
        return False


def heldout_pairs(store: ObjectStore, snapshot: str) -> list[Sample]:
    """The held-out samples that have a foreground and a background, in the order of their ids."""
    both = {LayerRole.foreground, LayerRole.background}
    samples = (sample for sample in read_samples(store, snapshot) if sample.split == Split.heldout)
    return sorted(
        (sample for sample in samples if sample.layers.keys() >= both), key=lambda sample: sample.id
    )


def measure_drawn_pairs(
    checkpoint: Checkpoint,
    store: ObjectStore,
    samples: Sequence[Sample],
    report: Report,
    count: int = DRAWN,
) -> Figures:
    """`pair_error`, `pair_empty`, `pair_leakage`, `pair_seam` and `pair_harmony` of so many drawn pairs."""
    ways = {"drawn": open_generator(checkpoint, store)}
    return compare_pairs(ways, samples, count, None, store, report).figures


def open_ways(checkpoint: Checkpoint, store: ObjectStore) -> dict[str, LayerGenerator]:
    """The ways in which a checkpoint draws pairs, of one set of weights: as in `PairFigures`."""
    joint = open_generator(checkpoint, store)
    if not isinstance(joint, LayersGenerator):
        return {"drawn": joint}
    apart = LayersGenerator(joint.parts, joint.alone, joint.layered, store, joined=False)
    return {"joint": joint, "apart": apart}


def compare_pairs(
    ways: Mapping[str, LayerGenerator],
    samples: Sequence[Sample],
    count: int,
    size: int | None,
    store: ObjectStore,
    report: Report,
    agreement: TextAgreement | None = None,
) -> PairFigures:
    """Draw `count` pairs in every way from the texts of real ones, the same seeds in each, and measure them all.

    Beyond the number of samples their texts are drawn again with other seeds. A seed is its sample's own, whatever else
    is measured, and the order of samples changes nothing. Real
    pairs are measured at `size`, the longer side of what is drawn, or not at all where it is None. A figure's mean is
    over samples, each with the mean of its own drawings; light_r has its interval by bootstrap over samples.
    """
    samples = sorted(samples, key=lambda sample: sample.id)[:count]
    requests = [
        _request(samples[number % len(samples)], number // len(samples)) for number in range(count)
    ]
    drawn = _draw(ways, requests, report)
    rows = {way: _measure(pairs, requests, agreement) for way, pairs in drawn.items()}
    if {"joint", "apart"} <= rows.keys():
        rows["joint - apart"] = [
            {name: one[name] - other[name] for name in one.keys() & other.keys()}
            for one, other in zip(rows["joint"], rows["apart"], strict=True)
        ]
    pairs = dict(drawn)
    if size is not None:
        stored = [
            {role: decode_layer(store.get(sha)) for role, sha in sample.layers.items()}
            for sample in samples
        ]
        pairs["real"] = [_fit(layers, size) for layers in stored]
        rows["real"] = _measure(pairs["real"], requests[: len(samples)], agreement)
        _tell_errors(rows["real"], stored)
    names = [*FIGURES, *(TEXTS.values() if agreement else ())]
    table = {
        name: {way: _spread_of(name, found, len(samples)) for way, found in rows.items()}
        for name in names
    }
    correlated = _correlate(pairs, len(samples))
    table["light_r"] = {way: correlated.get(way) for way in rows}
    kept = {
        name: {way: found for way, found in row.items() if found} for name, row in table.items()
    }
    return PairFigures(
        {name: row for name, row in kept.items() if row}, _draw_sheet(drawn, requests[:SHOWN])
    )


def measure_pair(layers: Layers) -> Figures:
    """The figures of one pair (curation.images.pairs): error, leakage, seam and harmony, all of them better when lower.

    error: how far blended is from foreground over background, in levels. empty: 1 where one of the layers is not to be
    seen; such a pair has no other figures, since nothing fits anything.
    """
    foreground, background, blended = (layers[role] for role in LAYERS)
    figures = {"error": blended_error(foreground, background, blended), "empty": 1.0}
    if not _shows_both(layers):
        return figures
    return figures | {
        "empty": 0.0,
        "leakage": leakage(foreground, background),
        "seam": seam_energy(foreground, background, blended),
        "harmony": harmony(foreground, background),
    }


def spread(values: Sequence[float]) -> MeanWithInterval:
    """Mean and 95 % interval by Student's t, which takes the values for a sample of a normal distribution.

    The order of values changes no bit. One value alone has no interval.
    """
    mean = fmean(values)
    if len(values) < 2:
        return MeanWithInterval(mean, None, None, len(values))
    reach = float(stdtrit(len(values) - 1, (1 + SURE) / 2)) * stdev(values) / sqrt(len(values))
    return MeanWithInterval(mean, mean - reach, mean + reach, len(values))


def _request(sample: Sample, turn: int) -> DrawRequest:
    texts = (sample.text_of(role) for role in (LayerRole.foreground, LayerRole.background))
    return DrawRequest(Prompt(sample.text_of(), *texts), int(sample.id[-12:], 16) + (turn << 48))


def _draw(
    ways: Mapping[str, LayerGenerator], requests: Sequence[DrawRequest], report: Report
) -> dict[str, list[Layers]]:
    drawn: dict[str, list[Layers]] = {}
    for number, (way, generator) in enumerate(ways.items()):
        drawn[way] = []
        for start in range(0, len(requests), generator.at_once):
            report(Progress("pairs", number * len(requests) + start, len(ways) * len(requests)))
            drawn[way] += generator.draw(requests[start : start + generator.at_once])
    report(Progress("pairs", len(ways) * len(requests), len(ways) * len(requests)))
    return drawn


def _shows_both(layers: Layers) -> bool:
    return bool(LEAST <= np.mean(layers[LayerRole.foreground][..., 3] > SOLID) <= 1 - LEAST)


def _measure(
    drawn: Sequence[Layers], requests: Sequence[DrawRequest], agreement: TextAgreement | None
) -> list[Figures]:
    rows = [measure_pair(layers) for layers in drawn]
    if agreement is None:
        return rows
    for role, name in TEXTS.items():
        texts = [_texts(request)[role] for request in requests]
        scores = agreement([over(layers[role], BACKGROUNDS["grey"]) for layers in drawn], texts)
        for row, score in zip(rows, scores, strict=True):
            row[name] = score
    return rows


def _tell_errors(rows: Sequence[Figures], stored: Sequence[Layers]) -> None:
    """Real pairs' error is that of the stored layers: shrinking each by itself makes one of its own."""
    for row, layers in zip(rows, stored, strict=True):
        del row["error"]
        if layers.keys() >= set(LAYERS) and len({layer.shape for layer in layers.values()}) == 1:
            row["error"] = blended_error(*(layers[role] for role in LAYERS))


def _fit(layers: Layers, size: int) -> Layers:
    """A pair at that longer side, without the bars of a letterbox: they are nothing that a foreground stands on."""
    fitted = {role: letterbox(layer, size) for role, layer in layers.items()}
    there = fitted[LayerRole.background][..., 3] > 0
    if there.any():
        rows, columns = (np.flatnonzero(there.any(axis)) for axis in (1, 0))
        inside = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        fitted = {role: np.ascontiguousarray(layer[inside]) for role, layer in fitted.items()}
    whole = composite(fitted[LayerRole.foreground], fitted[LayerRole.background])
    return {LayerRole.blended: whole, **fitted}


def _spread_of(name: str, rows: Sequence[Figures], samples: int) -> MeanWithInterval | None:
    """Over the samples that have the figure, each with the mean of its turns."""
    of_samples = (
        [row[name] for row in rows[place::samples] if name in row] for place in range(samples)
    )
    means = [fmean(values) for values in of_samples if values]
    return spread(means) if means else None


def _correlate(pairs: Mapping[str, Sequence[Layers]], samples: int) -> dict[str, MeanWithInterval]:
    """light_r in every way, and its difference; texts are resampled, each with all its drawings."""
    lights: dict[str, list[list[Lights]]] = {}
    for way, drawn in pairs.items():
        told = [
            lights_of(one[LAYERS[0]], one[LAYERS[1]]) if _shows_both(one) else None for one in drawn
        ]
        lights[way] = [[turn for turn in told[place::samples] if turn] for place in range(samples)]
    chosen = [range(samples), *resample(samples)]
    found = {
        way: [correlation([rows[place] for place in places]) for places in chosen]
        for way, rows in lights.items()
    }
    counts = {way: sum(map(bool, rows)) for way, rows in lights.items()}
    if {"joint", "apart"} <= found.keys():
        both = zip(found["joint"], found["apart"], strict=True)
        found["joint - apart"] = [
            None if one is None or two is None else one - two for one, two in both
        ]
        counts["joint - apart"] = min(counts["joint"], counts["apart"])
    spreads = {}
    for way, (value, *again) in found.items():
        if value is not None:
            low, high = interval(again)
            spreads[way] = MeanWithInterval(value, low, high, counts[way])
    return spreads


def _draw_sheet(drawn: Mapping[str, Sequence[Layers]], requests: Sequence[DrawRequest]) -> bytes:
    """A column for each text; rows of foreground, background and blended, one way after the other."""
    pictures: list[list[RGBA]] = []
    captions = []
    for way, pairs in drawn.items():
        for role in LAYERS:
            pictures.append([layers[role] for layers in pairs[: len(requests)]])
            captions.append([f"{way}: {_texts(request)[role]}" for request in requests])
    return draw_sheet(pictures, captions)


def _texts(request: DrawRequest) -> dict[LayerRole, str]:
    prompt = request.prompt
    return dict(
        zip(LAYERS, (prompt.foreground or "", prompt.background or "", prompt.text), strict=True)
    )
