"""Distributions of captions and signals: bins, words, and the bound on what is read."""

from __future__ import annotations

import math

import pytest
import sqlalchemy as sa

from curation.datasets import snapshot_statistics
from curation.datasets.samples import add_samples, samples_from_candidates
from curation.datasets.snapshot_statistics import (
    histogram,
    measure_captions,
    measure_signals,
    read_measured,
)
from curation.datasets.snapshots import freeze_snapshot
from curation.db.tables import screenings
from curation.domain import CandidateState
from tests.support.factories import make_candidates, make_round
from tests.support.snapshots import make_sample, make_snapshot


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([3, 5, 5, 4], (3, 5, 4.5, (1, 1, 2))),
        ([7.5, 7.5], (7.5, 7.5, 7.5, (2,))),
        ([0.0, math.nan, math.inf, -math.inf], (0, 0, 0, (1,))),
        ([-2, -1], (-2, -1, -1.5, (1, 1))),
    ],
)
def test_a_histogram_counts_every_finite_value_once(values, expected):
    found = histogram(values)
    assert (found.low, found.high, found.median, found.counts) == expected


def test_histograms_of_wide_ranges_have_a_fixed_number_of_bins():
    found = histogram([n / 7 for n in range(1_000)])
    assert (len(found.counts), sum(found.counts)) == (snapshot_statistics.BINS, 1_000)
    assert len(histogram([0, 10**9]).counts) == snapshot_statistics.BINS
    assert histogram([]) is histogram([math.nan]) is None


def test_words_are_counted_once_per_caption_in_any_case_and_script(store):
    captions = ["A red Vase, red", "the Red cat's bowl", "красная ваза 12_3", "", "!? 7"]
    measured = [make_sample(store, n + 1, caption) for n, caption in enumerate(captions[:3])]
    found = measure_captions(measured)
    assert found.words[0] == ("red", 2)
    assert {"vase", "cat's", "bowl", "красная", "ваза"} == {word for word, _ in found.words[1:]}
    assert found.lengths is not None
    assert (found.lengths.low, found.lengths.high) == (2, 4)
    assert measure_captions([]).lengths is None


def test_no_more_samples_are_read_than_are_measured(store, monkeypatch):
    one = make_sample(store, 1)
    lines = [one.__class__(**(one.__dict__ | {"id": f"{n << 112:032x}"})) for n in range(6_000)]
    snapshot = make_snapshot(store, lines)
    read: list[str] = []
    get = store.get
    monkeypatch.setattr(store, "get", lambda sha: read.append(sha) or get(sha))
    measured = read_measured(store, snapshot)
    assert [sample.id for sample in measured] == [line.id for line in lines[:2_000]]
    assert len(read) <= 3, "the manifest and the parts that are needed"


def test_signals_are_those_of_the_candidates_of_the_samples(database, store):
    with database.transaction() as tx:
        round_id = make_round(tx)
        ids = make_candidates(tx, store, round_id, 3, CandidateState.accepted)
        for value, candidate in enumerate(ids):
            signals = {"coverage": value / 4, "unknown": None}
            tx.execute(sa.insert(screenings), {"candidate_id": candidate, "signals": signals})
        add_samples(tx, samples_from_candidates(tx, ids[:2]))
    frozen = freeze_snapshot(database, store, tag=None, actor="test")
    with database.transaction() as tx:
        found = measure_signals(tx, read_measured(store, frozen.id))
    assert list(found) == ["coverage"]
    assert (found["coverage"].low, found["coverage"].high) == (0, 0.25)
    assert sum(found["coverage"].counts) == 2
