"""Policies: missing fields have defaults, and invalid ones are refused before a round is opened."""

from __future__ import annotations

import pytest

from curation.errors import Refused
from curation.rounds.policies import (
    MIN_RANDOM_SLICE,
    MixedPolicy,
    PaperPolicy,
    RandomPolicy,
    check_policy_signals,
    parse_policy,
    policy_to_dict,
)


@pytest.mark.parametrize(
    "policy",
    [
        RandomPolicy(0.5),
        MixedPolicy(),
        MixedPolicy(share=0.1, wanted=900, reject_budget=0.02),
        PaperPolicy(),
    ],
)
def test_a_policy_is_stored_as_written(policy):
    assert parse_policy(policy_to_dict(policy)) == policy


def test_missing_fields_have_their_defaults():
    assert parse_policy({"kind": "mixed", "share": 0.1}) == MixedPolicy(share=0.1)
    assert (MixedPolicy().likely, MixedPolicy().uncertain, MixedPolicy().random) == (
        0.70,
        0.15,
        0.15,
    )
    assert (MixedPolicy().reject_budget, MixedPolicy().accept_budget) == (
        0,
        0,
    )  # no automatic decisions by default
    assert parse_policy({"kind": "paper"}) == PaperPolicy(aesthetic=5.5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "best"}, "unknown selection policy"),
        ({}, "unknown selection policy"),
        ({"kind": "random", "share": 0}, "share"),
        ({"kind": "random", "share": 1.5}, "share"),
        ({"kind": "random", "share": True}, "share"),
        ({"kind": "random", "share": float("nan")}, "share"),
        ({"kind": "random", "likely": 0.5}, "no field 'likely'"),
        ({"kind": "mixed", "random": 0, "likely": 0.85}, "random"),
        ({"kind": "mixed", "likely": 0.9}, "do not add up to 1"),
        ({"kind": "mixed", "wanted": 1.5}, "wanted"),
        ({"kind": "mixed", "reject_budget": -0.02}, "reject_budget"),
        ({"kind": "paper", "aesthetic": "high"}, "aesthetic"),
    ],
)
def test_invalid_values_are_refused(fields, message):
    with pytest.raises(Refused, match=message):
        parse_policy(fields)


def test_the_random_slice_is_large_enough_for_a_model_and_within_the_share():
    assert MixedPolicy(share=0.2).random_share(1_000_000) == pytest.approx(0.03)
    assert MixedPolicy(share=0.2).random_share(4_000) == pytest.approx(MIN_RANDOM_SLICE / 4_000)
    assert MixedPolicy(share=0.2).random_share(100) == 0.2


def test_the_papers_selector_needs_weights():
    check_policy_signals({"kind": "random", "share": 1}, ())
    check_policy_signals({"kind": "paper"}, ("clip_score", "aesthetic"))
    with pytest.raises(Refused, match="aesthetic") as refused:
        check_policy_signals({"kind": "paper"}, ("clip_score",))
    assert "LAYERLOOP_AESTHETIC" in refused.value.hint
