"""The local stack: it starts, issues one sign-in link, restarts its parts, and stops in order."""

from __future__ import annotations

import json
import os
import signal
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from curation.adapters import embedded_postgres
from curation.domain import Job
from curation.errors import LayerloopError
from curation.runtime.local_stack import LocalStack, run_local_stack
from curation.settings import Settings

pytestmark = pytest.mark.slow


@pytest.fixture
def home() -> Iterator[Path]:
    """Yield a home outside of pytest's folders, which the embedded server's user may not be able to enter."""
    with tempfile.TemporaryDirectory(prefix="layerloop-test-") as folder:
        yield Path(folder) / "home"


def health(stack: LocalStack) -> str | None:
    try:
        with urllib.request.urlopen(f"{stack.address}/api/health", timeout=2) as answer:
            return str(json.load(answer)["status"])
    except (urllib.error.URLError, OSError):
        return None


def wait_for(condition, seconds: float = 60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_the_local_stack_starts_restarts_its_parts_and_stops(home: Path) -> None:
    settings = Settings(home=home, port=0)
    with run_local_stack(settings) as stack:
        assert health(stack) == "ok"
        assert "/sign-in?token=" in stack.sign_in_url()
        with pytest.raises(LayerloopError, match="is already running"), run_local_stack(settings):
            pass

        processes = [
            child
            for child in psutil.Process().children()
            if "curation.cli.main" in " ".join(child.cmdline())
        ]
        assert len(processes) == 3
        [api] = [child for child in processes if child.cmdline()[-1] == "api"]
        api.kill()
        wait_for(lambda: health(stack) is None, 10)
        wait_for(lambda: health(stack) == "ok")

        pid = int((home / "postgres" / "data" / "postmaster.pid").read_text().splitlines()[0])
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not psutil.pid_exists(pid), 10)
        assert stack.retry_while_db_down(lambda: _count_reviewers(stack)) == 1
        wait_for(lambda: health(stack) == "ok")
        stack.context.queue.send(Job("reconcile"))
    assert health(stack) is None
    assert not embedded_postgres.is_running(home / "postgres")
    assert all(not child.is_running() for child in processes)
    records = (home / "logs" / "supervisor.log").read_text()
    assert "started worker gpu as process" in records
    assert "api ended with exit code -9 and is started again" in records
    assert "stopping 3 processes" in records


def test_the_local_stack_does_not_start_on_a_taken_port(home: Path) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with run_local_stack(Settings(home=home, port=taken.getsockname()[1])) as stack:
            assert stack.context.settings.port != taken.getsockname()[1]
            assert health(stack) == "ok"


def test_sigterm_stops_the_local_stack_in_order(home: Path) -> None:
    earlier = signal.getsignal(signal.SIGTERM)
    processes: list[psutil.Process] = []

    def run_and_terminate() -> None:
        with run_local_stack(Settings(home=home, port=0)):
            processes.extend(psutil.Process().children())
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)

    with pytest.raises(KeyboardInterrupt):
        run_and_terminate()
    assert len(processes) >= 3
    assert signal.getsignal(signal.SIGTERM) is earlier
    assert not embedded_postgres.is_running(home / "postgres")
    assert not [
        process
        for process in processes
        if process.is_running() and "curation.cli.main" in " ".join(process.cmdline())
    ]


def _count_reviewers(stack: LocalStack) -> int:
    with stack.context.database.transaction() as tx:
        return int(
            tx.connection.exec_driver_sql(
                "select count(*) from reviewers where name = 'owner'"
            ).scalar_one()
        )
