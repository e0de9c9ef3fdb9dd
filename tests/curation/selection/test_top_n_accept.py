"""Top-N acceptance: the best are fixed, an audit proves them or not, and only proven ones become samples."""

from __future__ import annotations

import numpy as np
import pytest
import sqlalchemy as sa

from curation.datasets import snapshots
from curation.datasets.freeze_query import ALL_SAMPLES
from curation.db.engine import Database, Transaction
from curation.db.tables import candidates, prompts, scores, top_n_members
from curation.domain import content_id
from curation.errors import Conflict, NotFound, Refused
from curation.object_store import FolderStore
from curation.reporting import round_report
from curation.selection.auto_reviewer import revert_auto_verdicts
from curation.selection.top_n_accept import TopNSettings, begin_top_n, finish_top_n, plan_top_n
from curation.selection.top_n_report import describe_top_n, format_top_n
from tests.support.candidate_streams import arrive, fitted_model, judge_waiting, open_stream
from tests.support.factories import states

TERMS = TopNSettings(keep=400, audit=120, least=0.9, per_prompt=20, per_cluster=20)


def drawn(tx: Transaction, seed: int = 1, count: int = 2_000) -> tuple[int, dict]:
    """Return a generated round of which nothing was shown; reviewers accept candidates with high scores."""
    round_id = open_stream(tx, {"kind": "random", "share": 0.01}, count)
    quality = np.random.default_rng(seed).standard_normal(count)
    ids = arrive(tx, round_id, seed, quality)
    return round_id, dict(zip(ids, (quality > 0.5).tolist(), strict=True))


def test_top_n_are_accepted_automatically_if_the_audit_proves_them(
    database: Database, store: FolderStore
) -> None:
    with database.transaction() as tx:
        fitted_model(tx)
        round_id, good = drawn(tx)
        plan = plan_top_n(tx, round_id, TERMS)
        assert (plan["pool"], plan["kept"], plan["prompts"]) == (2_000, 400, 20)
        assert plan["expected"] > 2 * plan["expected_of_all"]
        assert states_of(tx, round_id) == {"screened": 2_000}
        output = begin_top_n(tx, round_id, TERMS, "test")
        assert (output["kept"], output["audit"], output["waiting"], output["outcome"]) == (
            400,
            120,
            120,
            None,
        )
        assert states_of(tx, round_id) == {"screened": 1_880, "waiting": 120}
        probabilities = tx.execute(
            sa.select(scores.c.probability, top_n_members.c.audited)
            .join(top_n_members, top_n_members.c.candidate_id == scores.c.candidate_id)
            .order_by(scores.c.probability)
        ).all()
        others = sa.select(sa.func.max(scores.c.probability)).where(
            scores.c.candidate_id.not_in(sa.select(top_n_members.c.candidate_id))
        )
        assert probabilities[0].probability >= tx.scalar(
            others.join(candidates).where(candidates.c.round_id == round_id)
        )
        half = [row.audited for row in probabilities[:200]]
        assert 40 <= sum(half) <= 80  # the audit is of the worse half as of the better
        judge_waiting(tx, round_id, good, most=60)
        assert finish_top_n(tx, round_id, "test")["outcome"] is None
        judge_waiting(tx, round_id, good)
        assert finish_top_n(tx, round_id, "test", dry_run=True)["outcome"] is None
        output = finish_top_n(tx, round_id, "test")
        assert output["outcome"] == "accepted"
        assert output["bound"] >= 0.9
        assert output["auto_accepted"] == 280
        assert finish_top_n(tx, round_id, "test") == output
        assert "the auto-reviewer accepted the other 280" in format_top_n(output)
        assert round_report.round_report(tx, round_id)["auto_reviewer"] == {
            "decisions": 280,
            "accepted": 280,
        }
        frozen = snapshots.count_chosen(tx, ALL_SAMPLES, snapshots.DEFAULT_POLICY)
        # The simulated people make no samples: those are the machine's alone.
        assert frozen == 280
        assert revert_auto_verdicts(tx, round_id, "test") == 280
    assert states(database, round_id)["unshown"] == 280


