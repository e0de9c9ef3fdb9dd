"""The cost of an accept equals values computed by hand, and the stopping rule recommends when to stop."""

from __future__ import annotations

import uuid

import numpy as np
import pytest
import sqlalchemy as sa

from curation.db.tables import candidates, rounds
from curation.db.tables import decisions as decisions_table
from curation.domain import CandidateState, Verdict
from curation.reporting import round_report
from curation.review import consensus, decisions
from curation.review.reviewers import add_reviewer, add_rule_reviewer
from curation.review.verdicts import CONSENSUS, apply_final_state
from curation.rounds.policies import MixedPolicy
from curation.selection import review_cost
from curation.selection.select import select_candidates
from tests.support.candidate_streams import (
    SOURCE,
    accepts,
    arrive,
    fitted_model,
    judge_waiting,
    open_stream,
)
from tests.support.factories import make_candidates, make_round

MIXED = {"kind": "mixed", "share": 0.4, "likely": 0.5, "uncertain": 0.2, "random": 0.3}


def test_the_cost_by_slice_equals_values_computed_by_hand(database, store):
    with database.transaction() as tx:
        round_id = make_round(tx)
        ids = list(make_candidates(tx, store, round_id, 9))
        for index, name in enumerate(["likely"] * 4 + ["random"] * 5):
            tx.execute(
                sa.update(candidates).where(candidates.c.id == ids[index]).values(slice=name)
            )
        ann, rule_reviewer = add_reviewer(tx, "ann").id, add_rule_reviewer(tx)

        def say(index, verdict, dwell_ms, who=ann):
            return decisions.decide(
                tx, who, ids[index], verdict, key=uuid.uuid4(), dwell_ms=dwell_ms
            )

        say(0, Verdict.accept, 1_000)
        say(1, Verdict.accept, 3_000)
        say(2, Verdict.reject, None)
        say(4, Verdict.reject, 4_000)
        say(5, Verdict.accept, 4_000)
        decisions.undo(tx, ann, None, key=uuid.uuid4(), seconds=60)
        say(5, Verdict.reject, 1_000)
        say(6, Verdict.accept, None, rule_reviewer)
        report = review_cost.review_cost(tx, round_id)
    likely, random = report["slices"]
    # Three reviews at a mean of 2 s, the unmeasured one too, for two accepts.
    assert likely == {
        "slice": "likely",
        "reviews": 3,
        "seconds": 6.0,
        "accepted": 2,
        "seconds_per_accept": 3.0,
    }
    assert random == {
        "slice": "random",
        "reviews": 3,
        "seconds": 9.0,
        "accepted": 0,
        "seconds_per_accept": None,
    }
    # 13 s for five measured verdicts; nothing has a score, so each that waits is worth the share accepted: 3 of 6.
    assert report["next_hour"]["reviews"] == pytest.approx(3_600 / 2.6)
    assert report["next_hour"]["left"] == 3
    assert report["next_hour"]["accepts"] == pytest.approx(3_600 / 2.6 / 2)
    assert report["next_hour"]["certain"] is False
    assert report["stop"] is None


