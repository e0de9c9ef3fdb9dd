"""A training run moves between workers that share nothing but the database and the object store."""

from __future__ import annotations

import os
import random
import secrets
import subprocess
import sys
import uuid
from pathlib import Path

import boto3
import pytest
import sqlalchemy as sa
import torch

from curation.adapters.s3 import S3Store
from curation.checkpoints import registry, run_history, run_states
from curation.db.engine import Database
from curation.db.tables import snapshots
from curation.domain import TrainingRequest
from tests.support.s3_proxy import s3_proxy
from tests.support.servers import free_port, wait_for
from tests.support.training_workers import Worker, start_worker
from tests.training.conftest import freeze
from tests.training.test_launch import ROUNDING, relative_distance
from training.safetensors_io import load_part
from training.train import train

IMAGES = 320
# `LAYERLOOP_TEST_KILLS=10` runs the full number; CI runs fewer.
KILLS = int(os.environ.get("LAYERLOOP_TEST_KILLS", "4"))
CHANGES = {
    "checkpoint_every_images": "32",
    "sample_every_images": "160",
    "discriminator_weight": "0.01",
    "discriminator_start": "64",
    "transparency_batch": "8",
    "base_batch": "8",
}


@pytest.fixture
def bucket(s3_credentials) -> S3Store:
    """An object store in a bucket of its own on radosgw."""
    name = f"runs-{secrets.token_hex(4)}"
    boto3.client("s3", endpoint_url=s3_credentials.endpoint).create_bucket(Bucket=name)
    return S3Store(name, endpoint=s3_credentials.endpoint)


@pytest.fixture
def environment(bucket: S3Store, s3_credentials, database_address: str) -> dict[str, str]:
    """Return the settings of all workers; leases are short, since a kill is noticed at their expiry."""
    return {
        "LAYERLOOP_DATABASE": database_address,
        "LAYERLOOP_STORAGE": f"s3://{bucket.bucket}",
        "LAYERLOOP_STORAGE_ENDPOINT": s3_credentials.endpoint,
        "LAYERLOOP_LEASE_SECONDS": "3",
        "AWS_ACCESS_KEY_ID": s3_credentials.access_key,
        "AWS_SECRET_ACCESS_KEY": s3_credentials.secret_key,
        "AWS_DEFAULT_REGION": "us-east-1",
        "OMP_NUM_THREADS": "1",
    }


def request_run(database: Database, store: S3Store, images: int, **changes: str) -> TrainingRequest:
    snapshot = freeze(store, range(30))
    wanted = TrainingRequest(
        "whole", "micro", snapshot, None, None, 1, images, {**CHANGES, **changes}
    )
    with database.transaction() as tx:
        if not tx.scalar(sa.select(snapshots.c.id)):
            tx.execute(sa.insert(snapshots), {"id": snapshot, "samples": 30, "counts": {}})
        registry.request_training(tx, wanted, "test")
    return wanted


def weights(checkpoint, store) -> dict[str, torch.Tensor]:
    return {
        f"{part}/{name}": tensor
        for part in ("transparency", "base")
        for name, tensor in load_part(store, checkpoint.files[part])[0].items()
    }


def finished_checkpoint(database: Database, run: uuid.UUID):
    with database.transaction() as tx:
        row = registry.find_run(tx, run)
        assert row["state"] == "finished", row["error"]
        return registry.find_checkpoint(tx, row["checkpoint_id"])


def log_of(database: Database, run: uuid.UUID) -> str:
    with database.transaction() as tx:
        return "\n".join(batch.text for batch in run_history.read_log(tx, run))


