"""Training of transparency: it learns, and a stopped run resumes bit for bit."""

from dataclasses import replace

import pytest
import torch

from curation.domain import Split, TrainingRequest
from curation.errors import Refused
from training.data.splits import open_split
from training.presets.presets import PRESETS
from training.transparency.autoencoder import fit_autoencoder
from training.transparency.networks import Transparency
from training.transparency.padding import over_gray
from training.transparency.train import TransparencyStage, train_transparency

MICRO = replace(
    PRESETS["micro"],
    transparency_images=160,
    discriminator_weight=0.01,
    discriminator_start=96,
    blend_weight=0.5,
)


class StoppedError(Exception):
    pass


def _train(store, snapshot, folder, preset=MICRO, stop_at=None, start=None, metrics=None):
    torch.set_num_threads(1)
    rgba = open_split(store, snapshot, Split.train, preset.image_size).load_batch(range(24))
    autoencoder = fit_autoencoder(preset, over_gray(rgba[:, :3], rgba[:, 3:]))

    def report(progress):
        if metrics is not None and progress.metrics:
            metrics.append(dict(progress.metrics))
        if stop_at is not None and progress.done >= stop_at:
            raise StoppedError

    request = TrainingRequest("transparency", preset.name, snapshot, None, None, seed=3)
    return train_transparency(request, preset, store, folder, report, autoencoder, start)


def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(store, snapshot, tmp_path):
    uninterrupted = _train(store, snapshot, tmp_path / "uninterrupted")
    for stop_at in (
        40,
        104,
    ):  # before and after the discriminator has begun; neither is a saved count
        with pytest.raises(StoppedError):
            _train(store, snapshot, tmp_path / "stopped", stop_at=stop_at)
    resumed = _train(store, snapshot, tmp_path / "stopped")
    assert uninterrupted.keys() == resumed.keys()
    for name, tensor in uninterrupted.items():
        assert torch.equal(tensor, resumed[name]), name
    again = _train(store, snapshot, tmp_path / "stopped")  # a finished run is not trained further
    assert all(torch.equal(again[name], uninterrupted[name]) for name in uninterrupted)


def test_the_loss_falls_and_sample_grids_are_written(store, snapshot, tmp_path):
    metrics = []
    preset = replace(MICRO, transparency_images=384, discriminator_weight=0.0)
    _train(store, snapshot, tmp_path, preset, metrics=metrics)
    first, last = ([row["reconstruction"] for row in rows] for rows in (metrics[:5], metrics[-5:]))
    assert sum(last) < 0.5 * sum(first)
    assert (
        len(list((tmp_path / "transparency").glob("sheet-*.png")))
        == 384 // preset.sample_every_images
    )


def test_training_from_a_parent_starts_at_its_weights(store, snapshot, tmp_path):
    metrics, more = [], []
    preset = replace(MICRO, transparency_images=256, discriminator_weight=0.0)
    parent = _train(store, snapshot, tmp_path / "one", preset, metrics=metrics)
    _train(store, snapshot, tmp_path / "two", preset, start=parent, metrics=more)
    assert more[0]["reconstruction"] < 0.7 * metrics[0]["reconstruction"]


def test_weights_of_other_sizes_are_refused(store, snapshot, tmp_path):
    wider = Transparency(replace(MICRO, decoder_widths=(32, 64))).state_dict()
    with pytest.raises(Refused, match="do not fit preset 'micro'"):
        _train(store, snapshot, tmp_path, start=wider)


def test_random_solid_colors_are_drawn_for_the_global_batch(store, snapshot):
    """They do not depend on accumulation or processes: micro-batches are parts of the batch."""
    images = open_split(store, snapshot, Split.train, MICRO.image_size)
    rgba = images.load_batch(range(24))
    autoencoder = fit_autoencoder(MICRO, over_gray(rgba[:, :3], rgba[:, 3:]))
    recipe = TransparencyStage(
        replace(MICRO, solid_share=0.4), Transparency(MICRO), images, autoencoder
    )
    whole = recipe.make_batch(range(24), range(24), torch.Generator().manual_seed(1))
    part = recipe.make_batch(range(24), [5, 17], torch.Generator().manual_seed(1))
    assert all(torch.equal(part[name], rows[[5, 17]]) for name, rows in whole.items())
    solid = (whole["rgba"][:, 3] == 1).flatten(1).all(1)
    assert 4 <= int(solid.sum()) <= 16
    assert torch.equal(whole["rgba"][solid, :3], whole["padded"][solid])
