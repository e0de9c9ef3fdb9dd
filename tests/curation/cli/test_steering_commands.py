"""Options of steering: rounds and loops, their previews, and refused combinations."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
import sqlalchemy as sa

from curation.db.engine import Database
from curation.db.tables import candidates, loops, prompts, rounds
from curation.errors import Refused
from curation.runtime.bootstrap import import_initial_seeds
from curation.runtime.context import open_context
from curation.settings import Settings
from tests.curation.cli.test_cli import call, here
from tests.support.factories import make_checkpoint
from tests.support.steered_rounds import decide_all, planted_acceptance

__all__ = ["here"]  # the fixture

OPEN = ("round", "open", "--quota", "40")


@pytest.fixture
def seeds(here: Settings, database: Database) -> None:
    """Import seeds, whose captions are prompts, and promote a checkpoint."""
    with open_context(here) as context:
        import_initial_seeds(context, None, 60, lambda _: None)
    with database.transaction() as tx:
        make_checkpoint(tx)


def test_a_round_is_steered_by_the_round_before(seeds: None, database: Database) -> None:
    assert "no closed round has decisions yet" in call(*OPEN, "--steer", "--dry-run")
    first = int(call(*OPEN, "--steer"))
    with database.transaction() as tx:
        decide_all(tx, first, planted_acceptance(1), 1)

    shown = call(*OPEN, "--steer", "--seed", "2", "--dry-run")
    assert "10 at random, 30 steered for accepts" in shown
    assert "from 40 decisions of 1 round" in shown
    preview = json.loads(call(*OPEN, "--steer", "--seed", "2", "--dry-run", "--json"))
    second = int(call(*OPEN, "--steer", "--seed", "2"))
    with database.transaction() as tx:
        query = sa.select(candidates.c.prompt_source).where(candidates.c.round_id == second)
        sources = Counter(tx.execute(query).scalars())
        stored = tx.scalar(sa.select(rounds.c.steering).where(rounds.c.id == second))
    assert sources == {"random": 10, "steered": 30}
    # What the preview shows is what is chosen.
    assert stored == preview["steering"]
    assert "steered for accepts" in call("round", "show", str(second))
    # A round that is not steered has no report of it.
    third = call(*OPEN)
    assert json.loads(call("round", "show", third.strip(), "--json"))["steering"] is None


def test_prompts_of_a_file_are_steered_under_targets(
    seeds: None, database: Database, tmp_path: Path
) -> None:
    file, cover = tmp_path / "prompts.txt", tmp_path / "cover.csv"
    file.write_text("a red star\na blue star\na green heart\n")
    cover.write_text("color=green,0.5\n")
    options = (*OPEN, "--prompts", str(file), "--steer", "--steer-goal", "learn")
    round_id = int(call(*options, "--random-share", "0.5"))
    with database.transaction() as tx:
        decide_all(tx, round_id, planted_acceptance(1), 1)
    second = int(call(*options, "--random-share", "0.5", "--cover", str(cover)))
    with database.transaction() as tx:
        query = sa.select(prompts.c.text).join(candidates).where(candidates.c.round_id == second)
        texts = Counter(tx.execute(query).scalars())
    assert texts["a green heart"] >= 20
    assert set(texts) == {"a red star", "a blue star", "a green heart"}
    cover.write_text('{"purple": 0.1}')
    for wrong in (
        (*options, "--cover", str(cover)),
        (*OPEN, "--random-share", "0.5"),
        (*OPEN, "--steer", "--random-share", "2"),
    ):
        with pytest.raises(Refused):
            call(*wrong)


def test_a_loop_keeps_its_steering_in_its_plan(seeds: None, database: Database) -> None:
    start = ("loop", "start", "--rounds", "2", "--quota", "20", "--preset", "micro")
    preview = call(*start, "--steer", "--dry-run", "--json")
    assert json.loads(preview)["steering"]["random"] == 20
    call(*start, "--steer", "--random-share", "0.4")
    call(*start)
    with database.transaction() as tx:
        plans = tx.execute(sa.select(loops.c.plan).order_by(loops.c.id)).scalars().all()
    assert (plans[0]["steering"]["random_share"], plans[0]["steering"]["goal"]) == (0.4, "accepts")
    assert plans[1]["steering"] is None
