"""Words of rejected prompts: rates of rejects, what counts as one, and weights of captions."""

import hashlib
from dataclasses import replace

import pytest

from curation.datasets.decision_records import CountedReason
from curation.domain import Checkpoint, RejectReason
from curation.object_store import FolderStore
from tests.support.snapshots import make_decision, make_sample, make_snapshot
from training.data.sampler import WeightedSampler
from training.preference.missed_words import PRIOR_DECISIONS, find_missed_words
from training.presets.presets import find_preset

PARENT = Checkpoint({"base": "0" * 64}, "whole", "micro", None, None, 0, "test")
PRESET = find_preset("micro", {"reject_emphasis": "6"})
FACTS = {"checkpoint": PARENT.id, "automatic": False, "posterior": None, "propensity": None}


@pytest.fixture
def store(tmp_path):
    return FolderStore(tmp_path)


def freeze(store, decisions):
    return make_snapshot(store, [make_sample(store, 1)], decisions=decisions)


def decide(store, index, prompt, accept, reason=RejectReason.prompt_miss, **fields):
    reasons = () if accept else (CountedReason(reason, None, 1),)
    return make_decision(
        store, index, prompt=prompt, accept=accept, **FACTS | {"reasons": reasons} | fields
    )


def test_captions_with_words_of_rejected_prompts_weigh_more(store):
    decided = [decide(store, n, "a red star", n >= 15) for n in range(20)]
    decided += [decide(store, 20 + n, "a Blue circle", n >= 5) for n in range(20)]
    missed = find_missed_words(store, freeze(store, decided), PARENT, PRESET)
    # 20 of 40 were rejected: 15 of 20 stars, shrunk to the mean by the prior.
    star = (15 + PRIOR_DECISIONS / 2) / (20 + PRIOR_DECISIONS) - 0.5
    assert missed.weight("a green star") == pytest.approx(1 + 6 * star)
    assert missed.weight("a blue circle") == missed.weight("something else") == 1
    assert missed.weight("") == 1


def test_a_word_that_few_prompts_have_proves_little(store):
    decided = [decide(store, n, "a red star", n % 2 == 0) for n in range(20)]
    decided += [decide(store, 20, "an odd star", accept=False)]
    missed = find_missed_words(store, freeze(store, decided), PARENT, PRESET)
    assert 1 < missed.weight("odd") < 1.6


@pytest.mark.parametrize(
    "fields",
    [
        {"reason": RejectReason.residue},  # a fault of the decoder
        {"checkpoint": hashlib.sha256(b"another").hexdigest()},
        {"automatic": True},
    ],
    ids=["another part", "another checkpoint", "automatic"],
)
def test_rejects_that_tell_nothing_of_the_parent_are_left_out(store, fields):
    decided = [decide(store, n, "a star", accept=False, **fields) for n in range(5)]
    decided += [decide(store, 5 + n, "a circle", accept=True) for n in range(5)]
    assert find_missed_words(store, freeze(store, decided), PARENT, PRESET) is None


def test_automatic_verdicts_count_where_the_preset_says_so(store):
    decided = [decide(store, n, "a star", accept=False, automatic=True) for n in range(5)]
    decided += [decide(store, 5 + n, "a circle", accept=True) for n in range(5)]
    preset = replace(PRESET, automatic_decisions=True)
    missed = find_missed_words(store, freeze(store, decided), PARENT, preset)
    assert missed.weight("star") > 1


def test_a_doubtful_verdict_counts_for_both_sides(store):
    decided = [decide(store, n, "a star", accept=False, posterior=0.4) for n in range(10)]
    decided += [decide(store, 10 + n, "a circle", accept=True, posterior=0.6) for n in range(10)]
    missed = find_missed_words(store, freeze(store, decided), PARENT, PRESET)
    # Rejected with probability 0.6 and 0.4; the mean is 0.5.
    expected = (6 + PRIOR_DECISIONS / 2) / (10 + PRIOR_DECISIONS) - 0.5
    assert missed.excess["star"] == pytest.approx(expected)


def test_candidates_that_were_rarely_shown_count_for_those_that_were_not(store):
    decided = [decide(store, n, "a star", accept=False, propensity=0.25) for n in range(5)]
    decided += [decide(store, 5 + n, "a circle", accept=True, propensity=1.0) for n in range(20)]
    missed = find_missed_words(store, freeze(store, decided), PARENT, PRESET)
    expected = (20 + PRIOR_DECISIONS / 2) / (20 + PRIOR_DECISIONS) - 0.5
    assert missed.excess["star"] == pytest.approx(expected)


def test_without_decisions_parent_or_emphasis_nothing_is_weighted(store):
    with_decisions = freeze(store, [decide(store, n, "a star", n > 2) for n in range(6)])
    without = make_snapshot(store, [make_sample(store, 1)])
    assert find_missed_words(store, without, PARENT, PRESET) is None
    assert find_missed_words(store, with_decisions, None, PRESET) is None
    off = replace(PRESET, reject_emphasis=0.0)
    assert find_missed_words(store, with_decisions, PARENT, off) is None


def test_heavier_captions_are_drawn_in_proportion():
    draws = WeightedSampler((1.0, 1.0, 4.0), 0).indices(0, 600)
    assert draws.count(2) == pytest.approx(400, abs=2)
