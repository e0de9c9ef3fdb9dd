"""The oracle on pairs: each layer is judged for itself, then how they belong together, and every fault names its layer.

A pair is accepted whose foreground is as clean as the foregrounds of seed pairs, whose layers show their texts, and
which belongs together: it blends, nothing of the subject is left in the background, no seam, and where its texts are of
the procedural grammar one light and a foot on the ground. Everything is measured at oracle.SIDE pixels. The bounds are
those of PAIR_BOUNDS, or where seeds themselves go further, what all but oracle.SHARE of them keep.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Final

import numpy as np
from numpy.typing import NDArray

from curation.datasets.manifest import read_samples
from curation.domain import (
    Kind,
    LayerRole,
    Prompt,
    RejectReason,
    ReviewItem,
    RuleVerdict,
    Sample,
    Split,
    Verdict,
)
from curation.errors import Corrupt, NotFound
from curation.images.codec import decode_layer
from curation.images.layer_masks import shrink
from curation.ports import Layers, ObjectStore
from curation.screening.pairs.signals import measure_agreement, measure_pair
from curation.screening.rule_reviewer import (
    MOST_SEEDS,
    SHARE,
    SIDE,
    RuleReviewer,
    as_judged,
    embed,
    nearest_of,
)

MEASURED_SEEDS: Final = 400
"""Seed pairs whose own signals are measured for the bounds; all give their layers for comparison."""

FRONT, BACK, WHOLE = LayerRole.foreground, LayerRole.background, LayerRole.blended
Fault = tuple[RejectReason, LayerRole, str]


@dataclass(frozen=True)
class PairBound:
    """One signal's rule for pairs: above the bound it is a fault of `layer`; never tighter than `floor`."""

    signal: str
    floor: float
    reason: RejectReason
    layer: LayerRole
    sentence: str


PAIR_BOUNDS: Final = (
    PairBound(
        "blended_error",
        6,
        RejectReason.clash,
        WHOLE,
        "foreground over background is another picture",
    ),
    PairBound("leakage", 0.5, RejectReason.residue, BACK, "the subject is left in the background"),
    PairBound("seam_energy", 1.5, RejectReason.halo, BACK, "a seam along the mask"),
    PairBound("light_gap", 18, RejectReason.clash, WHOLE, "the layers are not in one light"),
    PairBound(
        "foot_gap", 0.05, RejectReason.clash, WHOLE, "the figure does not stand on the ground"
    ),
)
"""The signals of pairs that the oracle looks at, in the order in which it names them."""