def test_an_unproven_top_n_is_not_accepted_and_another_try_spends_confidence(
    database: Database,
) -> None:
    with database.transaction() as tx:
        fitted_model(tx)
        round_id, good = drawn(tx)
        begin_top_n(tx, round_id, TERMS, "test")
        with pytest.raises(Conflict, match="in progress"):
            begin_top_n(tx, round_id, TERMS, "test")
        judge_waiting(tx, round_id, dict.fromkeys(good, False))
        output = finish_top_n(tx, round_id, "test")
        assert (output["outcome"], output["auto_accepted"], output["bound"]) == ("refused", 0, 0.0)
        assert round_report.round_report(tx, round_id)["auto_reviewer"]["decisions"] == 0
        assert plan_top_n(tx, round_id, TERMS)["level"] < output["level"]


def test_the_lower_bound_is_right_in_95_of_100_runs(database: Database) -> None:
    """The kept candidates miss the terms by little, so acceptance more often than promised would show here."""
    passed = 0
    rng = np.random.default_rng(7)
    with database.transaction() as tx:
        fitted_model(tx)
        for seed in range(20):
            round_id, good = drawn(tx, seed + 100, 150)
            fixed = TopNSettings(keep=100, audit=60, least=0.85, per_prompt=20, per_cluster=20)
            begin_top_n(tx, round_id, fixed, "test")
            members = tx.execute(
                sa.select(top_n_members.c.candidate_id)
                .join(candidates)
                .where(candidates.c.round_id == round_id)
            )
            verdicts = good | {row.candidate_id: bool(rng.random() < 0.84) for row in members}
            judge_waiting(tx, round_id, verdicts)
            passed += finish_top_n(tx, round_id, "test")["outcome"] == "accepted"
    assert passed <= 3  # at most a half is to be expected


def test_caps_keep_a_run_varied(database: Database) -> None:
    """One prompt of twenty has nearly all the best."""
    counted = {}
    with database.transaction() as tx:
        fitted_model(tx)
        round_id = open_stream(tx, {"kind": "random", "share": 0.01}, 1_000)
        quality = np.where(np.arange(1_000) % 20 == 0, 3.0, 0.0)
        ids = arrive(tx, round_id, 5, quality)
        best = tx.scalar(sa.select(candidates.c.prompt_id).where(candidates.c.id == ids[0]))
        for times in (20, 2):
            terms = TopNSettings(keep=100, audit=60, least=0.85, per_prompt=times, per_cluster=20)
            begin_top_n(tx, round_id, terms, "test")
            own = sa.select(sa.func.count()).select_from(
                top_n_members.join(candidates).join(prompts)
            )
            top_n_run = describe_top_n(tx, round_id)["top_n_run"]
            counted[times] = tx.scalar(
                own.where(prompts.c.id == best, top_n_members.c.top_n_run_id == top_n_run)
            )
            judge_waiting(tx, round_id, dict.fromkeys(ids, False))
            finish_top_n(tx, round_id, "test")
    assert counted[20] == 50
    assert counted[2] <= 10


def test_invalid_terms_are_refused_before_anything_is_done(database: Database) -> None:
    with database.transaction() as tx:
        round_id, _ = drawn(tx, count=50)
        with pytest.raises(NotFound, match="no acceptance model"):
            plan_top_n(tx, round_id, TERMS)
        fitted_model(tx)
        with pytest.raises(Refused, match="cannot prove"):
            begin_top_n(tx, round_id, TopNSettings(keep=400, audit=20, least=0.95), "test")
        with pytest.raises(Refused, match="cannot keep"):
            begin_top_n(tx, round_id, TopNSettings(keep=10, audit=20), "test")
        with pytest.raises(Conflict, match="fewer than"):
            begin_top_n(tx, round_id, TERMS, "test")
        with pytest.raises(NotFound, match="no top-N acceptance"):
            finish_top_n(tx, round_id, "test")
        prompt = tx.scalar(sa.select(candidates.c.prompt_id).limit(1))
        row = {"round_id": round_id, "prompt_id": prompt, "seed": -1, "state": "requested"}
        tx.execute(sa.insert(candidates), row | {"id": content_id("one more")})
        with pytest.raises(Conflict, match="not generated and screened"):
            begin_top_n(tx, round_id, TERMS, "test")
        assert tx.scalar(sa.select(sa.func.count()).select_from(top_n_members)) == 0


def states_of(tx: Transaction, round_id: int) -> dict[str, int]:
    counted = sa.select(candidates.c.state, sa.func.count().label("n")).where(
        candidates.c.round_id == round_id
    )
    return {row.state: row.n for row in tx.execute(counted.group_by(candidates.c.state))}