@pytest.mark.slow
def test_killed_at_random_steps_each_time_another_worker_ends_with_the_same_bits(
    database: Database, bucket: S3Store, environment, tmp_path: Path
) -> None:
    torch.set_num_threads(1)
    wanted = request_run(database, bucket, IMAGES)
    straight = train(wanted, bucket, tmp_path / "straight" / "run", lambda _: None)

    seed = secrets.randbits(32)
    print(f"seed of the kills: {seed}")
    dice = random.Random(seed)
    # The stages of the trainings are the third and the fifth, after the fit and the latents.
    steps = sorted(
        (stage, dice.randrange(8, IMAGES))
        for stage in dice.choices(["transparency", "base"], k=KILLS)
    )
    number = {"transparency": 2, "base": 4}
    for home, (stage, images) in enumerate(
        sorted(steps, key=lambda step: (number[step[0]], step[1]))
    ):
        worker = start(environment, tmp_path / f"home-{home}", wanted.id)
        assert worker.kill_at(number[stage], images, dice.random() * 0.3), (stage, images)
    last = start(environment, tmp_path / "last", wanted.id)
    assert last.finish(600) == 0

    resumed = finished_checkpoint(database, wanted.id)
    one, two = weights(straight, bucket), weights(resumed, bucket)
    assert one.keys() == two.keys()
    assert all(torch.equal(tensor, two[name]) for name, tensor in one.items())
    assert resumed.id == straight.id
    # Workers did continue from each other's states, and nothing of them is left when it is done.
    assert log_of(database, wanted.id).count("fetched the state") >= KILLS // 2
    with database.transaction() as tx:
        assert registry.find_run(tx, wanted.id)["attempts"] == KILLS + 1
        assert run_states.list_states(tx, wanted.id) == []
        curves = run_history.read_curves(tx, wanted.id, 1000)
    for stage in ("transparency", "base"):
        assert [at for at, _ in curves[stage]["gradient"]] == list(range(8, IMAGES + 1, 8))


def start(environment: dict[str, str], home: Path, run: uuid.UUID, **more: str) -> Worker:
    return start_worker({**environment, "LAYERLOOP_HOME": str(home), **more}, run)


@pytest.mark.slow
def test_a_run_of_one_process_is_continued_by_two_machines(
    database: Database,
    bucket: S3Store,
    environment,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The preset's processes define the global batch; the number of training processes is a setting of each machine."""
    torch.set_num_threads(1)
    wanted = request_run(database, bucket, 96, processes="2")
    monkeypatch.setenv("LAYERLOOP_TRAIN_PROCESSES", "1")
    alone = train(wanted, bucket, tmp_path / "alone" / "run", lambda _: None)

    one = {"LAYERLOOP_TRAIN_PROCESSES": "1"}
    killed = start(environment, tmp_path / "first", wanted.id, **one)
    assert killed.kill_at(2, 48, 1.0)
    machines = {
        **one,
        "LAYERLOOP_TRAIN_MACHINES": "2",
        "LAYERLOOP_TRAIN_ENDPOINT": f"127.0.0.1:{free_port()}",
        "LAYERLOOP_TRAIN_JOIN_SECONDS": "120",
        "GLOO_SOCKET_IFNAME": "lo",
    }
    own = {"LAYERLOOP_HOME": str(tmp_path / "other")}
    command = [sys.executable, "-m", "curation.cli.main", "run", "join", "--machine", "1", "--once"]
    with subprocess.Popen(command, env=os.environ | environment | machines | own) as other:
        worker = start(environment, tmp_path / "second", wanted.id, **machines)
        assert worker.finish(300) == 0
        assert other.wait(120) == 0

    together = finished_checkpoint(database, wanted.id)
    assert relative_distance(weights(alone, bucket), weights(together, bucket)) < ROUNDING
    log = log_of(database, wanted.id)
    assert "stage transparency continues after 48 images" in log or "after 96 images" in log
    # The other machine has trained, and has saved nothing.
    assert not list((tmp_path / "other/runs" / str(wanted.id)).glob("*/state-*"))


@pytest.mark.slow
def test_an_outage_of_the_object_store_releases_the_run(
    database: Database, bucket: S3Store, environment, s3_credentials, tmp_path: Path
) -> None:
    """Through a proxy that fails for some seconds: the run waits, and ends by itself."""
    wanted = request_run(database, bucket, 96)
    with s3_proxy(s3_credentials.endpoint) as proxy:
        worker = start(
            environment, tmp_path / "home", wanted.id, LAYERLOOP_STORAGE_ENDPOINT=proxy.endpoint
        )
        assert worker.wait_for(2, 16)
        proxy.fault = lambda *_: "503"
        wait_for(
            "the end of the attempt",
            lambda: state_of(database, wanted.id)[0] == "requested",
            seconds=120,
        )
        assert "trying again after" in state_of(database, wanted.id)[1]
        proxy.fault = lambda *_: None
        assert worker.finish(300) == 0
    assert finished_checkpoint(database, wanted.id)


def state_of(database: Database, run: uuid.UUID) -> tuple[str, str]:
    with database.transaction() as tx:
        row = registry.find_run(tx, run)
    return row["state"], row["error"] or ""
