"""Commands of loops: start with an estimate, list, show, pause, change, resume, cancel; and the reviewer of a round."""

from __future__ import annotations

import json

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from curation.cli.main import app
from curation.db.tables import rounds
from curation.domain import Job
from curation.errors import Conflict, LayerloopError, NotFound, Refused
from curation.runtime.bootstrap import import_initial_seeds
from curation.runtime.context import open_context
from curation.settings import Settings
from tests.support.factories import make_round

START = ("loop", "start", "--rounds", "3", "--quota", "20", "--preset", "micro")


@pytest.fixture
def run(settings: Settings, database, monkeypatch):
    """Return the output of a command on this test's database, or the error it ends with."""
    for name, value in settings.environment().items():
        if name.startswith("LAYERLOOP_"):
            monkeypatch.setenv(name, value)

    def run_(*words: str) -> str:
        done = CliRunner().invoke(app, list(words))
        if isinstance(done.exception, LayerloopError):
            raise done.exception
        assert done.exit_code == 0, done.output
        return done.stdout

    return run_


@pytest.fixture
def seeds(settings: Settings, database) -> None:
    """Import a few seeds, whose captions are prompts."""
    with open_context(settings) as context:
        import_initial_seeds(context, None, 20, lambda _: None)


def test_commands_start_change_and_end_a_loop(run, seeds):
    estimate = json.loads(run(*START, "--dry-run", "--json"))
    assert estimate["loop"] is None
    assert estimate["estimate"]["training_seconds"]["value"] is None
    assert "has finished here" in estimate["estimate"]["training_seconds"]["basis"]
    assert json.loads(run("loop", "list", "--json")) == []

    limits = ("--gpu-seconds", "3600", "--human-hours", "2", "--accepted", "50")
    assert "loop 1 is started: 3 rounds of 20" in run(*START, *limits, "--gate", "psnr>=20")
    [row] = json.loads(run("loop", "list", "--json"))
    assert (row["id"], row["state"], row["step"]) == (1, "running", "freeze")
    assert "1 of 3" in run("loop", "list")

    assert json.loads(run("loop", "pause", "1", "--json")) == {"loop": 1, "state": "paused"}
    changed = json.loads(run("loop", "change", "1", "--rounds", "5", "--accepted", "9", "--json"))
    assert (changed["plan"]["rounds"], changed["plan"]["budget"]["accepted"]) == (5, 9)
    assert changed["plan"]["budget"]["gpu_seconds"] == 3600
    less = json.loads(
        run("loop", "change", "1", "--without", "gate", "--without", "gpu-seconds", "--json")
    )
    assert (less["plan"]["gate"], less["plan"]["budget"]["gpu_seconds"]) == ([], None)
    assert less["plan"]["budget"]["accepted"] == 9
    text = run("loop", "show", "1")
    assert "loop 1 is paused: paused by command line" in text
    assert "accepted: 0.0 of 9" in text
    run("loop", "resume", "1")
    assert "loop 1 is running" in run("loop", "show", "1")
    run("loop", "cancel", "1")
    assert json.loads(run("loop", "show", "1", "--json"))["state"] == "cancelled"


def test_impossible_requests_are_refused(run, seeds):
    with pytest.raises(Refused, match="is not a condition of a gate"):
        run(*START, "--gate", "good")
    with pytest.raises(NotFound, match="there is no loop 7"):
        run("loop", "show", "7")
    run(*START)
    with pytest.raises(Refused, match="nothing would change"):
        run("loop", "change", "1")
    with pytest.raises(Refused, match="accepted is both set and removed"):
        run("loop", "change", "1", "--accepted", "9", "--without", "accepted")
    with pytest.raises(Refused, match="priority is 101"):
        run("loop", "change", "1", "--priority", "101")
    with pytest.raises(Conflict, match="is running and cannot be resumed"):
        run("loop", "resume", "1")


def test_the_rule_reviewer_can_be_set_for_any_round(run, database):
    sent: list[Job] = []
    database.send = sent.append
    with database.transaction() as tx:
        round_id = make_round(tx)
    requested = json.loads(run("round", "review", str(round_id), "--by", "rules", "--json"))
    assert requested == {"round": round_id, "reviewer": "rules"}
    by_rules = sa.select(rounds.c.rule_reviewer).where(rounds.c.id == round_id)
    with database.transaction() as tx:
        assert tx.scalar(by_rules)
    run("round", "review", str(round_id), "--by", "person")
    with database.transaction() as tx:
        assert not tx.scalar(by_rules)
    run("round", "close", str(round_id))
    with pytest.raises(Conflict, match="is closed"):
        run("round", "review", str(round_id), "--by", "rules")
