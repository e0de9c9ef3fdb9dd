"""`--set name=value`: overrides of a preset, inherited by child checkpoints, part of a run's identity."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import pytest
import sqlalchemy as sa

from curation.checkpoints import registry
from curation.cli.checkpoints import parse_overrides
from curation.cli.main import run
from curation.datasets import snapshots
from curation.datasets.samples import NewSample, StoredLayer, add_samples
from curation.db.engine import Database
from curation.db.tables import training_runs
from curation.domain import Checkpoint, LayerRole
from curation.images.codec import encode_layer, pixel_hash
from curation.object_store import FolderStore
from curation.settings import Settings
from tests.curation.cli.test_cli import call, here
from tests.support.factories import image

__all__ = ["here"]  # the fixture

PARENT = Checkpoint(
    {}, "transparency", "tiny", None, None, 0, "test", changes={"model": "m", "offset_scale": "1.0"}
)


@pytest.fixture
def parent(here: Settings, database: Database) -> str:
    """Return a checkpoint, and the snapshot "latest" of one sample."""
    store = FolderStore(here.path("objects"))
    data = encode_layer(image(0))
    layer = StoredLayer(store.put(data), 32, 24, len(data), pixel_hash(image(0)))
    with database.transaction() as tx:
        add_samples(
            tx, [NewSample("single", "a cat", "CC0", "test", 0, {LayerRole.foreground: layer})]
        )
    snapshots.freeze_snapshot(database, store, tag="latest", actor="test")
    with database.transaction() as tx:
        return registry.register_checkpoint(tx, PARENT, "test")


def changes_of(database: Database, identity: str) -> dict[str, str]:
    with database.transaction() as tx:
        return dict(
            tx.scalar(sa.select(training_runs.c.changes).where(training_runs.c.id == identity))
        )


def test_a_child_inherits_its_parents_changes_and_may_change_them(
    here: Settings, database: Database, parent: str
) -> None:
    train = ("train", "--parent", parent, "--no-wait", "--json")
    plain = json.loads(call(*train))["run"]
    assert changes_of(database, plain) == PARENT.changes
    other = json.loads(call(*train, "--set", "offset_scale=100", "--set", " base_batch = 8 "))[
        "run"
    ]
    assert changes_of(database, other) == {
        **PARENT.changes,
        "offset_scale": "100",
        "base_batch": "8",
    }
    assert json.loads(call(*train))["run"] == plain != other


def test_a_change_without_a_value_is_refused(
    here: Settings, parent: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["layerloop", "train", "--set", "base_batch"])
    with pytest.raises(SystemExit) as ended:
        run()
    assert ended.value.code == 2
    assert "hint: for example --set transparency_batch=4" in capsys.readouterr().err


def test_overrides_are_part_of_a_checkpoints_identity() -> None:
    assert replace(PARENT, changes={}).id != PARENT.id
    assert replace(PARENT, changes=dict(reversed(PARENT.changes.items()))).id == PARENT.id


def test_a_folder_that_is_there_is_kept_in_full(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that trains later may stand elsewhere."""
    (tmp_path / "models" / "sdxl").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    whole = str((tmp_path / "models" / "sdxl").resolve())
    given = [
        "model=models/sdxl",
        "perceptual=~/models/sdxl",
        "denoiser=models",
        "family=some/where",
    ]
    kept = {"model": whole, "perceptual": whole, "denoiser": "models", "family": "some/where"}
    assert parse_overrides(given) == kept
