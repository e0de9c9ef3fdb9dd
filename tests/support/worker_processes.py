"""Worker processes of an instance on its own servers, and queries of a round."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import boto3
import sqlalchemy as sa

from curation.db import workers
from curation.db.engine import Database
from curation.db.pending_jobs import DeduplicatingSender
from curation.domain import Prompt
from curation.rounds import lifecycle
from tests.support import servers
from tests.support.factories import make_checkpoint, states
from tests.support.servers import wait_for

ROOT = Path(__file__).resolve().parents[2]
UNFINISHED = ("requested", "generating", "generated")


@dataclass
class WorkerInstance:
    """A database, an object store and a broker, with any number of workers."""

    folder: Path
    address: str
    environment: dict[str, str]
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.database = Database(self.address)
        self.notes = self.folder / "notes"
        self.notes.mkdir(parents=True)

    def start(
        self, *queues: str, home: str = "home", **environment: str
    ) -> subprocess.Popen[bytes]:
        """Start a worker of some queues; its log is in the folder."""
        given = {
            "LAYERLOOP_HOME": str(self.folder / home),
            "LAYERLOOP_DATABASE": self.address,
            "LAYERLOOP_GENERATOR": "tests.support.sleeping_generator:load",
            "LAYERLOOP_LEASE_SECONDS": "5",
            "TEST_NOTES": str(self.notes),
            "PYTHONPATH": str(ROOT),
        }
        options = [part for queue in queues for part in ("--queue", queue)]
        with (self.folder / f"worker-{len(self.processes)}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "curation.cli.main", "worker", *options],
                stdout=log,
                stderr=log,
                env=os.environ | given | self.environment | environment,
                cwd=ROOT,
            )
        self.processes.append(process)
        return process

    def wait_for_workers(self, count: int, seconds: float = 120) -> None:
        """Wait until so many workers have a heartbeat."""

        def there() -> bool:
            with self.database.transaction() as tx:
                return len(workers.list_live_workers(tx)) >= count

        try:
            wait_for(f"{count} workers", there, seconds)
        except AssertionError:
            raise AssertionError(self.story()) from None

    def open_round(self, quota: int, priority: int = 0) -> int:
        """Open a round, and return its number."""
        with self.database.transaction() as tx:
            round_id = lifecycle.open_round(
                tx,
                checkpoint=make_checkpoint(tx, uuid.uuid4().hex),
                prompt_list=[Prompt("x")],
                quota=quota,
                actor="test",
            )
            tx.execute(sa.text(f"update rounds set priority = {priority} where id = {round_id}"))
        return round_id

    def left(self, round_id: int) -> int:
        """The number of candidates that are not generated and screened yet."""
        counts = states(self.database, round_id)
        return sum(counts.get(state, 0) for state in UNFINISHED)

    def wait_for_round(self, round_id: int, seconds: float = 120) -> Mapping[str, int]:
        """Wait until a round is generated and screened, and return its counts by state."""
        try:
            wait_for(f"round {round_id}", lambda: self.left(round_id) == 0, seconds)
        except AssertionError:
            raise AssertionError(f"{states(self.database, round_id)}\n{self.story()}") from None
        return states(self.database, round_id)

    def generated(self) -> Counter[str]:
        """How often each seed was generated, by all processes together."""
        return Counter(
            seed for path in self.notes.iterdir() for seed in path.read_text().splitlines()
        )

    def story(self) -> str:
        """The ends of the logs."""
        return "\n".join(
            f"--- {log.name}\n{log.read_text(errors='replace')[-2_500:]}"
            for log in sorted(self.folder.glob("worker-*.log"))
        )

    def stop(self) -> None:
        """Stop all workers."""
        for process in self.processes:
            if process.poll() is None:
                process.terminate()
        for process in self.processes:
            try:
                process.wait(40)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)


@contextmanager
def worker_instance(
    folder: Path,
    address: str,
    s3: servers.S3Server | None = None,
    endpoint: str | None = None,
    queue: str = "embedded",
) -> Iterator[WorkerInstance]:
    """Provide an instance whose workers are stopped at the end.

    Without an S3 server its store is a folder. `endpoint` is that of a proxy before the server.
    """
    environment = {"LAYERLOOP_QUEUE": queue}
    if s3 is not None:
        bucket = f"test-{uuid.uuid4().hex[:10]}"
        keys = {"aws_access_key_id": s3.access_key, "aws_secret_access_key": s3.secret_key}
        client = boto3.session.Session().client(
            "s3", endpoint_url=s3.endpoint, region_name="us-east-1", **keys
        )
        client.create_bucket(Bucket=bucket)
        environment |= {
            "LAYERLOOP_STORAGE": f"s3://{bucket}",
            "LAYERLOOP_STORAGE_ENDPOINT": endpoint or s3.endpoint,
            "AWS_ACCESS_KEY_ID": s3.access_key,
            "AWS_SECRET_ACCESS_KEY": s3.secret_key,
            "AWS_DEFAULT_REGION": "us-east-1",
        }
    made = WorkerInstance(folder, address, environment)
    # A round that opens wakes a worker as in a command.
    from curation.adapters.celery_queue import CeleryQueue, make_app
    from curation.settings import Settings

    sender = CeleryQueue(make_app(Settings(queue=queue), address))
    made.database.send = DeduplicatingSender(made.database, sender.send)
    try:
        yield made
    finally:
        made.stop()
        sender.close()
        made.database.close()
