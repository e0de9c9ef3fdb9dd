"""Selection: exact propensities, deterministic, complete, and with the slices of its policy."""

from __future__ import annotations

import numpy as np
import pytest
import sqlalchemy as sa

from curation.db.engine import Database
from curation.db.tables import candidates, rounds, scores, screenings
from curation.domain import CandidateState
from curation.object_store import FolderStore
from curation.reporting import round_report
from curation.selection.select import QUEUE_TARGET, select_candidates
from tests.support.candidate_streams import (
    SOURCE,
    accepts,
    arrive,
    fitted_model,
    judge_waiting,
    open_stream,
)
from tests.support.factories import make_candidates, make_round, states

MIXED = {
    "kind": "mixed",
    "share": 0.5,
    "likely": 0.4,
    "uncertain": 0.2,
    "random": 0.4,
    "per_prompt": 9,
    "per_cluster": 9,
}
MANY = 10**6  # a quota at which the random slice is as small as the policy says


def test_a_share_of_one_shows_all(database: Database, store: FolderStore) -> None:
    with database.transaction() as tx:
        round_id = make_round(tx)
        make_candidates(tx, store, round_id, 20, CandidateState.screened)
    with database.transaction() as tx:
        assert select_candidates(tx, round_id) == (20, 0)
        assert select_candidates(tx, round_id) == (0, 0)
    assert states(database, round_id) == {"waiting": 20}


def test_a_share_of_a_half_shows_about_half_with_that_propensity(
    database: Database, store: FolderStore
) -> None:
    with database.transaction() as tx:
        round_id = make_round(tx)
        tx.execute(sa.update(rounds).values(policy={"kind": "random", "share": 0.5}))
        make_candidates(tx, store, round_id, 300, CandidateState.screened)
    with database.transaction() as tx:
        shown, unshown = select_candidates(tx, round_id)
    assert shown + unshown == 300
    assert 110 < shown < 190  # 4.6 standard deviations; the coin is the id, so this never varies
    with database.transaction() as tx:
        kept = tx.execute(
            sa.select(candidates.c.propensity, candidates.c.state, candidates.c.priority)
        ).all()
    assert {row.propensity for row in kept if row.state == "waiting"} == {0.5}
    assert {row.propensity for row in kept if row.state == "unshown"} == {None}
    assert all(row.priority < 0.5 for row in kept)


def test_a_mixed_policy_shows_likely_uncertain_and_random_candidates(database: Database) -> None:
    """A selection has slices of the policy's shares, and likely candidates are far better than the rest."""
    with database.transaction() as tx:
        fitted_model(tx)
        round_id = open_stream(tx, MIXED, MANY)
        quality = np.random.default_rng(1).standard_normal(400)
        arrive(tx, round_id, 1, quality)
        shown, left = select_candidates(tx, round_id, SOURCE)
        assert left == 0  # those without a place wait for the next choice
        rows = tx.execute(
            sa.select(
                candidates.c.slice,
                candidates.c.state,
                candidates.c.propensity,
                scores.c.probability,
                screenings.c.signals,
            )
            .join(scores, scores.c.candidate_id == candidates.c.id)
            .join(screenings, screenings.c.candidate_id == candidates.c.id)
            .where(candidates.c.round_id == round_id)
        ).all()
    by = {
        name: [row for row in rows if row.slice == name]
        for name in ("random", "likely", "uncertain", None)
    }
    assert len(by["random"]) + len(by["likely"]) + len(by["uncertain"]) == shown
    assert 55 <= len(by["random"]) <= 105  # 80 expected, standard deviation 8
    # 150 places of 400: 100 by probability, 50 by doubt; a fifth of the winners is in the random slice anyway.
    assert 65 <= len(by["likely"]) <= 95
    assert 28 <= len(by["uncertain"]) <= 50
    assert {round(row.propensity, 6) for row in by["random"]} == {0.2, 1.0}
    assert {row.propensity for row in by["likely"] + by["uncertain"]} == {1.0}
    mean = {name: np.mean([row.probability for row in some]) for name, some in by.items()}
    assert mean["likely"] > 2 * mean["random"] > 2 * mean[None] > 0
    assert (
        min(row.probability for row in by["likely"])
        >= max(row.probability for row in by[None]) - 1e-6
    )


def test_inverse_propensity_weights_are_unbiased(database: Database) -> None:
    """Horvitz-Thompson sums over shown candidates estimate all and all good ones, in two arrivals with verdicts between."""
    sums, goods, truth = [], [], []
    with database.transaction() as tx:
        fitted_model(tx)
        for seed in range(20):
            round_id = open_stream(tx, MIXED, MANY)
            good = {}
            for part in range(2):
                quality = np.random.default_rng([seed, part]).standard_normal(200)
                accepted = accepts(1_000 + 2 * seed + part, quality)
                good |= dict(
                    zip(
                        arrive(tx, round_id, 2 * seed + part + 10, quality),
                        accepted.tolist(),
                        strict=True,
                    )
                )
                select_candidates(tx, round_id, SOURCE)
                judge_waiting(tx, round_id, good)
            shown = tx.execute(
                sa.select(candidates.c.id, candidates.c.propensity).where(
                    candidates.c.round_id == round_id, candidates.c.slice.is_not(None)
                )
            ).all()
            sums.append(sum(1 / row.propensity for row in shown))
            goods.append(sum(good[row.id] / row.propensity for row in shown))
            truth.append(sum(good.values()))
    for found, expected in ((np.array(sums), 400), (np.array(goods), np.array(truth))):
        error = found - expected
        assert abs(error.mean()) < 3 * error.std(ddof=1) / np.sqrt(len(error))
    assert np.std(sums) < 45  # a plain sample as large as the random slice would have 40


