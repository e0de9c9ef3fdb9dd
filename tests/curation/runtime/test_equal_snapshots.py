"""The name of a snapshot follows from the decisions alone: not from database, store, queue or workers."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import boto3
import pytest
import sqlalchemy as sa

from curation.adapters.pgmq_schema import install_pgmq
from curation.checkpoints import registry
from curation.datasets.manifest import Manifest, read_samples
from curation.datasets.snapshots import freeze_snapshot
from curation.db.tables import candidates
from curation.domain import Checkpoint, Prompt, RejectReason, Role, Verdict
from curation.review.decisions import decide
from curation.review.frozen_decisions import find_decided
from curation.review.reviewers import add_reviewer
from curation.rounds import lifecycle
from curation.runtime.bootstrap import import_initial_seeds
from curation.runtime.context import AppContext, open_context
from curation.settings import Settings
from curation.synthetic.shapes import SUBJECTS
from tests.support.factories import states
from tests.support.servers import wait_for

ROOT = Path(__file__).resolve().parents[3]
SEEDS, QUOTA = 24, 45
UNFINISHED = {"requested", "generating", "generated", "screened"}


@pytest.fixture
def home() -> Iterator[Path]:
    """Yield a home outside of pytest's folders, which the embedded server's user may enter."""
    with tempfile.TemporaryDirectory(prefix="layerloop-test-") as folder:
        yield Path(folder) / "home"


@pytest.mark.slow
def test_one_machine_and_a_team_freeze_the_same_names(
    home, tmp_path, database_address, s3_credentials
) -> None:
    install_pgmq(database_address)
    bucket = f"equal-{uuid.uuid4().hex[:10]}"
    boto3.client("s3", endpoint_url=s3_credentials.endpoint).create_bucket(Bucket=bucket)
    team = {
        "database": database_address,
        "storage": f"s3://{bucket}/instance",
        "storage_endpoint": s3_credentials.endpoint,
    }
    one = freeze_after_round(home, {}, workers=1, reviewer="Anna")
    other = freeze_after_round(
        tmp_path / "home", team, workers=3, reviewer="Bernd", last_first=True
    )
    assert [manifest.id for manifest in one] == [manifest.id for manifest in other]
    # Seeds and accepted candidates are in them, and both verdicts.
    plain, with_rejects = one
    assert set(plain.counts["round"]) == {"0", "1"}
    assert with_rejects.decisions is not None
    assert set(with_rejects.decisions.counts["verdict"]) == {"accept", "reject"}


def freeze_after_round(
    home: Path,
    settings: Mapping[str, str],
    *,
    workers: int,
    reviewer: str,
    last_first: bool = False,
) -> tuple[Manifest, Manifest]:
    """Import seeds, generate and review a round, and freeze it, without and with the rejects."""
    painter = "tests.support.shape_generator:open_painter"
    with open_context(Settings(home=home, generator=painter, **settings)) as context:
        import_initial_seeds(context, None, SEEDS, lambda _: None)
        round_id = open_round(context)
        environment = settings_as_environment(home, {**settings, "generator": painter})
        with running_workers(environment, workers):
            wait_for(
                "the generation of the round",
                lambda: not UNFINISHED & set(states(context.database, round_id)),
                600,
            )
        review(context, round_id, reviewer, last_first=last_first)
        return freeze(context)


def open_round(context: AppContext) -> int:
    """Open a round of a checkpoint that is the same in every instance."""
    checkpoint = Checkpoint(
        {"base": context.store.put(b"weights")}, "whole", "tiny", None, None, 0, "test",
        {"psnr": 30.0},
    )  # fmt: skip
    with context.database.transaction() as tx:
        name = registry.register_checkpoint(tx, checkpoint, "test")
        registry.promote_checkpoint(tx, name, "test")
        prompts = [Prompt(text) for text in sorted(SUBJECTS)[:9]]
        return lifecycle.open_round(
            tx, checkpoint=name, prompt_list=prompts, quota=QUOTA, seed=5, actor="test"
        )


def review(context: AppContext, round_id: int, name: str, *, last_first: bool) -> None:
    """Decide every waiting candidate by its seed."""
    waiting = sa.select(candidates.c.id, candidates.c.seed).where(
        candidates.c.round_id == round_id, candidates.c.state == "waiting"
    )
    with context.database.transaction() as tx:
        person = add_reviewer(tx, name, Role.annotator).id
        rows = sorted(tx.execute(waiting).all(), key=lambda row: row.seed, reverse=last_first)
    assert len(rows) > QUOTA // 3
    for row in rows:
        verdict = Verdict.accept if row.seed % 3 else Verdict.reject
        reasons = [RejectReason.halo] if verdict is Verdict.reject else []
        with context.database.transaction() as tx:
            decide(tx, person, row.id, verdict, key=uuid.uuid4(), reasons=reasons)
    with context.database.transaction() as tx:
        lifecycle.close_round(tx, round_id, "test")


def freeze(context: AppContext) -> tuple[Manifest, Manifest]:
    """Freeze without and with the rejects; every sample of both is readable from the store."""
    found = [
        freeze_snapshot(
            context.database, context.store, tag=None, actor="test", find_decided=decided
        )
        for decided in (None, find_decided)
    ]
    layers = [
        sha for one in read_samples(context.store, found[0].id) for sha in one.layers.values()
    ]
    assert all(context.store.has(sha) for sha in layers)
    return found[0], found[1]


def settings_as_environment(home: Path, settings: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a worker of an instance."""
    named = {f"LAYERLOOP_{name.upper()}": value for name, value in settings.items()}
    return {**os.environ, **named, "LAYERLOOP_HOME": str(home), "PYTHONPATH": str(ROOT)}


@contextmanager
def running_workers(environment: Mapping[str, str], count: int) -> Iterator[None]:
    """Run worker processes, and stop them at the end."""
    command = [
        sys.executable,
        "-m",
        "curation.cli.main",
        "worker",
        "--queue",
        "cpu",
        "--queue",
        "gpu",
    ]
    with ExitStack() as stack:
        for _ in range(count):
            process = subprocess.Popen(command, env=dict(environment), cwd=ROOT)
            stack.callback(process.wait, 60)
            stack.callback(process.terminate)
        yield
