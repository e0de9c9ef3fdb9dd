"""Statistics of a reviewer equal values computed by hand from made-up histories."""

from __future__ import annotations

import math
import uuid

import numpy as np
import pytest

from curation.domain import Verdict
from curation.reporting.reviewer_stats import all_statistics, as_text, reviewer_statistics
from curation.review.consensus import ConsensusRule, ConsensusSettings, set_consensus
from curation.review.decisions import decide
from curation.review.reviewers import add_reviewer
from tests.support.decision_history import PastDecision, make_history
from tests.support.factories import make_candidates, make_round


def statistics(database, past, *, to_themselves: bool = False) -> dict:
    with database.transaction() as tx:
        ann = add_reviewer(tx, "ann")
        make_history(tx, ann.id, past)
        return reviewer_statistics(tx, ann, to_themselves=to_themselves)


def test_statistics_have_pace_dwell_times_and_undone_decisions(database):
    """Two sessions of 101 and 51 decisions 10 s apart, an hour between them; every tenth review takes 5 s."""
    first = [
        PastDecision(10 * i, accept=i % 4 == 0, dwell_ms=5_000 if i % 10 == 9 else 1_000)
        for i in range(101)
    ]
    second = [
        PastDecision(4_610 + 10 * i, accept=False, undone=i < 2, dwell_ms=200 if i < 5 else 1_000)
        for i in range(51)
    ]
    found = statistics(database, first + second)
    assert found["decisions"] == 150
    assert found["hours"] == pytest.approx((1_000 + 500 + 2 * 1) / 3_600)
    assert found["decisions_per_hour"] == pytest.approx(150 / found["hours"])
    assert found["dwell_ms"]["n"] == 152
    assert found["dwell_ms"]["median"] == 1_000
    assert found["accepted"]["value"] == pytest.approx(26 / 150)
    assert found["undone"]["value"] == pytest.approx(2 / 152)
    assert found["signs"]["quick"]["value"] == pytest.approx(5 / 152)
    assert found["agreement"]["alike"] is None
    assert found["gold"] == {"noticed": None, "clean_accepted": None, "curves": []}
    assert "150 decisions in 0.4 h, 360 per hour" in as_text(found)


def test_statistics_without_decisions_are_empty(database):
    found = statistics(database, [])
    assert (found["decisions"], found["hours"], found["decisions_per_hour"]) == (0, 0.0, None)
    assert found["signs"] == {
        "run": None, "quick": None, "dwell_change_per_hour": None, "missed_early": None, "missed_late": None,
    }  # fmt: skip
    assert as_text(found) == "ann: 0 decisions in 0.0 h"
    with database.transaction() as tx:
        assert [one["name"] for one in all_statistics(tx)] == ["ann"]


def test_the_longest_run_of_equal_verdicts_is_compared_with_chance(database):
    rng = np.random.default_rng(3)
    honest = [PastDecision(i, accept=bool(a)) for i, a in enumerate(rng.random(400) < 0.3)]
    found = statistics(database, honest)["signs"]["run"]
    assert found["verdict"] == "reject"
    share = sum(not one.accept for one in honest) / 400
    assert found["expected"] == pytest.approx(
        (math.log(400 * (1 - share)) + 0.5772) / math.log(1 / share) - 0.5, rel=1e-3
    )
    assert found["chance"] > 0.02


def test_deciding_without_looking_shows_as_an_unlikely_run(database):
    stamped = [PastDecision(i, accept=i % 3 == 0) for i in range(100)] + [
        PastDecision(100 + i, accept=True) for i in range(60)
    ]
    found = statistics(database, stamped)["signs"]["run"]
    assert (found["verdict"], found["longest"]) == ("accept", 61)
    assert found["expected"] < 20
    assert found["chance"] < 1e-6


def test_slower_decisions_and_more_misses_show_as_a_drift(database):
    """Dwell times grow by a half in an hour; obvious defects are missed once in ten early, every second time later."""
    rng = np.random.default_rng(5)
    past = []
    for i in range(365):
        seconds = 10.0 * i
        late = seconds >= 1_800
        dwell = round(1_000 * 1.5 ** (seconds / 3_600) * math.exp(rng.normal(0, 0.2)))
        missed = i % 2 == 0 if late else i % 10 == 0
        past.append(PastDecision(seconds, accept=missed, dwell_ms=dwell, gold=i % 3 == 0, defect="haze" if i % 3 == 0 else None,
                         severity=0.9 if i % 3 == 0 else 0))  # fmt: skip
    found = statistics(database, past)["signs"]
    assert found["dwell_change_per_hour"]["low"] < 0.5 < found["dwell_change_per_hour"]["high"]
    assert found["dwell_change_per_hour"]["low"] > 0.3
    assert found["missed_early"]["value"] == pytest.approx(0.1)
    assert found["missed_late"]["value"] == pytest.approx(0.5)


def test_reviewers_see_gold_statistics_in_groups_of_ten(database):
    rng = np.random.default_rng(8)
    past = [PastDecision(5.0 * i, accept=True, gold=True) for i in range(24)]
    for i, severity in enumerate(rng.uniform(0.05, 1, 63)):
        defect = ("haze", "holes")[i % 2]
        seen = severity > (0.3 if defect == "haze" else 0.6)
        past.append(
            PastDecision(
                200 + 5.0 * i, accept=not seen, gold=True, defect=defect, severity=float(severity)
            )
        )
    found = statistics(database, past)
    curves = {one["defect"]: one for one in found["gold"]["curves"]}
    assert set(curves) == {"haze", "holes"}
    assert curves["haze"]["threshold"] == pytest.approx(0.3, abs=0.06)
    assert curves["holes"]["threshold"] == pytest.approx(0.6, abs=0.06)
    assert found["gold"]["clean_accepted"]["value"] == 1
    with database.transaction() as tx:
        own = reviewer_statistics(tx, add_reviewer(tx, "ann"), to_themselves=True)
    assert (
        sum(one["n"] for one in own["gold"]["curves"]) + own["gold"]["clean_accepted"]["n"] == 80
    ), "of 87"


def test_agreement_with_others_counts_common_candidates(database, store):
    with database.transaction() as tx:
        round_id = make_round(tx)
        set_consensus(tx, round_id, ConsensusSettings(ConsensusRule.majority, 3), "test")
        ids = make_candidates(tx, store, round_id, 12)
        people = {name: add_reviewer(tx, name) for name in ("ann", "bob", "cy")}
        for index, one in enumerate(ids):
            for name, who in people.items():
                accept = index % 2 == 0 if name != "cy" else index % 4 == 0
                decide(
                    tx, who.id, one, Verdict.accept if accept else Verdict.reject, key=uuid.uuid4()
                )
        ann = reviewer_statistics(tx, people["ann"], to_themselves=False)["agreement"]
        cy = reviewer_statistics(tx, people["cy"], to_themselves=False)["agreement"]
        own = reviewer_statistics(tx, people["ann"], to_themselves=True)["agreement"]
    assert (ann["alike"]["n"], ann["alike"]["value"]) == (24, (12 + 9) / 24)
    assert cy["alike"]["value"] == 9 / 12
    assert ann["ac1"]["value"] > cy["ac1"]["value"]
    assert own["alike"]["n"] == 20
