"""Training processes killed by SIGKILL: resumed, they end bit for bit as an uninterrupted run."""

import json
import random
import subprocess
import sys
import time
from dataclasses import asdict

import pytest
import torch

from curation.domain import TrainingRequest
from tests.support.composite_pairs import freeze_pairs
from tests.training.pretrained import write_sdxl
from training.launch import MESSAGE_PREFIX, parse_checkpoint
from training.safetensors_io import load_part
from training.train import train

MICRO = {
    "checkpoint_every_images": "48", "sample_every_images": "96", "discriminator_weight": "0.01", "discriminator_start": "64",
    "base_batch": "8",
}  # fmt: skip
LORA = {
    "image_size": "64", "precision": "fp32", "adapter_rank": "4", "buckets": "true", "threads": "1", "draw_steps": "1",
    "encoder_widths": "8,8,8,8", "decoder_widths": "8,8,8,8", "decoder_attention": "0", "decoder_groups": "4",
    "decoder_layers": "1", "decoder_views": "1", "discriminator_weight": "0", "transparency_batch": "4",
    "base_batch": "4", "warmup_images": "8", "checkpoint_every_images": "12", "sample_every_images": "24", "base_lr": "1e-3",
    "transparency_lr": "1e-3", "draw_batch": "4",
}  # fmt: skip


def _start(folder, request, store):
    folder.mkdir(exist_ok=True)
    (folder / "request.json").write_text(json.dumps(asdict(request)))
    (folder / "store.json").write_text(json.dumps(store.opening))
    files = [
        str(folder / name) for name in ("request.json", "store.json", "run", "checkpoint.json")
    ]
    command = [sys.executable, "-m", "training.worker_process", *files]
    with (folder / "log").open("a") as log:
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)


def _kill_at(process, stage, images, delay):
    """Kill a process soon after it reports `images`; return whether it was still running."""
    for line in process.stdout:
        if line.startswith(MESSAGE_PREFIX):
            message = json.loads(line.removeprefix(MESSAGE_PREFIX))
            if message.get("stage") == stage and message["done"] >= images:
                time.sleep(delay)
                process.kill()
                break
    process.stdout.close()
    return process.wait() < 0


def _finish(process, folder):
    _, _ = process.communicate(timeout=240)
    assert process.returncode == 0, (folder / "log").read_text()[-2000:]
    return parse_checkpoint(json.loads((folder / "checkpoint.json").read_text()))


@pytest.mark.slow
@pytest.mark.parametrize("model", ["own", "SDXL with a LoRA", "pairs"])
def test_a_run_killed_at_any_point_equals_an_uninterrupted_one(store, snapshot, tmp_path, model):
    torch.set_num_threads(1)
    changes, preset, images, stages = MICRO, "micro", 160, ("transparency", "base")
    if model == "pairs":
        snapshot, stages = freeze_pairs(store, range(30), side=32), (*stages, "layers")
    if model == "SDXL with a LoRA":
        changes, preset, images = LORA | {"model": str(write_sdxl(tmp_path / "model"))}, "sdxl", 48
    request = TrainingRequest(
        "pairs" if model == "pairs" else "whole", preset, snapshot, None, None, 1, images, changes
    )
    uninterrupted = train(request, store, tmp_path / "uninterrupted" / "run", lambda _: None)
    rng = random.Random(model)
    for stage in stages:
        images_done = rng.randrange(8, images)
        killed = _kill_at(
            _start(tmp_path / "killed", request, store), stage, images_done, rng.random() * 0.1
        )
        assert killed, (stage, images_done)
    resumed = _finish(_start(tmp_path / "killed", request, store), tmp_path / "killed")
    for part in stages:
        expected, found = (
            load_part(store, checkpoint.files[part])[0] for checkpoint in (uninterrupted, resumed)
        )
        assert expected.keys() == found.keys()
        assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items()), part
    assert resumed.id == uninterrupted.id
