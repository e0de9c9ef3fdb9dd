"""Decided candidates as labels: weights, reasons, automatic verdicts, and what is refused."""

from dataclasses import replace

import pytest

from curation.datasets.decision_records import CountedReason
from curation.domain import Kind, LayerRole, RejectReason, Verdict
from curation.errors import Refused
from tests.training.preference.conftest import make_record
from training.preference.labels import label_weight, read_labels, reason_share
from training.preference.mixture import TwoGroups, WeightedIndices
from training.presets.presets import PRESETS

MICRO = PRESETS["micro"]
LAYERS = {LayerRole.foreground: "ab" * 32}


def reject(*reasons):
    """Return a rejected candidate with counted reasons."""
    counted = tuple(CountedReason(RejectReason(name), None, count) for name, count in reasons)
    return make_record(1, layers=LAYERS, reasons=counted, posterior=0.0)


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (reject(("prompt_miss", 1)), 1.0),
        (reject(("halo", 1)), 0.0),
        (reject(("residue", 2)), 0.0),
        (reject(("halo", 3), ("malformed", 1)), 0.25),
        (reject(("clash", 1)), 0.0),
        (reject(), 1.0),
    ],
)
def test_rejects_teach_the_base_by_the_share_of_their_reasons(record, expected):
    assert label_weight(record, "base", MICRO) == pytest.approx(expected)


def test_layers_learn_from_pairs_and_from_clashes():
    record = replace(reject(("clash", 1)), kind=Kind.pair, layers=dict.fromkeys(LayerRole, "ab"))
    assert label_weight(record, "layers", MICRO) == 1.0
    assert label_weight(record, "base", MICRO) == 0.0
    assert label_weight(replace(record, layers=LAYERS), "layers", MICRO) == 0.0


def test_the_weight_is_the_posterior_of_the_label_times_the_clipped_inverse_propensity():
    accepted = make_record(0, layers=LAYERS, posterior=0.8, propensity=0.25)
    rejected = make_record(1, layers=LAYERS, posterior=0.3, propensity=0.02)
    assert label_weight(accepted, "base", MICRO) == pytest.approx(0.8 * 4)
    assert label_weight(rejected, "base", MICRO) == pytest.approx(0.7 * 10)
    clipped = replace(MICRO, propensity_clip=1.0)
    assert label_weight(accepted, "base", clipped) == pytest.approx(0.8)
    unshown = replace(accepted, propensity=None, posterior=None)
    assert label_weight(unshown, "base", MICRO) == 1.0


def test_an_accept_counts_whatever_its_reasons_are():
    reasons = (CountedReason(RejectReason.halo, None, 1),)
    accepted = make_record(0, layers=LAYERS, reasons=reasons)
    assert reason_share(accepted, ()) == 1.0


def test_automatic_verdicts_are_left_out_unless_they_are_wanted(store, freeze_records):
    automatic = [make_record(n, automatic=True, posterior=None) for n in range(9)]
    snapshot = freeze_records(automatic)
    with pytest.raises(Refused, match="9 were decided automatically") as error:
        read_labels(store, snapshot, "base", MICRO)
    assert "automatic_decisions=true" in error.value.hint
    wanted = replace(MICRO, automatic_decisions=True)
    assert len(read_labels(store, snapshot, "base", wanted)) == 9


@pytest.mark.parametrize(
    ("records", "part", "words", "hint"),
    [
        ([], "base", "0 accepted and 0 rejected", "--with-rejects"),
        ([make_record(0), make_record(3)], "base", "2 accepted and 0 rejected", "review more"),
        ([make_record(0), make_record(1)], "layers", "0 are pairs", "rounds of pairs"),
    ],
)
def test_a_snapshot_without_usable_decisions_is_refused(
    store, freeze_records, records, part, words, hint
):
    with pytest.raises(Refused, match=words) as error:
        read_labels(store, freeze_records(records), part, MICRO)
    assert hint in error.value.hint


def test_candidates_that_the_previous_snapshot_lacks_weigh_more(store, freeze_records):
    first = freeze_records([make_record(n) for n in range(4)])
    both = freeze_records([make_record(n) for n in range(6)])
    plain = {one.record.id: one.weight for one in read_labels(store, both, "base", MICRO)}
    found = read_labels(store, both, "base", MICRO, first)
    factors = [one.weight / plain[one.record.id] for one in found]
    assert factors == pytest.approx([1, 1, 1, 1, 2, 2])


def test_labels_know_their_verdict_and_are_read_as_samples(store, decided):
    labels = read_labels(store, decided, "base", MICRO)
    assert [one.desirable for one in labels] == [n % 3 == 0 for n in range(24)]
    sample = labels[0].sample()
    assert sample.id == labels[0].record.candidate
    assert sample.caption_for(LayerRole.foreground) == labels[0].record.prompt
    assert labels[0].record.verdict is Verdict.accept


def group(first, count, weights=None):
    return WeightedIndices.of(range(first, first + count), weights or [1.0] * count, 5)


def test_the_mixture_has_its_shares_in_every_batch_and_random_access():
    mixture = TwoGroups(group(0, 10), TwoGroups(group(10, 6), group(16, 20), 0.5), 0.25)
    draws = mixture.indices(0, 1_600)
    for start in range(0, 1_600, 16):
        batch = draws[start : start + 16]
        assert [sum(low <= n < high for n in batch) for low, high in ((0, 10), (10, 16), (16, 36))] == [
            4, 6, 6,
        ]  # fmt: skip
    assert mixture.indices(700, 33) == draws[700:733]
    assert mixture.epoch_length == 36


def test_draws_are_in_proportion_to_weights_within_a_group():
    mixture = TwoGroups(group(0, 1), group(1, 2, [3.0, 1.0]), 0.0)
    draws = mixture.indices(0, 400)
    assert draws.count(0) == 0
    assert draws.count(1) / draws.count(2) == pytest.approx(3, rel=0.1)
