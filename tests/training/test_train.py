"""The entry point of training: from requests to checkpoints with lineage, metrics and a grid."""

import io
import os
from dataclasses import replace

import pytest
from PIL import Image

from curation.domain import Split, TrainingRequest
from curation.errors import NotFound, Refused
from training.checkpoint import load_checkpoint
from training.data.order import order_hash
from training.data.splits import open_split
from training.presets.presets import PRESETS
from training.safetensors_io import load_part
from training.train import code_version, train

quiet = lambda _: None  # noqa: E731


def _order(snapshot, recipe="transparency", **more):
    return replace(
        TrainingRequest(recipe, "micro", snapshot, None, None, seed=1, images=96), **more
    )


def test_a_first_checkpoint_describes_how_it_was_made(store, snapshot, tmp_path):
    stages = []
    checkpoint = train(_order(snapshot), store, tmp_path / "run", lambda p: stages.append(p.stage))
    assert list(dict.fromkeys(stages)) == ["backbone", "transparency", "evaluate", "sheet"]
    assert set(checkpoint.files) == {"backbone", "transparency"}
    assert (checkpoint.recipe, checkpoint.preset, checkpoint.parent) == (
        "transparency",
        "micro",
        None,
    )
    assert checkpoint.snapshot == snapshot
    assert checkpoint.code_version == code_version()
    assert set(checkpoint.evaluation) >= {
        "psnr",
        "ssim",
        "alpha_sad",
        "alpha_mse",
        "identity_harm_db",
    }
    assert checkpoint.sample_grid is not None
    assert Image.open(io.BytesIO(store.get(checkpoint.sample_grid))).format == "PNG"
    _, metadata = load_part(store, checkpoint.files["transparency"])
    assert (metadata["snapshot"], metadata["preset"]) == (snapshot, "micro")
    assert metadata["order"] == order_hash("transparency", _order(snapshot), PRESETS["micro"])
    assert "order" not in load_part(store, checkpoint.files["backbone"])[1]
    assert float(metadata["offset_scale"]) == PRESETS["micro"].offset_scale
    again = train(_order(snapshot), store, tmp_path / "other", quiet)
    assert again.id == checkpoint.id


def test_a_child_inherits_the_autoencoder_and_improves_on_its_parent(
    store, snapshot, freeze_shapes, tmp_path
):
    parent = train(_order(snapshot, images=160), store, tmp_path / "one", quiet)
    wider = freeze_shapes(range(40))
    child = train(
        _order(wider, parent=parent, previous=snapshot, images=160), store, tmp_path / "two", quiet
    )
    assert child.parent == parent.id
    assert child.files["backbone"] == parent.files["backbone"]
    assert child.files["transparency"] != parent.files["transparency"]
    assert child.evaluation["psnr"] > parent.evaluation["psnr"]
    assert child.evaluation["alpha_mse"] < parent.evaluation["alpha_mse"]


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"preset": "huge"}, NotFound, "no preset"),
        ({"recipe": "magic"}, Refused, "no recipe"),
        ({"recipe": "base"}, Refused, "needs the part"),
    ],
)
def test_an_invalid_request_is_refused_before_training_starts(
    store, snapshot, tmp_path, change, error, words
):
    with pytest.raises(error, match=words):
        train(_order(snapshot, **change), store, tmp_path / "run", quiet)
    assert not (tmp_path / "run").exists()


def test_a_parent_of_another_preset_is_refused(store, snapshot, tmp_path):
    parent = train(_order(snapshot, images=8), store, tmp_path / "run", quiet)
    with pytest.raises(Refused, match="the parent has preset 'micro'"):
        train(_order(snapshot, preset="tiny", parent=parent), store, tmp_path / "next", quiet)


def test_a_snapshot_without_held_out_samples_still_trains(store, freeze_shapes, tmp_path):
    checkpoint = train(_order(freeze_shapes(range(4)), images=8), store, tmp_path / "run", quiet)
    assert checkpoint.evaluation == {}
    assert checkpoint.sample_grid is not None


def test_the_version_names_the_commit_in_a_checkout_only(tmp_path, monkeypatch):
    import curation

    assert code_version().startswith(curation.__version__)
    monkeypatch.setattr(
        curation, "__file__", os.fspath(tmp_path / "site" / "curation" / "__init__.py")
    )
    code_version.cache_clear()
    assert code_version() == curation.__version__
    code_version.cache_clear()


def test_parts_of_a_checkpoint_load_frozen(store, snapshot, tmp_path):
    checkpoint = train(_order(snapshot, images=8), store, tmp_path / "run", quiet)
    parts = load_checkpoint(checkpoint, store)
    assert parts.base is None
    assert not any(
        p.requires_grad for p in (*parts.transparency.parameters(), *parts.autoencoder.parameters())
    )
    assert len(open_split(store, snapshot, Split.heldout, parts.preset.image_size)) == 6


def test_the_whole_recipe_trains_every_part_and_makes_a_sample_grid(store, snapshot, tmp_path):
    stages = []
    checkpoint = train(
        _order(snapshot, "whole", images=32),
        store,
        tmp_path / "run",
        lambda p: stages.append(p.stage),
    )
    assert list(dict.fromkeys(stages)) == [
        "backbone",
        "transparency",
        "latents",
        "base",
        "evaluate",
        "sheet",
    ]
    assert set(checkpoint.files) == {"backbone", "transparency", "base"}
    assert checkpoint.evaluation["noise_mse"] > 0
    parts = load_checkpoint(checkpoint, store)
    assert parts.base is not None
    assert store.has(checkpoint.sample_grid)
    base_only = train(
        _order(snapshot, "base", parent=checkpoint, images=32), store, tmp_path / "next", quiet
    )
    assert base_only.files["transparency"] == checkpoint.files["transparency"]
    assert base_only.files["base"] != checkpoint.files["base"]
