"""A worker process for the contract of the queue: its jobs write what they do into a file."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from pathlib import Path

from curation.adapters import celery_queue, celery_worker
from curation.adapters.job_receiver import JobReceiver
from curation.settings import Settings

log = logging.getLogger(__name__)


def main(queue_address: str, database_address: str, prefix: str, queue: str, notes: str) -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    file = Path(notes)

    def write(line: str) -> None:
        with file.open("a") as out:
            out.write(line + "\n")

    def screen(token: str) -> None:
        write(f"screen {token}")

    def generate(token: str) -> None:
        write(f"generate {token}")

    def train(token: str) -> None:
        write(f"begin {token}")
        time.sleep(float(os.environ.get("TEST_TRAIN_SECONDS", "1.5")))
        write(f"end {token}")

    def fail(token: str) -> None:
        write(f"fail {token}")
        raise RuntimeError(token)

    def stop(*_: object) -> None:
        if not stopping.is_set():
            write("stopping")
            stopping.set()

    celery_queue.PREFIX = prefix
    jobs = {"screen": screen, "generate": generate, "train": train, "fail": fail}
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, stop)
    app = celery_queue.make_app(Settings(queue=queue_address), database_address)
    if seconds := os.environ.get("TEST_VISIBILITY"):
        app.conf.broker_transport_options["visibility_timeout"] = int(seconds)
    receiver = JobReceiver(app, stopping)
    celery_worker.register_tasks(app, jobs)
    queues = celery_queue.expand_queues([queue])

    def run() -> None:
        while not stopping.is_set():
            job = receiver.receive(queues, 1)
            if job is None or job.name not in jobs:
                continue
            receiver.pause()
            try:
                celery_worker.run_task(app, job)
            except Exception:
                log.exception("%s failed", job.name)
        receiver.pause()

    celery_worker.run_celery_worker(app, queues, "test", run)


if __name__ == "__main__":
    main(*sys.argv[1:])
