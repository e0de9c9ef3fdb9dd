"""A loop that learns from decisions, and the command that does, with the real training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from curation.checkpoints import registry
from curation.cli.main import app
from curation.loops import rows
from curation.loops.plan import LoopState
from tests.curation.loops.test_advance import PLAN, Instance
from training.safetensors_io import load_part

CHANGES = {"automatic_decisions": "true", "threads": "1"}


@pytest.mark.slow
def test_the_second_turn_and_the_command_learn_from_the_decisions_of_the_first(
    tmp_path: Path, database_address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    instance = Instance(tmp_path / "home", database_address)
    instance.use_trainer("training.train:train")
    instance.seed()
    plan = replace(PLAN, quota=24, recipe="whole-kto", images=16, changes=CHANGES)
    loop_id = instance.start(plan)
    instance.work(lambda: instance.loop(loop_id).state != LoopState.running, 500)
    with instance.database.transaction() as tx:
        turns = rows.list_turns(tx, loop_id)
        made = [registry.find_checkpoint(tx, turn["checkpoint_id"]) for turn in turns]
    store = instance.context.store
    metadata = [load_part(store, one.files["base"])[1] for one in made]
    # In the first turn there was nothing to learn from.
    assert [bool(one.get("reference")) for one in metadata] == [False, True]
    assert made[1].parent == made[0].id

    # People train on the same snapshot by hand.
    settings = instance.context.settings.model_copy(update={"trainer": "training.train:train"})
    for name, value in settings.environment().items():
        if name.startswith("LAYERLOOP_"):
            monkeypatch.setenv(name, value)
    tag = f"{plan.tag}2"
    words = ["train", "--snapshot", tag, "--preset", "micro", "--parent", made[0].id, "--images"]
    for recipe in ("kto", "dpo"):
        done = CliRunner().invoke(app, [*words, "16", "--recipe", recipe])
        assert done.exit_code == 0, done.output
        with instance.database.transaction() as tx:
            child = registry.find_checkpoint(tx, done.stdout.strip().splitlines()[-1])
        reference = load_part(store, child.files["base"])[1]["reference"]
        assert reference == made[0].files["base"]
    # Without the override all decisions are automatic.
    refused = CliRunner().invoke(
        app, [*words, "16", "--recipe", "kto", "--set", "automatic_decisions=false"]
    )
    assert refused.exit_code != 0
    instance.database.close()
