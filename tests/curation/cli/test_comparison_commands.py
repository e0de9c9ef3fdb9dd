"""Commands of comparisons, and promotion only of a checkpoint that is better."""

from __future__ import annotations

import json
import uuid
from pathlib import Path

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from curation import jobs
from curation.checkpoints.registry import find_promoted_checkpoint, register_checkpoint
from curation.cli.main import app
from curation.comparison_values import ComparisonChoice, ComparisonSide
from curation.comparisons import votes
from curation.comparisons.promotion import NotBetterError
from curation.db.tables import comparisons, events
from curation.domain import Checkpoint
from curation.errors import Conflict, LayerloopError, NotFound, Refused
from curation.jobs.model_cache import evict
from curation.review.reviewers import add_reviewer
from curation.runtime.bootstrap import import_initial_seeds
from curation.runtime.context import open_context
from curation.settings import Settings
from tests.support.compared_checkpoints import CLEAN, HAZY, PROMPTS


@pytest.fixture
def named(settings: Settings, database, monkeypatch) -> Settings:
    """Return settings with the generator of this test, which commands use too."""
    support = "tests.support.compared_checkpoints"
    named = {"generator": f"{support}:load", "comparer": f"{support}:compare"}
    changed = settings.model_copy(update=named)
    for name, value in changed.environment().items():
        if name.startswith("LAYERLOOP_"):
            monkeypatch.setenv(name, value)
    evict()
    yield changed
    evict()


@pytest.fixture
def run(named):
    """Return the output of a command on this test's database, or the error it ends with."""

    def run_(*words: str) -> str:
        done = CliRunner().invoke(app, list(words))
        if isinstance(done.exception, LayerloopError):
            raise done.exception
        assert done.exit_code == 0, done.output
        return done.stdout

    return run_


@pytest.fixture
def checkpoints(run, named, database) -> tuple[str, str]:
    """Return the clean checkpoint, and the hazy one, which is promoted."""
    with open_context(named) as context:
        import_initial_seeds(context, None, 60, lambda _: None)
    snapshot = json.loads(run("snapshot", "freeze", "--json"))["snapshot"]
    with database.transaction() as tx:
        clean, hazy = (
            register_checkpoint(
                tx, Checkpoint({}, "whole", "tiny", snapshot, None, seed, "test", {}), "test"
            )
            for seed in (CLEAN, HAZY)
        )
    run("checkpoint", "promote", hazy)
    return clean, hazy


@pytest.fixture
def prompts(tmp_path) -> Path:
    file = tmp_path / "prompts.txt"
    file.write_text("".join(f"{prompt.text}\n" for prompt in PROMPTS))
    return file


def prefer(database, number: int, side: ComparisonSide) -> None:
    """Vote for one side in every item."""
    with database.transaction() as tx:
        ann = add_reviewer(tx, uuid.uuid4().hex[:8]).id
        key = tx.scalar(sa.select(comparisons.c.side_key).where(comparisons.c.id == number))
        for item in votes.claim_next(tx, ann, number, 100, (), 60):
            left = votes.left_side(key, item.id, ann) is side
            choice = ComparisonChoice.left if left else ComparisonChoice.right
            votes.vote(tx, ann, item.id, choice, key=uuid.uuid4(), dwell_ms=900)


def promoted(database) -> str:
    with database.transaction() as tx:
        return find_promoted_checkpoint(tx).id


def test_a_comparison_from_its_opening_to_a_promotion(run, named, checkpoints, prompts, database):
    clean, hazy = checkpoints
    words = ("comparison", "open", hazy[:12], clean[:12], "--count", "12")
    opened = json.loads(run(*words, "--prompts", str(prompts), "--json"))
    assert opened["comparison"] == 1
    assert opened["page"].endswith("/comparison?number=1")
    [row] = json.loads(run("comparison", "list", "--json"))
    assert (row["items"], row["state"]) == (12, "open")
    assert "side_key" not in row
    assert hazy[:12] in run("comparison", "list")
    assert "no item is decided" in run("comparison", "show", "1")

    with open_context(named) as context:
        jobs.draw_comparisons(context, 1)
    prefer(database, 1, ComparisonSide.b)
    shown = run("comparison", "show", "1")
    assert "B wins 100% of 12 decided items" in shown
    assert "B is better" in shown
    found = json.loads(run("comparison", "show", "1", "--json"))
    assert found["result"]["b"] == 12
    assert found["result"]["p_two_sided"] == pytest.approx(2 / 2**12)

    promote = ("checkpoint", "promote", clean, "--if-better")
    with pytest.raises(Refused, match="one judge"):
        run(*promote)
    with pytest.raises(Conflict, match="still open"):
        run(*promote, "--comparison", "1")
    assert json.loads(run("comparison", "close", "1", "--json"))["undecided"] == 0
    with pytest.raises(NotBetterError, match="wins 12 and loses 0"):
        run(*promote, "--comparison", "1", "--error", "0.0001")
    assert promoted(database) == hazy
    assert "is promoted" in run(*promote, "--comparison", "1")
    assert promoted(database) == clean
    with database.transaction() as tx:
        kinds = set(tx.execute(sa.select(events.c.kind)).scalars())
    assert {"comparison opened", "comparison closed", "checkpoint found better"} <= kinds


def test_the_rule_reviewer_promotes_only_what_is_better(run, checkpoints, prompts, database):
    clean, hazy = checkpoints
    by_rules = ("--if-better", "--by", "rules", "--count", "24", "--prompts", str(prompts))
    found = json.loads(run("checkpoint", "promote", clean, *by_rules, "--json"))
    assert found["checkpoint"] == promoted(database) == clean
    assert found["test"]["wins"] > 10
    assert found["test"]["losses"] == 0
    with pytest.raises(NotBetterError, match="by the rule reviewer it wins 0"):
        run("checkpoint", "promote", hazy, *by_rules)
    with pytest.raises(Conflict, match="promoted already"):
        run("checkpoint", "promote", clean, *by_rules)
    assert promoted(database) == clean


def test_matting_is_a_side_and_what_cannot_be_is_refused(run, named, checkpoints, prompts):
    clean, hazy = checkpoints
    file = ("--prompts", str(prompts))
    with pytest.raises(Refused, match="the same checkpoint"):
        run("comparison", "open", clean, clean, *file)
    with pytest.raises(NotFound, match="no checkpoint"):
        run("comparison", "open", clean, "matting:00000000", *file)
    with pytest.raises(NotFound, match="no comparison 7"):
        run("comparison", "show", "7")
    with pytest.raises(Refused, match="needs pair prompts"):
        run("comparison", "open", clean, hazy, "--kind", "pair", *file)
    with pytest.raises(Refused, match="belong to --if-better"):
        run("checkpoint", "promote", clean, "--comparison", "1")
    run("comparison", "open", clean, f"matting:{clean}", "--count", "2", *file)
    with open_context(named) as context:
        jobs.draw_comparisons(context, 1)
    assert "matting:" in run("comparison", "show", "1")
    assert json.loads(run("comparison", "show", "1", "--json"))["result"]["drawings"] == {
        "generated": 4
    }
