"""Distributions of captions and signals of a snapshot, measured on a bounded part of it."""

from __future__ import annotations

import itertools
import re
import uuid
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import sqlalchemy as sa

from curation.datasets.manifest import read_samples
from curation.db.engine import Transaction
from curation.db.tables import samples, screenings
from curation.domain import Sample
from curation.object_store import ObjectReader

MAX_MEASURED = 2_000
"""Samples that are measured; their ids are hashes, so that the first ones are a random choice."""
BINS = 20
MAX_WORDS = 12
_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
_FUNCTION_WORDS = frozenset({
    "a", "an", "and", "are", "as", "at", "by", "for", "from", "in", "is", "its", "of", "on", "or",
    "the", "to", "with",
})  # fmt: skip


@dataclass(frozen=True)
class Histogram:
    """Counts of values in bins of equal width between `low` and `high`, and their median."""

    low: float
    high: float
    median: float
    counts: tuple[int, ...]


@dataclass(frozen=True)
class CaptionStatistics:
    """Lengths of captions in words, and the most frequent words with their numbers of captions."""

    lengths: Histogram | None
    words: tuple[tuple[str, int], ...]


def read_measured(store: ObjectReader, snapshot: str) -> list[Sample]:
    """Return the samples of a snapshot that are measured: the first ones in the order of ids.

    Args:
        store: Store of the snapshot.
        snapshot: Id of the snapshot.

    Raises:
        NotFound: The snapshot or a part is not in the store.
        Corrupt: A part cannot be read.
    """
    return list(itertools.islice(read_samples(store, snapshot), MAX_MEASURED))


def measure_captions(measured: Sequence[Sample]) -> CaptionStatistics:
    """Return the statistics of the captions of samples."""
    spoken = [_WORD.findall(sample.caption) for sample in measured]
    found = Counter(
        word for words in spoken for word in {word.casefold() for word in words} - _FUNCTION_WORDS
    )
    ranked = sorted(found.items(), key=lambda item: (-item[1], item[0]))[:MAX_WORDS]
    return CaptionStatistics(histogram([len(words) for words in spoken]), tuple(ranked))


def measure_signals(tx: Transaction, measured: Sequence[Sample]) -> dict[str, Histogram]:
    """Return the distribution of each screening signal of samples that were candidates here.

    Args:
        tx: The transaction.
        measured: At most `MAX_MEASURED` samples.
    """
    query = (
        sa.select(screenings.c.signals)
        .join(samples, samples.c.candidate_id == screenings.c.candidate_id)
        .where(samples.c.id.in_([uuid.UUID(sample.id) for sample in measured]))
    )
    values: dict[str, list[float]] = defaultdict(list)
    for signals in tx.execute(query).scalars():
        for name, value in signals.items():
            if isinstance(value, int | float):
                values[name].append(value)
    measured_signals = {name: histogram(values[name]) for name in sorted(values)}
    return {name: found for name, found in measured_signals.items() if found}


def histogram(values: Sequence[float]) -> Histogram | None:
    """Return the histogram of the finite values, None if there are none.

    Whole numbers in a narrow range have a bin each.
    """
    finite = np.asarray([value for value in values if np.isfinite(value)], np.float64)
    if not finite.size:
        return None
    low, high = float(finite.min()), float(finite.max())
    whole = bool((finite == np.round(finite)).all())
    if low == high:
        counts = np.asarray([finite.size])
    elif whole and high - low < BINS:
        counts = np.bincount((finite - low).astype(np.int64))
    else:
        counts, _ = np.histogram(finite, BINS, (low, high))
    return Histogram(low, high, float(np.median(finite)), tuple(int(count) for count in counts))
