"""Metrics are logged to TensorBoard and optionally to a tracker, without network."""

import importlib.util
import time
from dataclasses import replace

import pytest

from curation.domain import TrainingRequest
from curation.errors import NotFound, Refused
from training.engine.distributed import DistributedContext
from training.engine.loggers import MetricLogger, open_tracker
from training.engine.resume import TrainingStateStore
from training.presets.presets import MICRO

ORDER = TrainingRequest("base", "micro", "s" * 64, None, None, 1)


def test_no_tracker_is_none():
    assert open_tracker(MICRO, ORDER, "base", None) is None


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_tracker_that_is_not_installed_is_refused(monkeypatch, tmp_path, name):
    monkeypatch.setattr("training.engine.loggers.find_spec", lambda _: None)
    with pytest.raises(Refused, match=f"{name} is not installed") as error:
        open_tracker(replace(MICRO, tracker=name), ORDER, "base", tmp_path)
    assert f"pip install {name}" in error.value.hint


def test_an_unknown_tracker_is_refused(tmp_path):
    with pytest.raises(NotFound, match="no tracker 'paper'"):
        open_tracker(replace(MICRO, tracker="paper"), ORDER, "base", tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="wandb is not installed")
@pytest.mark.filterwarnings("ignore")  # of the library
def test_wandb_keeps_a_run_offline(monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    DistributedContext(MICRO)  # as in every training
    log = MetricLogger(
        TrainingStateStore(tmp_path, "base").log(0),
        open_tracker(replace(MICRO, tracker="wandb"), ORDER, "base", tmp_path),
    )
    log.log(8, {"denoising": 0.5, "rate": 1.0})
    log.close()
    (stored,) = (tmp_path / "wandb").glob("offline-run-*/*.wandb")
    patience = time.monotonic() + 30  # it writes shortly after it returns
    while b"denoising" not in stored.read_bytes() and time.monotonic() < patience:
        time.sleep(0.2)
    assert b"denoising" in stored.read_bytes()
    assert str(ORDER.id).encode() in stored.name.encode()


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("trackio") is None, reason="trackio is not installed")
@pytest.mark.filterwarnings("ignore")
def test_trackio_keeps_a_run_local(monkeypatch, tmp_path):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path))
    DistributedContext(MICRO)
    log = MetricLogger(
        tracker=open_tracker(replace(MICRO, tracker="trackio"), ORDER, "base", tmp_path)
    )
    log.log(8, {"loss": 0.5})
    log.close()
    assert list(tmp_path.rglob("*"))
