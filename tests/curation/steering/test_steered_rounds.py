"""Steered rounds on PostgreSQL: outcomes, choices, flags, reports, and a simulation over seeds."""

from __future__ import annotations

import uuid
from collections import Counter

import numpy as np
import pytest
import sqlalchemy as sa
from scipy import stats

from curation.db.tables import candidates, decisions, kept_reports, rounds, screenings
from curation.domain import Kind, Prompt, Verdict
from curation.errors import Refused
from curation.reporting import round_report
from curation.reporting.trend import rounds_trend
from curation.review.consensus import ConsensusRule, ConsensusSettings, set_consensus
from curation.review.reviewers import add_reviewer
from curation.rounds import lifecycle
from curation.steering.choice import choose, steer_prompts
from curation.steering.features import arms_of
from curation.steering.outcomes import forget_outcomes, read_outcomes
from curation.steering.settings import Goal, SteeringSettings
from tests.support.factories import make_checkpoint
from tests.support.steered_rounds import captions, decide_all, open_steered, planted_acceptance

STEERED = SteeringSettings()
POOL = captions(400)


def decided_round(tx, prompts, verdicts, *, rules=False):
    """Open, decide and close a round of one candidate for each prompt."""
    round_id = lifecycle.open_round(
        tx,
        checkpoint=make_checkpoint(tx, uuid.uuid4().hex),
        prompt_list=prompts,
        quota=len(prompts),
        actor="test",
    )
    by_text = {prompt.text: good for prompt, good in zip(prompts, verdicts, strict=True)}
    decide_all(tx, round_id, lambda prompt: float(by_text[prompt.text]), 0, rules=rules)
    return round_id


def test_the_first_round_is_at_random(database):
    with database.transaction() as tx:
        round_id, chosen = open_steered(tx, POOL, 40, 1, STEERED)
        report = round_report.round_report(tx, round_id)
    assert [prompt.text for prompt in chosen.prompts].count("") == 0
    assert Counter(chosen.prompts) == Counter(POOL[:40])
    assert {choice.source for choice in chosen.choices} == {"random"}
    assert (report["steering"]["random"], report["steering"]["steered"]) == (40, 0)
    assert "so all prompts are at random" in round_report.as_text(report)


def test_outcomes_equal_values_computed_by_hand(database):
    red, blue = [Prompt("a red circle"), Prompt("a red star")], [Prompt("a blue star")]
    with database.transaction() as tx:
        round_id = decided_round(tx, [*red, *blue], [True, False, True])
        # One of four of these was shown, so it counts four times.
        tx.execute(
            sa.update(candidates)
            .where(candidates.c.round_id == round_id, candidates.c.prompt_id == red[1].id)
            .values(propensity=0.25)
        )
        [outcomes] = read_outcomes(tx, Kind.single).values()
        assert read_outcomes(tx, Kind.pair) == {}
    # Weights 1 and 4: the share is 1/5, of (1 + 4)^2 / (1 + 16) effective decisions.
    size = 25 / 17
    found = outcomes.arms["color=red"]
    assert (found.accepts, found.rejects) == pytest.approx((size / 5, size * 4 / 5), abs=1e-4)
    assert (found.decisions, found.automatic, dict(found.reasons)) == (2, 0, {"halo": 1})
    assert outcomes.total.decisions == 3
    assert outcomes.prompts == {}


def test_outcomes_are_kept_until_a_decision_or_a_takedown(database):
    with database.transaction() as tx:
        round_id = decided_round(tx, POOL[:1], [True])
        read_outcomes(tx, Kind.single)
        kept = sa.select(kept_reports.c.marker).where(kept_reports.c.subject == round_id)
        marker = tx.scalar(kept)
        # What is kept is what is read.
        row = {"total": [0.0, 5.0, 5, 0, {}], "arms": {}, "prompts": {}}
        tx.execute(sa.update(kept_reports).values(report=row))
        assert read_outcomes(tx, Kind.single)[round_id].total.rejects == 5
        tx.execute(
            sa.insert(decisions),
            {
                "candidate_id": tx.scalar(sa.select(candidates.c.id)),
                "reviewer_id": add_reviewer(tx, "bob").id,
                "verdict": Verdict.skip,
                "channel": "pages",
                "key": uuid.uuid4(),
            },
        )
        assert read_outcomes(tx, Kind.single)[round_id].total.accepts == 1
        assert tx.scalar(kept) > marker
        forget_outcomes(tx, [round_id])
        assert tx.scalar(kept) is None


def test_automatic_verdicts_count_where_the_rule_reviewer_decides(database):
    with database.transaction() as tx:
        round_id = decided_round(tx, POOL[:1], [True], rules=True)
        assert read_outcomes(tx, Kind.single)[round_id].total.automatic == 1
        forget_outcomes(tx, [round_id])
        tx.execute(sa.update(rounds).values(rule_reviewer=False))
        assert read_outcomes(tx, Kind.single) == {}


