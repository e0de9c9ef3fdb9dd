"""The supervisor: processes are restarted when they die, stopped together, and end with a killed parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from curation.errors import LayerloopError
from curation.runtime.supervisor import Supervisor, exclusive_home


def wait_for(condition, seconds: float = 20):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError("it did not come to pass")


@pytest.fixture
def sleepy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Supervisor:
    """Supervisor that sleep instead of serving."""
    processes = Supervisor(dict(os.environ))
    monkeypatch.setattr(sys, "executable", str(_script(tmp_path)))
    return processes


def _script(folder: Path) -> Path:
    script = folder / "sleeper"
    script.write_text("#!/bin/sh\nexec sleep 100\n")
    script.chmod(0o755)
    return script


def test_a_process_that_dies_is_started_again(sleepy: Supervisor, tmp_path: Path) -> None:
    sleepy.start("one", [], tmp_path / "one.log")
    [process] = sleepy.all
    first = process.running.pid
    os.kill(first, signal.SIGKILL)
    wait_for(lambda: process.running.pid != first and process.running.poll() is None)
    second = process.running.pid
    sleepy.stop()
    assert not psutil.pid_exists(second)


def test_health_checks_run_and_may_fail(sleepy: Supervisor, tmp_path: Path) -> None:
    seen = []

    def care() -> None:
        seen.append(1)
        raise LayerloopError("not now")

    sleepy.add_health_check(care)
    sleepy.start("one", [], tmp_path / "one.log")
    wait_for(lambda: len(seen) > 1)
    sleepy.stop()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a child with its parent")
def test_children_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    code = (
        "import sys, time, os; sys.executable = sys.argv[1]\n"
        "from pathlib import Path\n"
        "from curation.runtime.supervisor import Supervisor\n"
        "p = Supervisor(dict(os.environ)); p.start('one', [], Path(sys.argv[2]))\n"
        "print(p.all[0].running.pid, flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(_script(tmp_path)), str(tmp_path / "log")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as starter:
        child = int(starter.stdout.readline())
        starter.kill()
    wait_for(
        lambda: (
            not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE
        )
    )


def test_a_home_is_run_by_one_process_only(tmp_path: Path) -> None:
    with exclusive_home(tmp_path), pytest.raises(LayerloopError), exclusive_home(tmp_path):
        pass
    with exclusive_home(tmp_path):
        pass
