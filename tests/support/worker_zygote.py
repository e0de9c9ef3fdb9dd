"""A process that forks workers quickly: it has imported the large libraries, but nothing of ours.

It reads orders from stdin, one JSON object a line, and answers with the process id. A worker has
the order's environment, log and fault plan. Run it with `python -m tests.support.worker_zygote`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

ROOT = Path(__file__).resolve().parents[2]


class Zygote:
    """The side of the parent: starts the process, and requests workers from it."""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.worker_zygote"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
        self._process.kill()
        self._process.wait()

    def start(
        self, environment: dict[str, str], queues: list[str], log: Path, plan: dict[str, Any]
    ) -> int:
        """Start a worker, and return its process id.

        Args:
            environment: Settings of the worker, added to the environment of this process.
            queues: Queues of the worker; empty for a process that freezes a snapshot and ends.
            log: File to which its output is appended.
            plan: A FaultPlan as JSON.
        """
        order = {"environment": environment, "queues": queues, "log": str(log), "plan": plan}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())


def is_alive(pid: int) -> bool:
    """Return whether a process that the zygote started still runs; the kernel reaps the dead."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _serve() -> None:
    # Large libraries only, so that every worker has an id and a state of its own.
    import boto3
    import celery
    import cv2
    import numpy as np
    import PIL.Image
    import scipy
    import sklearn
    import sqlalchemy

    assert all((boto3, celery, cv2, np, PIL, scipy, sklearn, sqlalchemy))
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for line in sys.stdin:
        order = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _run_worker(order)
        print(pid, flush=True)


def _run_worker(order: dict[str, Any]) -> None:
    """Become a worker, and never return."""
    status = 1
    try:
        os.setsid()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        null = os.open(os.devnull, os.O_RDONLY)
        for source, target in ((null, 0), (log, 1), (log, 2)):
            os.dup2(source, target)
        os.environ.update(order["environment"])
        from tests.support import failpoints

        failpoints.install(failpoints.FaultPlan.read(order["plan"]))
        from curation.runtime.context import database_address, open_context
        from curation.settings import read_settings

        settings = read_settings()
        with open_context(settings) as context:
            if order["queues"]:
                from curation.jobs.worker import run_worker

                run_worker(context, database_address(settings), order["queues"])
            else:
                from tests.support.fault_runs import freeze

                freeze(context)
        status = 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    _serve()