def test_without_a_model_the_random_slice_is_shown_and_then_the_rest_of_the_share(
    database: Database,
) -> None:
    with database.transaction() as tx:
        round_id = open_stream(tx, MIXED, MANY)
        quality = np.zeros(200)
        good = dict.fromkeys(arrive(tx, round_id, 1, quality), False)
        shown, left = select_candidates(tx, round_id, SOURCE)
        assert (25 < shown < 60, left) == (True, 0)
        judge_waiting(tx, round_id, good)  # all rejected: no model can be fitted to them
        more, left = select_candidates(tx, round_id, SOURCE)
        assert 70 < shown + more < 130
        assert left == 200 - shown - more
    assert states(database, round_id)["unshown"] == left


def test_only_as_many_are_shown_as_reviewers_soon_need_and_the_newest_model_selects(
    database: Database,
) -> None:
    with database.transaction() as tx:
        first = fitted_model(tx)
        round_id = open_stream(tx, MIXED | {"random": 0.1, "likely": 0.7, "uncertain": 0.2}, MANY)
        quality = np.random.default_rng(5).standard_normal(1_500)
        ids = arrive(tx, round_id, 5, quality)
        good = dict(zip(ids, accepts(5, quality).tolist(), strict=True))
        shown, left = select_candidates(tx, round_id, SOURCE)
        assert left == 0
        assert QUEUE_TARGET <= shown <= QUEUE_TARGET + 110  # and the random slice: 75 of 1,500
        assert select_candidates(tx, round_id, SOURCE) == (0, 0)
        judge_waiting(tx, round_id, good)
        second = fitted_model(tx, 500, seed=998)
        assert second.id != first.id
        select_candidates(tx, round_id, SOURCE)
        used = sa.select(scores.c.acceptance_model_id).join(
            candidates, candidates.c.id == scores.c.candidate_id
        )
        used = used.where(candidates.c.round_id == round_id, candidates.c.state == "screened")
        assert set(tx.execute(used).scalars()) == {second.id}


def test_no_prompt_gets_more_than_its_cap(database: Database) -> None:
    """One prompt of twenty is much the best; uncapped it takes nearly all places, capped twice its fair share."""
    taken = {}
    for times in (20, 2):
        with database.transaction() as tx:
            if times == 20:
                fitted_model(tx)
            round_id = open_stream(
                tx, MIXED | {"per_prompt": times, "per_cluster": 20, "share": 0.25}, MANY
            )
            quality = np.where(np.arange(800) % 20 == 0, 3.0, 0.0) + np.random.default_rng(
                6
            ).normal(0, 0.3, 800)
            arrive(tx, round_id, 60 + times, quality)
            select_candidates(tx, round_id, SOURCE)
            best = sa.select(sa.func.count()).where(
                candidates.c.round_id == round_id,
                candidates.c.slice == "likely",
                candidates.c.prompt_id
                == sa.select(candidates.c.prompt_id)
                .where(candidates.c.round_id == round_id, candidates.c.seed == (60 + times) * 10**6)
                .scalar_subquery(),
            )
            taken[times] = tx.scalar(best)
    fair = 0.25 * 0.6 / 0.9 * 40  # places for each prompt
    assert taken[2] <= np.ceil(2 * fair)
    assert taken[20] > 1.5 * taken[2]


def test_defects_per_100_of_a_mixed_round_are_those_of_its_random_slice(database: Database) -> None:
    with database.transaction() as tx:
        fitted_model(tx)
        round_id = open_stream(tx, MIXED, MANY)
        quality = np.random.default_rng(8).standard_normal(900)
        ids = arrive(tx, round_id, 8, quality)
        good = dict(zip(ids, accepts(8, quality).tolist(), strict=True))
        while select_candidates(tx, round_id, SOURCE)[0]:
            judge_waiting(tx, round_id, good)
        report = round_report.round_report(tx, round_id)
    found = report["defects_per_100"]["person"]
    assert found["n"] < report["human"]["decisions"] / 2
    assert found["low"] <= 100 * (1 - np.mean(list(good.values()))) <= found["high"]
    accepted = report["funnel"]["accepted"] / report["funnel"]["decided"]
    assert accepted > 1.3 * np.mean(list(good.values()))


def test_the_papers_selector_shows_high_aesthetic_scores_and_some_at_random(
    database: Database,
) -> None:
    with database.transaction() as tx:
        round_id = open_stream(tx, {"kind": "paper", "aesthetic": 5.5, "random": 0.2}, 300)
        ids = arrive(tx, round_id, 9, np.zeros(300))
        for index, id_ in enumerate(ids):
            signals = {"aesthetic": 5 + index / 300, "clip_score": float(index % 50)}
            tx.execute(
                sa.update(screenings)
                .where(screenings.c.candidate_id == id_)
                .values(signals=signals)
            )
        shown, left = select_candidates(tx, round_id)
        rows = tx.execute(
            sa.select(candidates, screenings.c.signals)
            .join(screenings, screenings.c.candidate_id == candidates.c.id)
            .where(candidates.c.round_id == round_id)
        ).all()
    assert shown + left == 300
    assert all(row.state == "waiting" for row in rows if row.signals["aesthetic"] > 5.5)
    plain = [row for row in rows if row.state == "waiting" and row.signals["aesthetic"] <= 5.5]
    assert 15 < len(plain) < 45
    assert {(row.slice, round(row.propensity, 6)) for row in plain} == {("random", 0.2)}
    chosen = sorted((row for row in rows if row.slice == "paper"), key=lambda row: -row.priority)
    assert [row.signals["clip_score"] for row in chosen] == sorted(
        (row.signals["clip_score"] for row in chosen), reverse=True
    )
    assert chosen[0].priority == pytest.approx(0.49)
