"""Words of prompts that the last checkpoint missed, so that seeds with them are trained on more."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from curation.datasets.decision_records import DecisionRecord, read_decisions
from curation.domain import Checkpoint, Verdict
from curation.object_store import ObjectReader
from training.preference.labels import reason_share
from training.presets.preset import Preset

logger = logging.getLogger("layerloop.training")

PRIOR_DECISIONS = 5.0
"""Decisions at the mean rate that are added to each word, so that a rare word proves little."""


@dataclass(frozen=True)
class MissedWords:
    """How often prompts with a word were rejected, in excess of all prompts.

    Attributes:
        excess: By word, the rate of rejects less the mean rate, at least 0.
        emphasis: Weight that an excess of 1 adds to a caption with the word.
    """

    excess: Mapping[str, float]
    emphasis: float

    def weight(self, caption: str) -> float:
        """Return the sampling weight of a caption: 1, and more by the worst of its words."""
        worst = max((self.excess.get(word, 0.0) for word in _words(caption)), default=0.0)
        return 1 + self.emphasis * worst


def find_missed_words(
    store: ObjectReader, snapshot: str, parent: Checkpoint | None, preset: Preset
) -> MissedWords | None:
    """Count the rejects of a checkpoint's candidates by the words of their prompts.

    A reject counts as far as its reasons are among the preset's `base_reasons`; a verdict counts by
    the probability that it is right and the inverse of the probability with which people were shown
    the candidate, as in `training.preference.labels.label_weight`.

    Args:
        store: Where the snapshot is stored.
        snapshot: Id of a snapshot that was frozen with decisions.
        parent: The checkpoint to train further; only its own candidates tell what it misses.
        preset: The preset.

    Returns:
        The words; None if the preset turns this off, or there are no such decisions.

    Raises:
        NotFound: The snapshot is not in the store.
        Corrupt: It cannot be read.
    """
    if not preset.reject_emphasis or parent is None:
        return None
    decided: dict[str, float] = defaultdict(float)
    rejected: dict[str, float] = defaultdict(float)
    all_decided = all_rejected = 0.0
    for record in read_decisions(store, snapshot, automatic=preset.automatic_decisions):
        if record.checkpoint != parent.id:
            continue
        accept, reject = _verdict_weights(record, preset)
        all_decided += accept + reject
        all_rejected += reject
        for word in _words(record.prompt):
            decided[word] += accept + reject
            rejected[word] += reject
    if not all_rejected:
        return None

    # Shrink each word's rate to the mean.
    mean = all_rejected / all_decided
    excess = {
        word: (rejected[word] + PRIOR_DECISIONS * mean) / (decided[word] + PRIOR_DECISIONS) - mean
        for word in decided
    }
    worst = sorted(excess, key=lambda word: (-excess[word], word))[:8]
    logger.info("words that were missed most: %s", ", ".join(worst))
    above = {word: value for word, value in excess.items() if value > 0}
    return MissedWords(above, preset.reject_emphasis)


def _verdict_weights(record: DecisionRecord, preset: Preset) -> tuple[float, float]:
    """Return how much a candidate counts as accepted and as rejected for a fault of the base."""
    inverse = min(preset.propensity_clip, 1 / record.propensity) if record.propensity else 1.0
    right = record.label_weight()
    if record.verdict is Verdict.accept:
        return right * inverse, (1 - right) * inverse
    concerns = reason_share(record, preset.base_reasons)
    return (1 - right * concerns) * inverse, right * concerns * inverse


def _words(text: str) -> set[str]:
    return set(text.lower().split())