def test_several_verdicts_count_by_their_posterior(database):
    with database.transaction() as tx:
        round_id = lifecycle.open_round(
            tx,
            checkpoint=make_checkpoint(tx),
            prompt_list=POOL[:8],
            quota=8,
            actor="test",
        )
        majority = ConsensusSettings(ConsensusRule.majority, 3, 0.5)
        set_consensus(tx, round_id, majority, "test")
        decide_all(tx, round_id, lambda _: 1.0, 0, close=False)
        # Two more people: one agrees, the other never does.
        ids = list(tx.execute(sa.select(candidates.c.id)).scalars())
        for name, verdict in (("bob", Verdict.accept), ("cy", Verdict.reject)):
            who = add_reviewer(tx, name).id
            rows = [
                {
                    "candidate_id": one,
                    "reviewer_id": who,
                    "verdict": verdict,
                    "channel": "pages",
                    "key": uuid.uuid4(),
                }
                for one in ids
            ]
            tx.execute(sa.insert(decisions), rows)
        lifecycle.close_round(tx, round_id, "test")
        total = read_outcomes(tx, Kind.single)[round_id].total
    assert total.decisions == 8
    assert 4 < total.accepts < 8


def test_steered_prompts_are_flagged_with_their_probability(database):
    acceptance = planted_acceptance(5)
    with database.transaction() as tx:
        first, _ = open_steered(tx, POOL, 120, 1, STEERED)
        decide_all(tx, first, acceptance, 1)
        round_id, chosen = open_steered(tx, POOL, 80, 2, STEERED)
        again = steer_prompts(tx, POOL, 80, 2, Kind.single, STEERED)
        query = sa.select(candidates).where(candidates.c.round_id == round_id)
        rows = tx.execute(query).mappings().all()
    assert again == chosen
    assert Counter(row["prompt_source"] for row in rows) == {"random": 20, "steered": 60}
    natural = Counter(POOL)
    by_id = {prompt.id: count / len(POOL) for prompt, count in natural.items()}
    for row in rows:
        assert row["prompt_share"] == pytest.approx(by_id[row["prompt_id"]], rel=1e-4)
        # At most a quarter at random and three quarters of three times the share.
        assert 0.24 < row["prompt_propensity"] / row["prompt_share"] < 2.6
    arms = {row["arm"]: row for row in chosen.report["arms"]}
    assert sum(row["now"] for arm, row in arms.items() if arm.startswith("color")) == pytest.approx(
        1, abs=1e-3
    )
    for arm, row in arms.items():
        drawn = sum(arm in arms_of(prompt) for prompt in chosen.prompts)
        assert row["candidates"] == drawn
        assert row["candidates"] >= int(0.5 * row["before"] * 80)


def test_the_report_separates_random_from_steered_prompts(database):
    acceptance = planted_acceptance(5)
    with database.transaction() as tx:
        for seed in (1, 2):
            round_id, _ = open_steered(tx, POOL, 100, seed, STEERED)
            verdicts = decide_all(tx, round_id, acceptance, seed)
        # Of steered prompts no image shows its shape, of the others each.
        query = sa.select(candidates.c.id, candidates.c.prompt_source == "random").where(
            candidates.c.round_id == round_id
        )
        rows = [
            {"candidate_id": id_, "signals": {"shows_colour": 1, "shows_shape": int(shown)}}
            for id_, shown in tx.execute(query)
        ]
        tx.execute(sa.insert(screenings), rows)
        report = round_report.round_report(tx, round_id)
        trend = rounds_trend(tx)
        at_random = set(
            tx.execute(
                sa.select(candidates.c.id).where(candidates.c.prompt_source == "random")
            ).scalars()
        )
    own = [good for id_, good in verdicts.items() if id_ in at_random]
    outcomes = {row["source"]: row["acceptance"] for row in report["steering"]["outcomes"]}
    assert outcomes["random"]["n"] == len(own) == 25
    assert outcomes["random"]["value"] == pytest.approx(np.mean(own))
    assert outcomes["steered"]["n"] == 75
    # The figure by which rounds are compared uses the random share alone.
    defects = report["defects_per_100"]["person"]
    assert defects["n"] == 25
    assert defects["value"] == pytest.approx(100 * (1 - np.mean(own)))
    # So does the trend over rounds.
    [row] = [row for row in trend["rounds"] if row["round"] == round_id]
    assert row["figures"]["acceptance"]["value"] == pytest.approx(np.mean(own))
    assert row["figures"]["shape_and_color"]["value"] == 1
    assert report["prompt_agreement"]["n"] == 25
    text = round_report.as_text(report)
    assert "25 at random, 75 steered for accepts" in text
    assert "random prompts by people" in text


