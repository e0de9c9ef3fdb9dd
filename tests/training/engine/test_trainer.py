"""The training loop: settings of memory and speed do not change the resulting weights."""

from dataclasses import replace

import pytest
import torch

from curation.domain import Split, TrainingRequest
from curation.errors import NotFound, Refused
from training.data.splits import open_split
from training.denoiser.train import train_base
from training.engine.metrics_buffer import Diverged
from training.presets.presets import PRESETS
from training.transparency.autoencoder import fit_autoencoder
from training.transparency.networks import Transparency
from training.transparency.padding import over_gray
from training.transparency.train import TransparencyStage, train_transparency

MICRO = replace(
    PRESETS["micro"],
    sample_every_images=64,
    checkpoint_every_images=48,
    discriminator_weight=0.01,
    discriminator_start=32,
)


class StoppedError(Exception):
    """Raised by a progress callback to stop a run."""


@pytest.fixture
def run(store, snapshot, tmp_path):
    """Return a function that trains a stage in its own folder, with changes of the preset."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rgba = open_split(store, snapshot, Split.train, MICRO.image_size).load_batch(range(24))
    autoencoder = fit_autoencoder(MICRO, over_gray(rgba[:, :3], rgba[:, 3:]))
    networks = Transparency(MICRO).eval().requires_grad_(False)

    def train(stage, folder, stop_at=None, images=96, reports=None, **changes):
        preset = replace(MICRO, **changes)

        def report(progress):
            if reports is not None:
                reports.append(progress)
            if stop_at is not None and progress.stage == stage and progress.done >= stop_at:
                raise StoppedError

        request, run_folder = (
            TrainingRequest(stage, "micro", snapshot, None, None, 0, images),
            tmp_path / folder / "run",
        )
        if stage == "base":
            return train_base(
                request, preset, store, run_folder, report, autoencoder, networks, None
            )[0]
        return train_transparency(request, preset, store, run_folder, report, autoencoder, None)

    return train


def largest_difference(first, second):
    assert first.keys() == second.keys()
    return max(
        float((tensor.double() - second[name].double()).abs().max())
        for name, tensor in first.items()
    )


BOTH = pytest.mark.parametrize("stage", ["transparency", "base"])


@BOTH
def test_accumulation_does_not_change_the_weights(run, stage):
    slow = {f"{stage}_lr": 1e-3, "images": 64}
    whole = run(stage, "whole", **{f"{stage}_batch": 16}, **slow)
    parts = run(stage, "parts", **{f"{stage}_batch": 4}, accumulation=4, **slow)
    assert largest_difference(whole, parts) < 3e-5


@BOTH
def test_prefetched_images_are_the_same(run, stage):
    kept, read = run(stage, "kept"), run(stage, "read", in_memory=False)
    assert largest_difference(kept, read) == 0


def test_gradient_checkpointing_gives_the_same_gradients(run):
    plain = run("transparency", "plain", images=48)
    assert (
        largest_difference(
            plain, run("transparency", "checkpointed", images=48, gradient_checkpointing=True)
        )
        < 1e-6
    )


@pytest.mark.parametrize(
    "change", [{"channels_last": True}, {"optimizer": "adamw_fused"}, {"ema_on_cpu": True}]
)
def test_settings_of_speed_and_memory_do_not_change_the_weights(run, change):
    slow = {"images": 48, "transparency_lr": 1e-4}
    assert (
        largest_difference(
            run("transparency", "plain", **slow), run("transparency", "changed", **slow, **change)
        )
        < 3e-5
    )


@pytest.mark.slow
@pytest.mark.filterwarnings(
    "ignore::UserWarning"
)  # the compiler looks at everything, and is warned of some
def test_compiled_networks_train_to_the_same_weights(run):
    slow = {"images": 32, "base_lr": 1e-4}
    assert (
        largest_difference(
            run("base", "plain", **slow), run("base", "compiled", **slow, torch_compile=True)
        )
        < 1e-4
    )


@BOTH
@pytest.mark.parametrize(
    "change",
    [
        {"precision": "bf16", "optimizer": "adafactor"},
        {"precision": "fp16", "optimizer": "adamw_fused", "channels_last": True},
        {"accumulation": 3, "ema_on_cpu": True, "in_memory": False},
    ],
    ids=lambda change: " ".join(map(str, change.values())),
)
def test_every_setting_resumes_bit_for_bit(run, stage, change):
    uninterrupted = run(stage, "uninterrupted", **change)
    for stop_at in (40, 80):
        with pytest.raises(StoppedError):
            run(stage, "stopped", stop_at=stop_at, **change)
    assert largest_difference(uninterrupted, run(stage, "stopped", **change)) == 0
    assert all(tensor.isfinite().all() for tensor in uninterrupted.values())


def test_without_ema_the_last_weights_are_the_result(run):
    plain, averaged = run("base", "plain", ema_decay=0.0), run("base", "averaged")
    assert largest_difference(plain, averaged) > 1e-4


@BOTH
def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_samples(
    run, stage, tmp_path, monkeypatch
):
    with pytest.raises(StoppedError):
        run(stage, "broken", stop_at=64)
    (kept,) = (tmp_path / "broken/run" / stage).glob("state-*")
    before = (kept / "state.json").read_bytes()
    monkeypatch.setattr("training.engine.trainer.lr_multiplier", lambda *_: 1e30)
    with pytest.raises(
        Diverged, match=rf"{stage}: \w+ is (nan|inf) in the step that ended at image \d+"
    ) as error:
        run(stage, "broken")
    samples = error.value.message.split("samples: ")[1].split(" and ")[0].split(", ")
    assert all(len(sample) == 64 for sample in samples)
    assert f"--set {stage}_lr" in error.value.hint
    assert [path.name for path in (tmp_path / "broken/run" / stage).glob("state-*")] == [kept.name]
    assert (kept / "state.json").read_bytes() == before  # with the sha256 of all files
    monkeypatch.undo()
    assert largest_difference(run(stage, "broken"), run(stage, "uninterrupted")) == 0


def _full_gpu(*_):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def _full_memory(*_):
    torch.empty(1 << 55)


@pytest.mark.parametrize("full", [_full_gpu, _full_memory])
def test_out_of_memory_is_refused_with_settings_to_change(run, full, monkeypatch):
    calls = []

    def hook(self, *given):
        calls.append(self)
        if len(calls) == 8:
            full()

    forward = TransparencyStage.forward
    monkeypatch.setattr(
        TransparencyStage, "forward", lambda self, *given: hook(self) or forward(self, *given)
    )
    with pytest.raises(Refused, match="out of memory in stage 'transparency'") as error:
        run("transparency", "full")
    assert "--set transparency_batch=4 --set accumulation=2" in error.value.hint
    for change in ("precision=bf16", "gradient_checkpointing=true", "optimizer=adamw8bit"):
        assert f"--set {change}" in error.value.hint
    monkeypatch.undo()
    assert (
        largest_difference(run("transparency", "full"), run("transparency", "uninterrupted")) == 0
    )


def test_other_errors_are_not_treated_as_out_of_memory(run, monkeypatch):
    monkeypatch.setattr(TransparencyStage, "forward", lambda *_: torch.zeros(2) @ torch.zeros(3))
    with pytest.raises(RuntimeError, match="inconsistent tensor size"):
        run("transparency", "wrong")


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"precision": "fp8"}, NotFound, "no precision"),
        ({"optimizer": "magic"}, NotFound, "no optimizer"),
        ({"tracker": "paper"}, NotFound, "no tracker"),
        ({"precision": "fp16", "fsdp": True}, Refused, "does not support fp16"),
    ],
)
def test_an_unknown_choice_is_refused(run, change, error, words):
    with pytest.raises(error, match=words):
        run("base", "run", **change)


def test_metrics_are_reported_at_every_step_and_logged(run, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    reports = []
    run("base", "reported", reports=reports, images=64)
    steps = [progress for progress in reports if progress.stage == "base"]
    assert [progress.done for progress in steps] == [0, 16, 32, 48, 64]
    assert set(steps[-1].metrics) == {"denoising", "error", "gradient"}
    log = EventAccumulator(str(tmp_path / "reported/run/base/log")).Reload()
    assert [event.step for event in log.Scalars("loss/denoising")] == [16, 32, 48, 64]
    assert {"rate", "gradient"} <= set(log.Tags()["scalars"])
