"""Gates: the auto-reviewer rejects only beyond proven thresholds; people audit it, and can revert its verdicts."""

from __future__ import annotations

import uuid

import numpy as np
import pytest
import sqlalchemy as sa

from curation.datasets import snapshots
from curation.datasets.freeze_query import ALL_SAMPLES
from curation.db.engine import Database
from curation.db.tables import candidates, decisions, events, samples, scores
from curation.domain import Job, Kind, Verdict
from curation.errors import Refused
from curation.object_store import FolderStore
from curation.reporting import round_report
from curation.review.decisions import decide
from curation.review.reviewers import add_reviewer
from curation.rounds import lifecycle
from curation.selection import audits
from curation.selection.acceptance_model_store import fit_and_store, score_round
from curation.selection.auto_reviewer import decide_all, revert_auto_verdicts
from curation.selection.gate_report import gates_report
from curation.selection.gates import close_gates, list_gates
from curation.selection.select import select_candidates
from tests.support.candidate_streams import (
    SOURCE,
    arrive,
    fitted_model,
    judge_waiting,
    open_stream,
)
from tests.support.factories import OpenTransaction, make_candidates, make_round

GATED = {
    "kind": "mixed", "share": 0.9, "likely": 0.2, "uncertain": 0.1, "random": 0.7, "per_prompt": 9, "per_cluster": 9,
    "reject_budget": 0.02, "audit": 0.2,
}  # fmt: skip