def test_several_verdicts_on_one_candidate_are_several_reviews_and_one_accept(database, store):
    """A waiting candidate with two of three votes needs one more review, a fresh one three; re-aggregation needs none."""
    with database.transaction() as tx:
        round_id = make_round(tx)
        consensus.set_consensus(tx, round_id, consensus.make_consensus(3, None, None), "test")
        first, turned, begun, _ = make_candidates(tx, store, round_id, 4)
        people = [add_reviewer(tx, name).id for name in ("ann", "bob", "cy")]

        def say(who, candidate, verdict=Verdict.accept):
            decisions.decide(tx, people[who], candidate, verdict, key=uuid.uuid4(), dwell_ms=2_000)

        for who in range(3):
            say(who, first)
            say(who, turned, Verdict.accept if who else Verdict.reject)
        for who in range(2):
            say(who, begun)
        machine = add_reviewer(tx, CONSENSUS, kind="rule_reviewer").id
        row = {"candidate_id": turned, "reviewer_id": machine, "verdict": "reject", "channel": CONSENSUS, "final": True,
               "key": uuid.uuid4()}  # fmt: skip
        tx.execute(sa.insert(decisions_table), row)
        apply_final_state(tx, turned, CandidateState.rejected)
        report = review_cost.review_cost(tx, round_id)
    assert report["slices"] == [
        {
            "slice": "random",
            "reviews": 8,
            "seconds": 16.0,
            "accepted": 1,
            "seconds_per_accept": 16.0,
        }
    ]
    # 2 s a look, 4 reviews for the two that are left, of which by the share so far (1 of 2) one will be accepted.
    hour = report["next_hour"]
    assert (hour["reviews"], hour["left"]) == (pytest.approx(1_800), 4)
    assert hour["accepts"] == pytest.approx(1_800 / 4)


def test_costs_without_reviews_are_none(database, store):
    with database.transaction() as tx:
        round_id = make_round(tx)
        make_candidates(tx, store, round_id, 2)
        assert review_cost.review_cost(tx, round_id) == {
            "slices": [],
            "next_hour": None,
            "stop": None,
        }


def test_the_next_hours_accepts_are_estimated_by_the_scores(database):
    with database.transaction() as tx:
        fitted_model(tx)
        round_id = open_stream(tx, MIXED, 10**6)
        quality = np.random.default_rng(1).standard_normal(600)
        ids = arrive(tx, round_id, 1, quality)
        verdicts = accepts(1, quality)
        good = dict(zip(ids, verdicts.tolist(), strict=True))
        select_candidates(tx, round_id, SOURCE)
        before = judge_waiting(tx, round_id, good, dwell_ms=36_000, most=100)
        hour = review_cost.review_cost(tx, round_id)["next_hour"]
        assert hour["reviews"] == pytest.approx(100)
        assert hour["certain"] is True
        came = judge_waiting(tx, round_id, good, most=100)
    assert came == pytest.approx(hour["accepts"], abs=3 * np.sqrt(25))
    assert before > 0


def test_review_stops_at_enough_accepts_or_too_few_per_hour(database):
    with database.transaction() as tx:
        fitted_model(tx)
        round_id = open_stream(tx, MIXED | {"wanted": 25}, 10**6)
        quality = np.random.default_rng(2).standard_normal(600)
        ids = arrive(tx, round_id, 2, quality)
        good = dict(zip(ids, accepts(2, quality).tolist(), strict=True))
        assert review_cost.stop_reason(tx, round_id, MixedPolicy(wanted=25)) is None
        select_candidates(tx, round_id, SOURCE)
        accepted = judge_waiting(tx, round_id, good, dwell_ms=36_000)
        assert accepted >= 25
        assert "25 were wanted" in review_cost.stop_reason(tx, round_id, MixedPolicy(wanted=25))
        shown, left = select_candidates(tx, round_id, SOURCE)
        assert (shown, left > 300) == (
            0,
            True,
        )  # by the policy nothing more is put up, and the rest stays unshown
        assert "review may stop: " in round_report.as_text(round_report.round_report(tx, round_id))
        tx.execute(
            sa.update(candidates)
            .where(candidates.c.state == "unshown")
            .values(state="waiting", propensity=1)
        )
        worth = review_cost.review_cost(tx, round_id)["next_hour"]["accepts"]
        assert review_cost.stop_reason(tx, round_id, MixedPolicy(least=worth - 1)) is None
        assert "fewer than" in review_cost.stop_reason(tx, round_id, MixedPolicy(least=worth + 1))


def test_a_round_without_a_rule_never_stops(database):
    with database.transaction() as tx:
        round_id = open_stream(tx, MIXED, 10)
        assert review_cost.stop_reason(tx, round_id, MixedPolicy()) is None
        assert tx.scalar(sa.select(rounds.c.policy["kind"].astext)) == "mixed"
