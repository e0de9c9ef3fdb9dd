"""The rule reviewer for pairs: each layer, then their agreement; every fault names its layer.

A pair is accepted if its foreground is as clean as those of seed pairs, its layers show their
texts, and they belong together: the pair blends, nothing of the subject is left in the background,
there is no seam, and for texts of the synthetic grammar both layers share one light and the subject
stands on the ground. Everything is measured at review_features.REVIEW_SIZE pixels. The bounds are
those of PAIR_BOUNDS, or the quantile that all but rule_reviewer.EXCLUDED_SHARE of the seeds keep,
if that is looser.
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
from curation.images.layer_masks import downscale
from curation.ports import Layers, ObjectStore
from curation.screening.pairs.signals import compute_agreement_signals, compute_pair_signals
from curation.screening.review_features import (
    REVIEW_SIZE,
    embed_layer,
    nearest_neighbors,
    prepare_layer,
)
from curation.screening.rule_reviewer import EXCLUDED_SHARE, MAX_SEEDS, RuleReviewer

MAX_MEASURED_SEEDS: Final = 400
"""The number of seed pairs measured for the bounds; all are used for comparison."""

FOREGROUND, BACKGROUND, BLENDED = LayerRole.foreground, LayerRole.background, LayerRole.blended
PairFault = tuple[RejectReason, LayerRole, str]


@dataclass(frozen=True)
class PairBound:
    """The rule of a pair signal: a value above its bound is a fault of `layer`.

    The bound is at least `floor`.
    """

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
        BLENDED,
        "foreground over background differs from the blended image",
    ),
    PairBound(
        "leakage", 0.5, RejectReason.residue, BACKGROUND, "the subject is left in the background"
    ),
    PairBound("seam_energy", 1.5, RejectReason.halo, BACKGROUND, "a seam along the mask"),
    PairBound("light_gap", 18, RejectReason.clash, BLENDED, "the layers are lit differently"),
    PairBound(
        "foot_gap", 0.05, RejectReason.clash, BLENDED, "the subject does not stand on the ground"
    ),
)
"""The pair signals that the rule reviewer checks, in the order in which it names them."""


@dataclass(frozen=True)
class PairRuleReviewer:
    """A rule reviewer for foregrounds, seed embeddings of backgrounds, and bounds for pair signals.

    `backgrounds` has one row per seed, `max_distance` is the largest distance to the nearest.
    """

    foregrounds: RuleReviewer
    backgrounds: NDArray[np.float32]
    max_distance: float
    bounds: Mapping[str, float]

    @staticmethod
    def fit(seeds: Iterable[tuple[Layers, Prompt]]) -> PairRuleReviewer:
        """Fit to seed pairs. Raises Refused for fewer than MIN_SEEDS."""
        front, back, signals = [], [], []
        for index, (layers, prompt) in enumerate(seeds):
            small = _small(layers)
            front.append((small[FOREGROUND], prompt.foreground or prompt.text))
            back.append(embed_layer(small[BACKGROUND]))
            # Pair signals are slow to compute; a part of the seeds is enough for their quantiles.
            if index < MAX_MEASURED_SEEDS:
                signals.append(
                    compute_pair_signals(small) | compute_agreement_signals(small, prompt)
                )
        # Raises Refused for too few seeds.
        foregrounds = RuleReviewer.fit(front)
        # The bound for backgrounds is a quantile of the distances between seeds.
        stacked = np.stack(back)
        _, distances = nearest_neighbors(stacked, stacked, 1, include_self=False)
        return PairRuleReviewer(
            foregrounds,
            stacked,
            float(np.quantile(distances[:, 0], 1 - EXCLUDED_SHARE)),
            _bounds(signals),
        )

    def decide(self, layers: Layers, prompt: Prompt) -> RuleVerdict:
        """Accept the pair, or reject it with every fault and the layer of each."""
        small = _small(layers)
        found = list(self._find_faults(small, prompt))
        if not found:
            return RuleVerdict(Verdict.accept, (), "clean layers that belong together")
        named = dict.fromkeys((reason, layer) for reason, layer, _ in found)
        sentences = "; ".join(f"{layer}: {sentence}" for _, layer, sentence in found)
        reasons = tuple(reason for reason, _ in named)
        return RuleVerdict(Verdict.reject, reasons, sentences, tuple(layer for _, layer in named))

    def _find_faults(self, small: Layers, prompt: Prompt) -> Iterator[PairFault]:
        # The foreground alone, by the bounds of single layers.
        judged = prepare_layer(small[FOREGROUND])
        for reason, sentence in self.foregrounds.find_broken_bounds(judged):
            yield reason, FOREGROUND, sentence
        # The layers together; without a common size nothing else can be measured.
        pair_signals = compute_pair_signals(small)
        if pair_signals["size_gap"]:
            yield RejectReason.malformed, BLENDED, "the layers differ in size"
            return
        if (pair_signals["background_alpha"] or 0) < 0.98:
            yield RejectReason.holes, BACKGROUND, "it is not opaque"
        agreement = compute_agreement_signals(small, prompt)
        yield from self._find_missed(small, prompt, agreement)
        signals = pair_signals | agreement
        for bound in PAIR_BOUNDS:
            value, limit = signals.get(bound.signal), self.bounds[bound.signal]
            if value is not None and value > limit:
                explanation = f"{bound.sentence} ({bound.signal} {value:.3g}, above {limit:.3g})"
                yield bound.reason, bound.layer, explanation

    def _find_missed(
        self, small: Layers, prompt: Prompt, shown: Mapping[str, float | None]
    ) -> Iterator[PairFault]:
        """Yield mismatches between layers and texts.

        Texts of the synthetic grammar are checked exactly, others by comparison with seeds.
        """
        if shown:
            missed = [name for name in ("colour", "shape") if not shown[f"shows_{name}"]]
            if missed:
                yield (
                    RejectReason.prompt_miss,
                    FOREGROUND,
                    f"not the {' and '.join(missed)} of its text",
                )
            if not shown["shows_ground"]:
                yield RejectReason.prompt_miss, BACKGROUND, "it does not show its text"
            elif shown["light_gap"] is None or shown["foot_gap"] is None:
                yield RejectReason.malformed, FOREGROUND, "it has no solid subject"
            return
        for reason, sentence in self.foregrounds.find_unlike_seeds(
            prepare_layer(small[FOREGROUND]), prompt.foreground or prompt.text
        ):
            yield reason, FOREGROUND, sentence
        _, distances = nearest_neighbors(embed_layer(small[BACKGROUND])[None], self.backgrounds, 1)
        if distances[0, 0] > self.max_distance:
            explanation = (
                f"unlike every seed (distance {distances[0, 0]:.3g}, above {self.max_distance:.3g})"
            )
            yield RejectReason.malformed, BACKGROUND, explanation


def fit_pair_rule_reviewer(store: ObjectStore, snapshot: str) -> PairRuleReviewer:
    """Return a rule reviewer fitted to the training seeds of a snapshot. Raises Refused."""

    def is_seed(sample: Sample) -> bool:
        return sample.kind is Kind.pair and sample.round == 0 and sample.split is Split.train

    chosen = islice(filter(is_seed, read_samples(store, snapshot)), MAX_SEEDS)
    return PairRuleReviewer.fit(
        (_read(store, sample.layers), _prompt_of(sample)) for sample in chosen
    )


def review_item(
    rule_reviewer: RuleReviewer | PairRuleReviewer, store: ObjectStore, item: ReviewItem
) -> RuleVerdict:
    """Return the rule reviewer's verdict on a review item.

    Args:
        rule_reviewer: The rule reviewer of the item's kind.
        store: The object store with the layers.
        item: The item; a pair is judged as a whole, a single candidate by its foreground.
    """
    try:
        drawn = _read(store, {role: layer.sha256 for role, layer in item.layers.items()})
    except (NotFound, Corrupt) as error:
        return RuleVerdict(Verdict.reject, (RejectReason.other,), error.message)
    if isinstance(rule_reviewer, RuleReviewer):
        return rule_reviewer.decide(drawn.get(FOREGROUND, next(iter(drawn.values()))), item.prompt)
    # A pair that lost a layer is malformed, not an error of the rule reviewer.
    if missing := [role for role in LayerRole if role not in drawn]:
        return RuleVerdict(
            Verdict.reject, (RejectReason.malformed,), f"the {missing[0]} is missing", (missing[0],)
        )
    return rule_reviewer.decide(
        drawn, Prompt(item.prompt, item.texts.get(FOREGROUND), item.texts.get(BACKGROUND))
    )


def _prompt_of(sample: Sample) -> Prompt:
    return Prompt(sample.caption, sample.texts.get(FOREGROUND), sample.texts.get(BACKGROUND))


def _read(store: ObjectStore, layers: Mapping[LayerRole, str]) -> Layers:
    return {role: decode_layer(store.get(sha)) for role, sha in layers.items()}


def _small(layers: Layers) -> Layers:
    return {role: downscale(np.asarray(layers[role]), REVIEW_SIZE) for role in LayerRole}


def _bounds(signals: list[dict[str, float | None]]) -> dict[str, float]:
    """Return each signal's floor, or the quantile that all but EXCLUDED_SHARE of the seeds keep."""
    bounds = {}
    for bound in PAIR_BOUNDS:
        values = [value for seed in signals if (value := seed.get(bound.signal)) is not None]
        bounds[bound.signal] = (
            max(bound.floor, float(np.quantile(values, 1 - EXCLUDED_SHARE)))
            if values
            else bound.floor
        )
    return bounds