def separable(seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return qualities, and verdicts that depend on them only, so that a model can learn them."""
    quality = np.random.default_rng([seed, 1]).standard_normal(count)
    return quality, quality > 0.2


@pytest.fixture
def gated_round(database: Database) -> tuple[int, dict]:
    """Return a round whose random slice is decided, with 600 newer candidates, and all true verdicts."""
    with database.transaction() as tx:
        fitted_model(tx)
        round_id = open_stream(tx, GATED, 10**6)
        quality, verdicts = separable(1, 1_500)
        is_good = dict(zip(arrive(tx, round_id, 1, quality), verdicts.tolist(), strict=True))
        while select_candidates(tx, round_id, SOURCE)[0]:
            judge_waiting(tx, round_id, is_good)
            if not list_gates(tx, round_id):
                fit_and_store(OpenTransaction(tx), Kind.single, SOURCE)
        quality, verdicts = separable(2, 600)
        is_good |= dict(zip(arrive(tx, round_id, 2, quality), verdicts.tolist(), strict=True))
    return round_id, is_good


def test_the_auto_reviewer_rejects_by_a_proven_gate_and_people_audit_a_share(
    database: Database, gated_round: tuple
) -> None:
    round_id, is_good = gated_round
    with database.transaction() as tx:
        gate = next(gate for gate in list_gates(tx, round_id) if gate["threshold"] is not None)
        assert gate["metrics"]["lost"]["high"] <= 0.02
        assert (
            gate["metrics"]["n"] >= 181
        )  # the smallest sample that proves 2 % at the 2.5 % level of the first interim look
        select_candidates(tx, round_id, SOURCE)
        automatic = tx.execute(
            sa.select(decisions, scores.c.probability, candidates.c.state, candidates.c.slice)
            .join(candidates, candidates.c.id == decisions.c.candidate_id)
            .join(scores, scores.c.candidate_id == candidates.c.id)
            .where(decisions.c.channel == "auto_reviewer")
        ).all()
        assert len(automatic) > 100
        assert all(
            row.state == "rejected" and row.slice is None and row.probability < gate["threshold"]
            for row in automatic
        )
        assert all(
            f"gate {gate['id']}" in row.comment and row.dwell_ms is None for row in automatic
        )
        lost = sum(is_good[row.candidate_id] for row in automatic)
        assert lost <= 0.02 * sum(is_good.values())
        audited = sa.select(candidates).where(
            candidates.c.round_id == round_id, candidates.c.slice == "audit"
        )
        audits = tx.execute(audited).all()
        assert 0.1 < len(audits) / (len(automatic) + len(audits)) < 0.3
        r = 0.63
        assert {round(row.propensity, 5) for row in audits} == {round(r + (1 - r) * 0.2, 5)}
        report = round_report.round_report(tx, round_id)
    assert report["auto_reviewer"] == {"decisions": len(automatic), "accepted": 0}
    assert report["human"]["decisions"] + len(automatic) == report["funnel"]["decided"]
    people = report["defects_per_100"]["person"]
    assert people["low"] <= 100 * (1 - np.mean([*is_good.values()])) <= people["high"]
    assert "the auto-reviewer decided" in round_report.as_text(report)
    [last] = [row for row in report["gates"] if row["id"] == gate["id"]]
    assert last["stands"] is True
    assert (last["lost"]["high"] <= 0.02, last["wrong"]["n"] > 0) == (True, True)
    assert last["audit"]["judged"] <= len(audits)
    assert f"gate {gate['id']} rejects" in round_report.as_text(report)


def test_a_gate_contradicted_by_its_audit_is_closed_and_logged(
    database: Database, gated_round: tuple
) -> None:
    """Later candidates are good although the model predicts the opposite; the audit detects it."""
    round_id, is_good = gated_round
    with database.transaction() as tx:
        while select_candidates(tx, round_id, SOURCE)[0]:
            judge_waiting(tx, round_id, is_good)
        [before] = [gate for gate in gates_report(tx, round_id) if gate["stands"]]
        assert before["audit"]["judged"] > 20
        assert before["audit"]["low"] <= 0.02, (
            "the audit does not contradict the gate before the change"
        )
        late = arrive(tx, round_id, 3, np.full(300, -1.5))
        is_good |= dict.fromkeys(late, True)
        select_candidates(tx, round_id, SOURCE)
        judge_waiting(tx, round_id, is_good)
        automatic = round_report.round_report(tx, round_id)["auto_reviewer"]["decisions"]
        select_candidates(tx, round_id, SOURCE)
        [gate] = [gate for gate in gates_report(tx, round_id) if gate["contradicted"]]
        assert (gate["id"], gate["stands"]) == (before["id"], False)
        assert gate["audit"]["errors"] > before["audit"]["errors"]
        assert 0.02 < gate["audit"]["low"] < 0.5
        [event] = tx.execute(sa.select(events).where(events.c.kind == "gate contradicted")).all()
        assert (event.actor, event.subject) == ("auto_reviewer", f"round {round_id}")
        assert event.data["errors"] == gate["audit"]["errors"]
        assert f"gate {gate['id']} was closed by its audit" in round_report.as_text(
            round_report.round_report(tx, round_id)
        )
        is_good |= dict.fromkeys(arrive(tx, round_id, 4, np.full(100, -1.5)), True)
        while select_candidates(tx, round_id, SOURCE)[0]:
            judge_waiting(tx, round_id, is_good)
        assert round_report.round_report(tx, round_id)["auto_reviewer"]["decisions"] == automatic, (
            "a closed gate decides nothing"
        )
        assert [gate for gate in gates_report(tx, round_id) if gate["stands"]] == [], (
            "the gate is not proven again"
        )


def test_a_verdict_on_an_audited_candidate_requests_a_selection(
    database: Database, store: FolderStore
) -> None:
    requested: list[Job] = []
    database.send = requested.append
    with database.transaction() as tx:
        round_id = make_round(tx)
        audit, other = make_candidates(tx, store, round_id, 2)
        tx.execute(sa.update(candidates).where(candidates.c.id == audit).values(slice="audit"))
        for gate in (audit, other):
            decide(tx, add_reviewer(tx, "ann").id, gate, Verdict.accept, key=uuid.uuid4())
    assert requested == [Job("select", (round_id,))]


def test_audits_of_gates_are_separate(database: Database, gated_round: tuple) -> None:
    """Audited candidates beyond a reject gate are no errors of an accept gate."""
    round_id, is_good = gated_round
    with database.transaction() as tx:
        while select_candidates(tx, round_id, SOURCE)[0]:
            judge_waiting(tx, round_id, is_good)
        [rejects] = [
            gate
            for gate in list_gates(tx, round_id)
            if gate["closed_at"] is None and gate["threshold"]
        ][-1:]
        assert audits.read_audit(tx, rejects).judged > 20
        accepts_ = rejects | {"verdict": "accept", "threshold": 0.99}
        assert audits.read_audit(tx, accepts_) == audits.GateAudit(0, 0, 0.0)


def test_half_of_the_random_slice_is_held_out_from_the_model(
    database: Database, gated_round: tuple
) -> None:
    round_id, _ = gated_round
    with database.transaction() as tx:
        judged = tx.scalar(
            sa.select(sa.func.count())
            .select_from(decisions.join(candidates, candidates.c.id == decisions.c.candidate_id))
            .where(candidates.c.round_id == round_id, candidates.c.slice == "random")
        )
        all_ = tx.scalar(sa.select(sa.func.count()).where(decisions.c.channel == "pages"))
        model = fit_and_store(OpenTransaction(tx), Kind.single, SOURCE)
    left_out = all_ - model.metrics["decisions"]
    assert 0.4 * judged < left_out < 0.6 * judged


def test_automatic_verdicts_can_be_reverted(database: Database, gated_round: tuple) -> None:
    round_id, _ = gated_round
    with database.transaction() as tx:
        select_candidates(tx, round_id, SOURCE)
        before = round_report.round_report(tx, round_id)["auto_reviewer"]["decisions"]
        assert close_gates(tx, round_id) > 0
        unshown = lifecycle.count_states(tx, round_id).get("unshown", 0)
        assert revert_auto_verdicts(tx, round_id, "test") == before > 0
        assert lifecycle.count_states(tx, round_id)["unshown"] == unshown + before
        assert revert_auto_verdicts(tx, round_id, "test") == 0
        assert round_report.round_report(tx, round_id)["auto_reviewer"]["decisions"] == 0
        select_candidates(tx, round_id, SOURCE)  # a gate that was closed decides nothing more
        assert round_report.round_report(tx, round_id)["auto_reviewer"]["decisions"] == 0


def test_automatic_accepts_are_samples_until_they_are_reverted(
    database: Database, store: FolderStore
) -> None:
    with database.transaction() as tx:
        round_id = open_stream(tx, GATED, 10)
        ids = arrive(tx, round_id, 1, np.zeros(10))
        assert decide_all(tx, ids, Verdict.accept, "why not") == 10
        assert decide_all(tx, ids, Verdict.accept, "why not") == 0
        assert snapshots.count_chosen(tx, ALL_SAMPLES, snapshots.DEFAULT_POLICY) == 10
        assert revert_auto_verdicts(tx, round_id, "test") == 10
        assert tx.scalar(sa.select(sa.func.count()).where(samples.c.withdrawn_at.is_(None))) == 0
        assert decide_all(tx, ids[:3], Verdict.accept, "again") == 3
        assert snapshots.count_chosen(tx, ALL_SAMPLES, snapshots.DEFAULT_POLICY) == 3
        lifecycle.close_round(tx, round_id, "test")
        with pytest.raises(Refused, match="closed"):
            revert_auto_verdicts(tx, round_id, "test")


def test_the_auto_reviewer_decides_nothing_without_a_budget(database: Database) -> None:
    with database.transaction() as tx:
        model = fitted_model(tx)
        round_id = open_stream(tx, GATED | {"reject_budget": 0}, 10**6)
        quality, verdicts = separable(3, 800)
        is_good = dict(zip(arrive(tx, round_id, 3, quality), verdicts.tolist(), strict=True))
        while select_candidates(tx, round_id, SOURCE)[0]:
            judge_waiting(tx, round_id, is_good)
        assert score_round(tx, model, round_id) == 0
        assert list_gates(tx, round_id) == []
        assert round_report.round_report(tx, round_id)["auto_reviewer"]["decisions"] == 0
