"""The public API: lazy imports, snapshots by every kind of name, datasets, generation and the README's example."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import layerloop
from curation.checkpoints.registry import promote_checkpoint, register_checkpoint
from curation.datasets import snapshots
from curation.datasets.snapshot_tags import tag_snapshot
from curation.domain import TrainingRequest
from curation.errors import NotFound
from curation.runtime.bootstrap import import_initial_seeds
from curation.runtime.context import AppContext, open_context
from curation.settings import Settings
from training.train import train

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def instance(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> AppContext:
    """Return an instance with 20 samples in a snapshot tagged "first", which the environment names."""
    monkeypatch.setenv("LAYERLOOP_HOME", str(settings.home))
    monkeypatch.setenv("LAYERLOOP_DATABASE", settings.database)
    with open_context(settings) as opened:
        import_initial_seeds(opened, None, 20, lambda _: None)
        snapshots.freeze_snapshot(opened.database, opened.store, tag="first", actor="test")
        return opened


def test_importing_it_imports_neither_torch_nor_a_database() -> None:
    heavy = "{'torch', 'diffusers', 'sqlalchemy', 'celery', 'numpy', 'curation', 'training'}"
    program = f"import sys, layerloop; dir(layerloop); print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


def test_every_public_name_is_importable() -> None:
    for name in layerloop.__all__:
        assert getattr(layerloop, name) is getattr(layerloop, name), name
    assert set(layerloop.__all__) <= set(dir(layerloop))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = layerloop.nothing


def test_a_snapshot_opens_by_tag_id_and_as_the_latest(instance: AppContext) -> None:
    latest = layerloop.open_snapshot("latest")
    assert len(latest) == sum(latest.counts["kind"].values()) == len(list(latest.samples())) == 20
    names = ("first", latest.id, latest.id[:12])
    assert [layerloop.open_snapshot(name).id for name in names] == [latest.id] * 3
    assert layerloop.open_snapshot(latest.id, store=instance.store).manifest == latest.manifest
    with pytest.raises(NotFound, match="no snapshot 'second'"):
        layerloop.open_snapshot("second")


def test_a_tag_called_latest_goes_before_the_newest(instance: AppContext) -> None:
    first = layerloop.open_snapshot("first").id
    with open_context(instance.settings) as opened:
        with opened.database.transaction() as tx:
            tag_snapshot(tx, "latest", first, "test")
        import_initial_seeds(opened, None, 24, lambda _: None)
        newest = snapshots.freeze_snapshot(
            opened.database, opened.store, tag="second", actor="test"
        ).id
    assert layerloop.open_snapshot("latest").id == first
    assert layerloop.open_snapshot("second").id == newest


def test_a_dataset_gives_tensors_with_texts(instance: AppContext) -> None:
    dataset = layerloop.open_snapshot(home=instance.settings.home).dataset("train", size=48)
    assert isinstance(dataset, layerloop.LayerDataset)
    assert dataset[0].shape == (4, 48, 48)
    assert 0 <= float(dataset[0].min()) < float(dataset[0].max()) <= 1
    assert dataset.caption_of(0)
    with pytest.raises(ValueError, match="validation"):
        layerloop.open_snapshot().dataset("validation", size=48)


def test_a_missing_home_is_an_error_and_is_not_created(tmp_path: Path) -> None:
    for name in ("latest", "0" * 64):
        with pytest.raises(NotFound, match="there is no home"):
            layerloop.open_snapshot(name, home=tmp_path / "misspelt")
    assert not (tmp_path / "misspelt").exists()


def test_generating_needs_a_promoted_checkpoint(instance: AppContext) -> None:
    with pytest.raises(NotFound, match="no checkpoint is promoted"):
        layerloop.generate("a red circle")


@pytest.mark.slow
def test_the_example_of_the_readme_runs(
    instance: AppContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = layerloop.open_snapshot().id
    order = TrainingRequest("whole", "micro", snapshot, None, None, seed=1, images=96)
    checkpoint = train(order, instance.store, tmp_path / "run", lambda _: None)
    with open_context(instance.settings) as opened, opened.database.transaction() as tx:
        promote_checkpoint(tx, register_checkpoint(tx, checkpoint, "test"), "test")
    monkeypatch.chdir(tmp_path)
    examples = re.findall(
        r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL
    )
    (example,) = [one for one in examples if "import layerloop" in one]
    exec(example, {})
    written = Image.open(tmp_path / "bottle.png")
    assert written.mode == "RGBA"
    again = layerloop.generate("a glass bottle", count=2, seed=6, checkpoint=checkpoint.id[:12])
    assert again[1]["foreground"].tobytes() == written.tobytes()
