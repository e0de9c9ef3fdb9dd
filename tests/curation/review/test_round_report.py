"""The round report equals values computed by hand."""

from __future__ import annotations

import json
import uuid

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from curation.db import leases
from curation.db.tables import candidates, screenings
from curation.domain import CandidateState, RejectReason, Verdict
from curation.errors import NotFound
from curation.reporting import round_report
from curation.review import decisions, progress
from curation.review.consensus import ConsensusRule, ConsensusSettings, set_consensus
from curation.review.reviewers import add_reviewer, add_rule_reviewer
from curation.rounds import lifecycle
from tests.support.factories import make_candidates, make_round

S = CandidateState


@given(st.integers(1, 400), st.integers(0, 400))
def test_the_wilson_interval_equals_scipys(n, k):
    k = min(k, n)
    low, high = round_report.wilson(k / n, n)
    expected = binomtest(k, n).proportion_ci(0.95, method="wilson")
    assert low == pytest.approx(expected.low, abs=1e-9)
    assert high == pytest.approx(expected.high, abs=1e-9)


def test_the_wilson_interval_is_wider_for_fewer_observations():
    for n in (1, 2.5, 10, 100):
        low, high = round_report.wilson(0.3, n)
        wider = round_report.wilson(0.3, n / 2)
        assert wider[0] <= low < 0.3 < high <= wider[1]


@pytest.fixture
def judged(database, store):
    """Return a round of 12: two refused, one unshown, one requested, eight shown to ann, bob and the rule reviewer."""
    with database.transaction() as tx:
        round_id = make_round(tx, quota=12)
        shown = list(make_candidates(tx, store, round_id, 8))
        tx.execute(
            sa.text("update candidates set propensity = 0.5 where id = :id"), {"id": shown[0]}
        )
        refused = add(tx, round_id, 2, S.refused)
        add(tx, round_id, 1, S.unshown)
        add(tx, round_id, 1, S.requested)
        for one, signal in zip(refused, ("no_visible", "no_visible"), strict=True):
            row = {"candidate_id": one, "signals": {}, "refused_by": signal, "refused_value": 0.0}
            tx.execute(sa.insert(screenings), row)
        ann, bob, rule_reviewer = (
            add_reviewer(tx, "ann").id,
            add_reviewer(tx, "bob").id,
            add_rule_reviewer(tx),
        )

        def say(who, one, verdict, dwell_ms=None, *reasons):
            return decisions.decide(
                tx, who, one, verdict, key=uuid.uuid4(), dwell_ms=dwell_ms, reasons=reasons
            )

        say(ann, shown[0], Verdict.reject, 1_000, RejectReason.halo, RejectReason.cropped)
        say(ann, shown[1], Verdict.accept, 2_000)
        say(ann, shown[2], Verdict.accept, 3_000)
        say(ann, shown[3], Verdict.reject, 4_000, RejectReason.halo)
        decisions.undo(tx, ann, None, key=uuid.uuid4(), seconds=60)
        say(ann, shown[3], Verdict.accept, 2_000)
        say(bob, shown[4], Verdict.skip, 6_000)
        say(bob, shown[5], Verdict.reject, None, RejectReason.halo)
        say(rule_reviewer, shown[6], Verdict.accept)
        say(rule_reviewer, shown[7], Verdict.reject, None, RejectReason.holes)
        return round_id


def add(tx, round_id, count, state):
    """Bare candidates in a state, without layers."""
    made = []
    for _ in range(count):
        one = uuid.uuid4()
        prompt = tx.scalar(sa.select(candidates.c.prompt_id).limit(1))
        row = {
            "id": one,
            "round_id": round_id,
            "prompt_id": prompt,
            "seed": one.int % 2**40,
            "state": state,
        }
        tx.execute(sa.insert(candidates), row)
        made.append(one)
    return made


def test_the_report_of_a_round_equals_values_computed_by_hand(database, judged):
    with database.transaction() as tx:
        report = round_report.round_report(tx, judged)
    assert report["funnel"] == {
        "requested": 12, "generated": 11, "refused": 2, "shown": 8, "decided": 7, "accepted": 4, "rejected": 3,
        "waiting": 1, "unshown": 1, "failed": 0,
    }  # fmt: skip
    assert report["refusals"] == [{"signal": "no_visible", "count": 2}]
    assert report["reasons"] == [
        {"reason": "halo", "layer": None, "count": 2, "kind": "person"},
        {"reason": "cropped", "layer": None, "count": 1, "kind": "person"},
        {"reason": "holes", "layer": None, "count": 1, "kind": "rule_reviewer"},
    ]
    assert report["signals"] == []
    # People: rejects weigh 2 (shown with propensity 0.5) and 1, accepts 1 + 1 + 1. The undone reject counts nowhere.
    people = report["defects_per_100"]["person"]
    low, high = round_report.wilson(3 / 6, 6**2 / 8)
    assert people == pytest.approx({"value": 50.0, "low": 100 * low, "high": 100 * high, "n": 5})
    assert report["defects_per_100"]["rule_reviewer"]["value"] == pytest.approx(50.0)
    assert report["defects_per_100"]["rule_reviewer"]["n"] == 2
    # 18 s in six measured looks is 3 s a look; seven looks, one of them unmeasured, for three accepts.
    assert report["human"]["seconds_per_accept"] == pytest.approx(3.0 * 7 / 3)
    assert report["human"]["accepts_per_hour"] == pytest.approx(3600 / 7)
    assert report["human"]["decisions"] == 5
    by_name = {one["name"]: one for one in report["human"]["reviewers"]}
    assert by_name["ann"] == {
        "name": "ann",
        "kind": "person",
        "decisions": 4,
        "accepted": 3,
        "median_dwell_ms": 2000.0,
    }
    assert by_name["bob"] == {
        "name": "bob",
        "kind": "person",
        "decisions": 1,
        "accepted": 0,
        "median_dwell_ms": 6000.0,
    }
    assert by_name["rule_reviewer"]["kind"] == "rule_reviewer"
    assert report["rule_reviewer"] == {"decisions": 2, "accepted": 1}
    # 18 s of looks for five measured verdicts (one of them undone); one waits, and 8 in 11 of what is drawn is shown.
    assert report["seconds_left"] == pytest.approx(18 / 5 * (1 + 8 / 11))
    assert report["evaluation"] == {"psnr": 30.0}
    assert report["round"]["quota"] == 12
    json.dumps(report, default=str)