@dataclass(frozen=True)
class PairRuleReviewer:
    """An oracle for foregrounds, one for backgrounds (N embeddings of seeds), and bounds for what lies between."""

    foregrounds: RuleReviewer
    backgrounds: NDArray[np.float32]
    farthest: float
    bounds: Mapping[str, float]

    @staticmethod
    def fit(seeds: Iterable[tuple[Layers, Prompt]]) -> PairRuleReviewer:
        """Measure seed pairs. Raises Refused for fewer than FEWEST_SEEDS."""
        front, back, signals = [], [], []
        for number, (layers, prompt) in enumerate(seeds):
            small = _small(layers)
            front.append((small[FRONT], prompt.foreground or prompt.text))
            back.append(embed(small[BACK]))
            if number < MEASURED_SEEDS:
                signals.append(measure_pair(small) | measure_agreement(small, prompt))
        foregrounds = RuleReviewer.fit(front)  # refuses too few
        stacked = np.stack(back)
        _, distances = nearest_of(stacked, stacked, 1, itself=False)
        return PairRuleReviewer(
            foregrounds, stacked, float(np.quantile(distances[:, 0], 1 - SHARE)), _bounds(signals)
        )

    def decide(self, layers: Layers, prompt: Prompt) -> RuleVerdict:
        """Accept, or reject with every fault found and the layer each concerns."""
        small = _small(layers)
        found = list(self._find_faults(small, prompt))
        if not found:
            return RuleVerdict(Verdict.accept, (), "clean layers that belong together")
        named = dict.fromkeys((reason, layer) for reason, layer, _ in found)
        sentences = "; ".join(f"{layer}: {sentence}" for _, layer, sentence in found)
        reasons = tuple(reason for reason, _ in named)
        return RuleVerdict(Verdict.reject, reasons, sentences, tuple(layer for _, layer in named))

    def _find_faults(self, small: Layers, prompt: Prompt) -> Iterator[Fault]:
        judged = as_judged(small[FRONT])
        for reason, sentence in self.foregrounds.find_unclean(judged):
            yield reason, FRONT, sentence
        between = measure_pair(small)
        if between["size_gap"]:
            yield RejectReason.malformed, WHOLE, "the layers are not of one size"
            return
        if (between["background_alpha"] or 0) < 0.98:
            yield RejectReason.holes, BACK, "it can be seen through"
        agreement = measure_agreement(small, prompt)
        yield from self._find_missed(small, prompt, agreement)
        signals = between | agreement
        for bound in PAIR_BOUNDS:
            value, limit = signals.get(bound.signal), self.bounds[bound.signal]
            if value is not None and value > limit:
                told = f"{bound.sentence} ({bound.signal} {value:.3g}, above {limit:.3g})"
                yield bound.reason, bound.layer, told

    def _find_missed(
        self, small: Layers, prompt: Prompt, shown: Mapping[str, float | None]
    ) -> Iterator[Fault]:
        """What is not what the texts say: by the grammar's own measure, elsewhere by the seeds."""
        if shown:
            missed = [name for name in ("colour", "shape") if not shown[f"shows_{name}"]]
            if missed:
                yield RejectReason.prompt_miss, FRONT, f"not the {' and '.join(missed)} of its text"
            if not shown["shows_ground"]:
                yield RejectReason.prompt_miss, BACK, "not what its text says"
            elif shown["light_gap"] is None or shown["foot_gap"] is None:
                yield RejectReason.malformed, FRONT, "nothing solid stands there"
            return
        for reason, sentence in self.foregrounds.find_foreign(
            as_judged(small[FRONT]), prompt.foreground or prompt.text
        ):
            yield reason, FRONT, sentence
        _, distances = nearest_of(embed(small[BACK])[None], self.backgrounds, 1)
        if distances[0, 0] > self.farthest:
            told = f"unlike every seed (distance {distances[0, 0]:.3g}, above {self.farthest:.3g})"
            yield RejectReason.malformed, BACK, told


def fit_pairs_to_snapshot(store: ObjectStore, snapshot: str) -> PairRuleReviewer:
    """An oracle for pairs from the training seeds of a snapshot. Raises Refused where too few are pairs."""

    def is_seed(sample: Sample) -> bool:
        return sample.kind is Kind.pair and sample.round == 0 and sample.split is Split.train

    chosen = islice(filter(is_seed, read_samples(store, snapshot)), MOST_SEEDS)
    return PairRuleReviewer.fit(
        (_read(store, sample.layers), _prompt_of(sample)) for sample in chosen
    )


def judge_card(
    oracle: RuleReviewer | PairRuleReviewer, store: ObjectStore, card: ReviewItem
) -> RuleVerdict:
    """What the oracle says of a card: of a pair as a whole, of a single candidate by its foreground."""
    try:
        drawn = _read(store, {role: layer.sha256 for role, layer in card.layers.items()})
    except (NotFound, Corrupt) as error:
        return RuleVerdict(Verdict.reject, (RejectReason.other,), error.message)
    if isinstance(oracle, RuleReviewer):
        return oracle.decide(drawn.get(FRONT, next(iter(drawn.values()))), card.prompt)
    if missing := [role for role in LayerRole if role not in drawn]:
        return RuleVerdict(
            Verdict.reject, (RejectReason.malformed,), f"there is no {missing[0]}", (missing[0],)
        )
    return oracle.decide(drawn, Prompt(card.prompt, card.texts.get(FRONT), card.texts.get(BACK)))


def _prompt_of(sample: Sample) -> Prompt:
    return Prompt(sample.caption, sample.texts.get(FRONT), sample.texts.get(BACK))


def _read(store: ObjectStore, layers: Mapping[LayerRole, str]) -> Layers:
    return {role: decode_layer(store.get(sha)) for role, sha in layers.items()}


def _small(layers: Layers) -> Layers:
    return {role: shrink(np.asarray(layers[role]), SIDE) for role in LayerRole}


def _bounds(signals: list[dict[str, float | None]]) -> dict[str, float]:
    """Each signal's floor, or what all but SHARE of the seeds keep where that is more."""
    bounds = {}
    for bound in PAIR_BOUNDS:
        values = [value for seed in signals if (value := seed.get(bound.signal)) is not None]
        bounds[bound.signal] = (
            max(bound.floor, float(np.quantile(values, 1 - SHARE))) if values else bound.floor
        )
    return bounds
