"""Commands of selection: policies, the acceptance model, top-N acceptance, and reverting automatic verdicts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa

from curation.db.engine import Database
from curation.db.tables import acceptance_models, embeddings, rounds
from curation.domain import CandidateState
from curation.errors import NotFound, Refused
from curation.screening.embedding import BUILTIN_EMBEDDER
from curation.settings import Settings
from tests.curation.cli.test_cli import call, here
from tests.support.candidate_streams import arrive, fitted_model, judge_waiting, open_stream
from tests.support.factories import make_checkpoint

__all__ = ["here"]  # the fixture


def test_a_mixed_round_is_opened_with_all_its_policy_fields(
    here: Settings, database: Database, tmp_path: Path
) -> None:
    with database.transaction() as tx:
        make_checkpoint(tx)
    (tmp_path / "prompts.txt").write_text("a red star\na blue disc\n")
    opening = (
        "round",
        "open",
        "--quota",
        "10",
        "--prompts",
        str(tmp_path / "prompts.txt"),
        "--policy",
        "mixed",
    )
    round_id = int(
        call(*opening, "--share", "0.2", "--set", "wanted=100", "--set", "reject_budget=0.02")
    )
    with database.transaction() as tx:
        policy = tx.scalar(sa.select(rounds.c.policy).where(rounds.c.id == round_id))
    assert (policy["kind"], policy["share"], policy["wanted"], policy["reject_budget"]) == (
        "mixed",
        0.2,
        100,
        0.02,
    )
    assert (policy["likely"], policy["uncertain"], policy["random"]) == (0.7, 0.15, 0.15)
    for wrong in (
        ("--set", "likely=2"),
        ("--set", "beauty=1"),
        ("--set", "wanted"),
        ("--policy", "paper"),
    ):
        with pytest.raises(Refused):
            call(*opening, *wrong)


def test_an_acceptance_model_is_fitted_and_shown(here: Settings, database: Database) -> None:
    with pytest.raises(Refused, match="too few"):
        call("acceptance-model", "fit")
    with database.transaction() as tx:
        fitted_model(tx)
        vectors = np.random.default_rng(0).standard_normal((400, 96)).astype("<f2")
        ids = tx.execute(sa.select(embeddings.c.candidate_id)).scalars().all()
        for candidate_id, vector in zip(ids, vectors, strict=True):
            row = {"source": BUILTIN_EMBEDDER.source, "vector": vector.tobytes()}
            tx.execute(
                sa.update(embeddings).where(embeddings.c.candidate_id == candidate_id).values(row)
            )
        tx.execute(sa.delete(acceptance_models))
    assert call("acceptance-model", "fit", "--dry-run") == ""
    output = json.loads(call("acceptance-model", "fit", "--json"))
    assert output["decisions"] == 400
    assert output["by_prompt"]["auc"] > 0.8
    text = call("acceptance-model", "show", output["acceptance_model"][:10])
    assert text.startswith(
        f"acceptance model {output['acceptance_model'][:12]}, trained on 400 decisions of people"
    )
    assert "held-out prompts: AUC 0." in text
    with pytest.raises(NotFound):
        call("acceptance-model", "show", "--pairs")


def test_accept_top_takes_two_steps_and_can_be_reverted(here: Settings, database: Database) -> None:
    with database.transaction() as tx:
        fitted_model(tx)
        round_id = open_stream(tx, {"kind": "random", "share": 0.01}, 500)
        quality = np.random.default_rng(1).standard_normal(500)
        good = dict(zip(arrive(tx, round_id, 1, quality), (quality > 0.3).tolist(), strict=True))
    with pytest.raises(Refused, match="no top-N acceptance yet"):
        call("round", "accept-top", str(round_id))
    terms = ("--keep", "80", "--audit", "50", "--least", "0.8")
    assert "would keep 80 of 500" in call("round", "accept-top", str(round_id), *terms, "--dry-run")
    assert json.loads(call("round", "accept-top", str(round_id), *terms, "--json"))["waiting"] == 50
    assert "0 of 50 judged" in call("round", "accept-top", str(round_id))
    with database.transaction() as tx:
        judge_waiting(tx, round_id, good)
    assert "proven: the auto-reviewer accepted the other 30" in call(
        "round", "accept-top", str(round_id)
    )
    assert json.loads(call("round", "show", str(round_id), "--json"))["auto_reviewer"] == {
        "decisions": 30,
        "accepted": 30,
    }
    call("round", "revert-auto", str(round_id), "--dry-run")
    call("round", "revert-auto", str(round_id))
    shown = json.loads(call("round", "show", str(round_id), "--json"))
    assert shown["auto_reviewer"]["decisions"] == 0
    assert shown["round"]["counts"][CandidateState.unshown] == 30