def test_the_report_is_formatted_as_text(database, judged):
    with database.transaction() as tx:
        text = round_report.as_text(round_report.round_report(tx, judged))
    assert f"Round {judged} (open), generated by " in text
    for line in (
        "12 candidates: 11 generated, 0 failed, 2 refused, 1 not selected, 1 waiting",
        "8 shown, 7 decided: 4 accepted, 3 rejected",
        "refused by: no_visible 2",
        "50.0 defects per 100 by people",
        "reasons of people: halo 2, cropped 1",
        "reasons of the rule reviewer: holes 1",
        "7.0 s of people's time per accepted candidate",
        "the rule reviewer decided 2 and accepted 1",
        "held-out split: psnr 30",
    ):
        assert line in text


def test_the_report_of_an_empty_round_has_no_rates(database):
    with database.transaction() as tx:
        report = round_report.round_report(tx, lifecycle.open_seed_review(tx, "test"))
        with pytest.raises(NotFound):
            round_report.round_report(tx, 10**6)
    assert report["defects_per_100"] == {"person": None, "rule_reviewer": None}
    assert report["human"] == {
        "seconds_per_accept": None,
        "accepts_per_hour": None,
        "decisions": 0,
        "reviewers": [],
    }
    assert report["seconds_left"] == 0.0
    assert report["evaluation"] == {}
    assert round_report.as_text(report).startswith("Round 1 (open), imported files\n")


def test_time_left_is_unknown_before_anybody_decided(database, store):
    with database.transaction() as tx:
        round_id = make_round(tx)
        make_candidates(tx, store, round_id, 2)
        assert round_report.round_report(tx, round_id)["seconds_left"] is None


def test_withdrawn_and_failed_candidates_count_as_generated(database, store):
    with database.transaction() as tx:
        round_id = make_round(tx)
        make_candidates(tx, store, round_id, 3)
        add(tx, round_id, 2, S.requested)
        add(tx, round_id, 1, S.failed)
        lifecycle.close_round(tx, round_id, "test")
        funnel = round_report.round_report(tx, round_id)["funnel"]
    assert (funnel["requested"], funnel["generated"], funnel["failed"], funnel["waiting"]) == (
        6,
        3,
        1,
        0,
    )


def test_progress_of_one_round_or_of_all_open_ones(database, store):
    with database.transaction() as tx:
        first, second = make_round(tx), make_round(tx)
        ids = list(make_candidates(tx, store, first, 3))
        make_candidates(tx, store, second, 2)
        ann, bob = add_reviewer(tx, "ann").id, add_reviewer(tx, "bob").id
        decisions.claim_items(tx, ann, first, 3, (), 60)
        decisions.decide(tx, ann, ids[0], Verdict.accept, key=uuid.uuid4())
        decisions.decide(tx, ann, ids[1], Verdict.reject, key=uuid.uuid4())
        assert progress.review_progress(tx, ann, first) == {"waiting": 1, "mine": 2, "accepted": 1}
        counts = progress.review_progress(tx, bob, None)
        assert counts == {"waiting": 2, "mine": 0, "accepted": 0}, (
            "what ann holds waits for nobody else"
        )
        decisions.undo(tx, ann, None, key=uuid.uuid4(), seconds=60)
        assert progress.review_progress(tx, ann, first) == {"waiting": 2, "mine": 1, "accepted": 1}
        lifecycle.close_round(tx, first, "test")
        assert progress.review_progress(tx, ann, None) == {"waiting": 2, "mine": 0, "accepted": 0}
        assert leases.expire(tx) == {}


def test_progress_counts_a_candidate_with_several_verdicts_once(database, store):
    """Four candidates with three reviews of 2 s each: one accepted, two rejected, one waits for its third verdict."""
    with database.transaction() as tx:
        round_id = make_round(tx, quota=4)
        set_consensus(tx, round_id, ConsensusSettings(ConsensusRule.majority, 3), "test")
        ids = make_candidates(tx, store, round_id, 4)
        votes = {"ann": "arra", "bob": "aarr", "cy": "rrr"}
        for name, verdicts in votes.items():
            for one, letter in zip(ids, verdicts, strict=False):
                verdict = Verdict.accept if letter == "a" else Verdict.reject
                decisions.decide(
                    tx, add_reviewer(tx, name).id, one, verdict, key=uuid.uuid4(), dwell_ms=2_000
                )
        report = round_report.round_report(tx, round_id)
    defects = report["defects_per_100"]["person"]
    assert (defects["n"], defects["value"]) == (3, pytest.approx(200 / 3))
    assert (defects["low"], defects["high"]) == tuple(
        100 * end for end in round_report.wilson(2 / 3, 3)
    )
    assert report["human"]["decisions"] == 11
    assert report["human"]["seconds_per_accept"] == 22, "eleven looks of two seconds for one sample"
    assert report["seconds_left"] == pytest.approx(2 * 3 * 1), "at most three more looks"
