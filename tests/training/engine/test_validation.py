"""Validation during training: metrics of fixed held-out images, and sample grids, are logged."""

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from curation.domain import TrainingRequest
from training.data.splits import heldout_images
from training.train import train

CHANGES = {"checkpoint_every_images": "32", "sample_every_images": "32"}


def test_sample_grids_and_held_out_metrics_are_logged_during_training(store, snapshot, tmp_path):
    request = TrainingRequest("whole", "micro", snapshot, None, None, 1, 64, CHANGES)
    train(request, store, tmp_path / "run", lambda _: None)
    for stage, metric in (("transparency", "heldout/psnr"), ("base", "heldout/noise_mse")):
        log = EventAccumulator(str(tmp_path / "run" / stage / "log"))
        log.Reload()
        assert [event.step for event in log.Images("sheet")] == [32, 64], stage
        assert [event.step for event in log.Scalars(metric)] == [32, 64], stage


def test_sample_grids_show_the_same_held_out_images_every_time(store, snapshot):
    first, again = (heldout_images(store, snapshot, 32, 8) for _ in range(2))
    assert len(first) == 6  # every fifth of thirty
    assert [sample.split.value for sample in first.samples] == ["heldout"] * 6
    assert first.load_batch(range(6)).equal(again.load_batch(range(6)))


def test_a_snapshot_without_held_out_images_is_trained_without_validation(
    store, freeze_sized, tmp_path
):
    snapshot = freeze_sized([(32, 32)] * 12)
    train(
        TrainingRequest("whole", "micro", snapshot, None, None, 1, 32, CHANGES),
        store,
        tmp_path / "run",
        lambda _: None,
    )
    log = EventAccumulator(str(tmp_path / "run" / "base" / "log"))
    log.Reload()
    assert log.Images("sheet")
    assert not [name for name in log.Tags()["scalars"] if name.startswith("heldout/")]