def test_targets_hold_or_are_refused(database):
    acceptance = planted_acceptance(5)
    with database.transaction() as tx:
        first, _ = open_steered(tx, POOL, 120, 1, STEERED)
        decide_all(tx, first, acceptance, 1)
        targets = {"heart": 0.3, "color=white": 24}
        settings = SteeringSettings(targets=targets)
        chosen = steer_prompts(tx, POOL, 100, 2, Kind.single, settings)
        arms = Counter(arm for prompt in chosen.prompts for arm in arms_of(prompt))
        assert arms["shape=heart"] >= 30
        assert arms["color=white"] >= 24
        for wrong in ({"unicorn": 0.1}, {"red": 0.9}, {"red": 0.6, "blue": 0.6}):
            settings = SteeringSettings(targets=wrong)
            with pytest.raises(Refused):
                steer_prompts(tx, POOL, 100, 2, Kind.single, settings)


def test_prompts_without_shared_words_are_steered_by_their_own_decisions(database):
    pool = [Prompt(f"{word}{word} thing") for word in ("abc", "def", "ghi", "jkl", "mno", "pqr")]
    with database.transaction() as tx:
        round_id, _ = open_steered(tx, pool, 120, 1, STEERED)
        decide_all(tx, round_id, lambda prompt: float(prompt == pool[0]), 1)
        chosen = steer_prompts(tx, pool, 60, 2, Kind.single, STEERED)
    counts = Counter(chosen.prompts)
    assert counts[pool[0]] > 2 * max(counts[prompt] for prompt in pool[1:])
    assert chosen.report["prompts"][0]["prompt"] == pool[0].id.hex


def test_a_pool_may_be_smaller_than_the_round_and_of_one_prompt():
    for pool in ([Prompt("a red star")], POOL[:3]):
        chosen = choose(pool, 50, 0, STEERED, {})
        assert len(chosen.prompts) == len(chosen.choices) == 50
    assert choose([], 50, 0, STEERED, {}).prompts == []


@pytest.mark.slow
def test_steering_gives_more_accepts_and_its_random_share_stays_unbiased(database):
    """Planted acceptance by attribute; three rounds for each of 16 seeds."""
    accepted: dict[str, list[float]] = {"random": [], "accepts": [], "learn": []}
    errors, coverage = [], []
    for seed in range(16):
        acceptance = planted_acceptance(seed)
        pool = captions(500, seed)
        truth = float(np.mean([acceptance(prompt) for prompt in pool]))
        natural = Counter(arm for prompt in pool for arm in arms_of(prompt))
        for goal in accepted:
            settings = (
                SteeringSettings(random_share=1.0)
                if goal == "random"
                else SteeringSettings(goal=Goal(goal))
            )
            if goal == "learn" and seed % 2:
                continue
            later = []
            with database.transaction() as tx:
                for turn in range(3):
                    shuffled = np.random.default_rng([seed, turn]).permutation(len(pool))
                    own_pool = [pool[index] for index in shuffled]
                    round_id, chosen = open_steered(tx, own_pool, 96, 10 * seed + turn, settings)
                    verdicts = decide_all(tx, round_id, acceptance, seed)
                    later += list(verdicts.values()) if turn else []
                    if goal == "accepts" and turn:
                        report = round_report.round_report(tx, round_id)
                        [outcome] = [
                            row
                            for row in report["steering"]["outcomes"]
                            if row["source"] == "random"
                        ]
                        errors.append(outcome["acceptance"]["value"] - truth)
                        found = Counter(arm for one in chosen.prompts for arm in arms_of(one))
                        coverage += [
                            found[arm] / 96 / (count / len(pool))
                            for arm, count in natural.items()
                            if count >= 50
                        ]
                # Seeds do not learn from each other.
                tx.execute(sa.update(rounds).values(kind="pair"))
            accepted[goal].append(float(np.mean(later)))
    gain = np.array(accepted["accepts"]) - np.array(accepted["random"])
    low = stats.ttest_1samp(gain, 0).confidence_interval(0.95).low
    assert low > 0.05, (gain.mean(), low)
    assert np.mean(accepted["learn"]) < np.mean(accepted["accepts"])
    # The mean error of the random share: its 99 % interval contains zero.
    interval = stats.ttest_1samp(errors, 0).confidence_interval(0.99)
    assert interval.low < 0 < interval.high, interval
    # Counts are rounded down from half of the natural share, which is 4.8 at least.
    assert min(coverage) > 0.4
    print({goal: round(float(np.mean(found)), 3) for goal, found in accepted.items()}, interval)
