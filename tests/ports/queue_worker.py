"""A worker process for the contract of the queue: its jobs write what they do into a file."""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path

from curation.adapters import celery_queue
from curation.settings import Settings


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
        time.sleep(1.5)
        write(f"end {token}")

    def fail(token: str) -> None:
        write(f"fail {token}")
        raise RuntimeError(token)

    celery_queue.PREFIX = prefix
    jobs = {"screen": screen, "generate": generate, "train": train, "fail": fail}
    app = celery_queue.make_app(Settings(queue=queue_address), database_address, jobs)
    celery_queue.run_celery_worker(app, [queue], f"{queue}@test", on_stop=lambda: write("stopping"))


if __name__ == "__main__":
    main(*sys.argv[1:])
