"""Measure the time from an empty home to the first page, `layerloop up` included; then with the same home again."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path


def main() -> None:
    """Print the seconds of a cold and of a warm start."""
    with tempfile.TemporaryDirectory(prefix="layerloop-bench-") as folder:
        for name in ("cold start to the first page", "warm start to the first page"):
            print(f"{name:<32} {_start(Path(folder) / 'home'):8.2f} s", flush=True)


def _start(home: Path) -> float:
    port = _free_port()
    begun = time.perf_counter()
    command = [
        sys.executable,
        "-m",
        "curation.cli.main",
        "up",
        "--home",
        str(home),
        "--port",
        str(port),
    ]
    running = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=dict(os.environ))
    try:
        while not _answers(port):
            if time.perf_counter() - begun > 120 or running.poll() is not None:
                raise SystemExit("the instance did not come up")
            time.sleep(0.02)
        return time.perf_counter() - begun
    finally:
        running.send_signal(signal.SIGINT)
        running.wait(60)


def _answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/sign-in", timeout=2) as page:
            return page.status == 200
    except (urllib.error.URLError, OSError):
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    main()
