"""Distributed training: equal to one process; errors are raised; children end with the parent."""

import json
import signal
import subprocess
import sys
import time
from dataclasses import asdict

import psutil
import pytest
import torch

from curation.domain import Checkpoint, TrainingRequest
from curation.errors import NotFound, Refused
from training.launch import Launch, launch, parse_request, reopen_store
from training.safetensors_io import load_part
from training.train import train

CHANGES = {
    "checkpoint_every_images": "32",
    "sample_every_images": "32",
    "discriminator_weight": "0.01",
    "discriminator_start": "32",
    "solid_share": "0.3",
}

ROUNDING = 2e-6
"""Another number of threads changes weights by 5e-7; a learning rate 1 % higher, by 2e-3."""


def _order(snapshot, images=64, recipe="whole", **changes):
    return TrainingRequest(recipe, "micro", snapshot, None, None, 1, images, {**CHANGES, **changes})


def relative_distance(first, second):
    """Return the distance of weights relative to their norm.

    Not element by element: where a gradient is hardly more than rounding, Adam's first steps move that one weight by a
    share of the rate, which is another share on every processor.
    """
    squares = sum((tensor - second[name]).double().square().sum() for name, tensor in first.items())
    return float(
        (squares / sum(tensor.double().square().sum() for tensor in first.values())).sqrt()
    )


def _weights(checkpoint, store):
    parts = {part: load_part(store, checkpoint.files[part])[0] for part in ("transparency", "base")}
    return {
        f"{part}/{name}": tensor
        for part, tensors in parts.items()
        for name, tensor in tensors.items()
    }


@pytest.mark.slow
@pytest.mark.parametrize("sharded", [False, True], ids=["DDP", "FSDP2"])
def test_two_processes_train_to_the_same_weights_as_one(store, snapshot, tmp_path, sharded):
    output = []
    alone = train(
        _order(snapshot, accumulation="2"), store, tmp_path / "one" / "run", lambda _: None
    )
    order = _order(snapshot, processes="2", fsdp=str(sharded).lower())
    together = train(order, store, tmp_path / "two" / "run", output.append)
    first, second = _weights(alone, store), _weights(together, store)
    assert first.keys() == second.keys()
    assert relative_distance(first, second) < ROUNDING
    assert together.evaluation["psnr"] == pytest.approx(alone.evaluation["psnr"], abs=1e-2)
    assert [progress.done for progress in output if progress.stage == "base"] == [0, 32, 64]
    assert all(
        "denoising" in progress.metrics
        for progress in output
        if progress.stage == "base" and progress.done
    )
    assert len(list((tmp_path / "two/run/base").glob("state-*"))) == 2


class StoppedError(Exception):
    """Raised by a progress callback to stop a run."""


@pytest.mark.slow
def test_two_processes_stop_when_the_callback_raises_and_resume(store, snapshot, tmp_path):
    """Sharded states are saved unsharded, so that another number of processes can resume."""

    def stop(progress):
        if progress.stage == "transparency" and progress.done >= 96:
            raise StoppedError

    sharded = _order(snapshot, 128, "transparency", processes="2", fsdp="true")
    before = set(psutil.Process().children(recursive=True))  # servers of other tests
    with pytest.raises(StoppedError):
        train(sharded, store, tmp_path / "run", stop)
    left = set(psutil.Process().children(recursive=True)) - before
    assert not [child for child in left if child.is_running()]
    seen = []
    resumed = train(sharded, store, tmp_path / "run", seen.append)
    assert min(progress.done for progress in seen if progress.stage == "transparency") >= 64
    alone = train(
        _order(snapshot, 128, "transparency", accumulation="2"),
        store,
        tmp_path / "one",
        lambda _: None,
    )
    first, second = (load_part(store, made.files["transparency"])[0] for made in (alone, resumed))
    assert relative_distance(first, second) < ROUNDING


@pytest.mark.slow
def test_the_error_of_the_first_process_is_raised_here(store, snapshot, tmp_path):
    with pytest.raises(NotFound, match="no optimizer 'magic'"):
        train(_order(snapshot, processes="2", optimizer="magic"), store, tmp_path, lambda _: None)


@pytest.mark.slow
def test_processes_end_with_their_parent(store, snapshot, tmp_path):
    output = (tmp_path / "order.json", tmp_path / "store.json")
    output[0].write_text(json.dumps(asdict(_order(snapshot, 100_000, processes="2"))))
    output[1].write_text(json.dumps(store.opening))
    code = (
        "import json, sys; from pathlib import Path; from training.launch import Launch, launch, reopen_store, parse_request;"
        "order, store = (json.loads(Path(name).read_text()) for name in sys.argv[1:3]);"
        "launch(parse_request(order), reopen_store(store), Path(sys.argv[3]), lambda p: print(p.done, flush=True), Launch(2))"
    )
    command = [sys.executable, "-c", code, *map(str, output), str(tmp_path / "run")]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as running:
        assert any(int(line) >= 16 for line in running.stdout)
        below = psutil.Process(running.pid).children(recursive=True)
        assert len(below) >= 3  # torchrun and two trainers
        running.send_signal(signal.SIGKILL)
    gone, alive = psutil.wait_procs(below, timeout=60)
    assert (len(gone), alive) == (len(below), [])


def test_a_request_round_trips_as_json(store, snapshot):
    parent = Checkpoint(
        {"backbone": "b"}, "whole", "micro", snapshot, None, 1, "1", {"psnr": 1.5}, None, CHANGES
    )
    request = TrainingRequest("base", "micro", snapshot, "p", parent, 1, 8, CHANGES)
    assert parse_request(json.loads(json.dumps(asdict(request)))) == request
    again = reopen_store(json.loads(json.dumps(store.opening)))
    assert again.get(snapshot) == store.get(snapshot)


def test_a_store_of_one_process_and_too_few_gpus_are_refused(
    store, snapshot, tmp_path, monkeypatch
):
    with pytest.raises(Refused, match="cannot be opened by other processes"):
        launch(_order(snapshot), object(), tmp_path, print, Launch(2))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(Refused, match="2 processes need as many GPUs; this machine has 1"):
        launch(_order(snapshot), store, tmp_path, print, Launch(2))
    assert time.time() > 0
