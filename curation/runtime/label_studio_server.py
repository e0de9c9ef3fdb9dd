"""A local Label Studio with an environment and data of its own, for demos and tests."""

from __future__ import annotations

import contextlib
import fcntl
import secrets
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from curation.errors import LayerloopError
from curation.runtime.log_files import open_log, rotating_log
from curation.runtime.supervisor import set_pdeathsig

VERSION = "1.23.2"
OWNER = "owner@layerloop.local"
CACHE = Path.home() / ".cache" / "layerloop" / "label-studio"
"""The folder of its environment, shared by all homes and test runs."""

START_SECONDS = 300
"""Timeout of a start; the first one migrates a database, which takes minutes on a busy machine."""

ENVIRONMENT = {
    "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true",
    "LABEL_STUDIO_DISABLE_SIGNUP_WITHOUT_LINK": "true",
    "COLLECT_ANALYTICS": "false",
    "LATEST_VERSION_CHECK": "false",
    "SENTRY_DSN": "",
    "FRONTEND_SENTRY_DSN": "",
    "SSRF_PROTECTION_ENABLED": "false",  # its webhook calls our API on the loopback interface
}
"""Settings that disable telemetry and uninvited sign-ups."""


@dataclass
class LabelStudioServer:
    """A running Label Studio: its address, the token and password of its owner, and its process."""

    address: str
    token: str
    password: str
    process: subprocess.Popen[bytes]

    def kill(self) -> None:
        """Kill the process without a graceful shutdown."""
        self.process.kill()
        self.process.wait()


def install(folder: Path) -> Path:
    """Install Label Studio once into a virtual environment below a folder (about 1 GB).

    It needs an environment of its own because its pinned dependencies conflict with ours.

    Args:
        folder: The cache folder, shared by processes.

    Returns:
        The path of its program.

    Raises:
        LayerloopError: It cannot be installed.
    """
    environment = folder / f"label-studio-{VERSION}"
    program = environment / "bin" / "label-studio"
    with _locked(folder):
        if not (environment / "complete").exists():
            shutil.rmtree(environment, ignore_errors=True)
            # Installed in its final folder, since its scripts contain that path; the file
            # "complete" marks a finished installation.
            venv.create(environment, with_pip=True)
            python = str(environment / "bin" / "python")
            _run([python, "-m", "pip", "install", "--quiet", f"label-studio=={VERSION}"])
            (environment / "complete").touch()
    return program


@contextmanager
def run_label_studio(
    cache: Path, data: Path, port: int | None = None
) -> Iterator[LabelStudioServer]:
    """Run a Label Studio server on the loopback interface during the block.

    Args:
        cache: The folder of its environment, and of a migrated database that first starts copy.
        data: The folder of its data, kept afterwards. Credentials and port are generated once and
            stored there, so that addresses of tasks stay valid.
        port: The port; None takes a free one at the first start.

    Yields:
        The running server.

    Raises:
        LayerloopError: It cannot be installed or does not start.
    """
    program = install(cache)
    if not data.exists():
        shutil.copytree(_template(cache, program), data)
    token, password = (
        _read_or_store(data / name, secrets.token_hex(20)) for name in ("token", "password")
    )
    port = port or int(_read_or_store(data / "port", str(_free_port())))
    owner = {
        "LABEL_STUDIO_USERNAME": OWNER,
        "LABEL_STUDIO_PASSWORD": password,
        "LABEL_STUDIO_USER_TOKEN": token,
    }
    with _running_server(program, data, port, owner) as process:
        yield LabelStudioServer(f"http://127.0.0.1:{port}", token, password, process)


def _template(cache: Path, program: Path) -> Path:
    """Return a data folder with a migrated, empty database, which first starts copy."""
    # The migration takes minutes.
    template = cache / f"data-{VERSION}"
    with _locked(cache):
        if not template.exists():
            # Renamed once complete, so that an interrupted migration is never used.
            fresh = cache / f"data-{VERSION}.new"
            shutil.rmtree(fresh, ignore_errors=True)
            with _running_server(program, fresh, _free_port(), {}):
                pass
            fresh.rename(template)
    return template


@contextmanager
def _running_server(
    program: Path, data: Path, port: int, owner: dict[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """Start the server, wait until it answers, and stop it at the end of the block."""
    data.mkdir(exist_ok=True)
    # It inherits nothing of our environment, which may hold tokens and proxies.
    environment = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(data),
        "LC_ALL": "C.UTF-8",
        "LABEL_STUDIO_BASE_DATA_DIR": str(data),
    }
    arguments = ["--no-browser", "--internal-host", "127.0.0.1", "--enable-legacy-api-token"]
    with open_log(data / "server.log") as log:
        process = subprocess.Popen(
            [str(program), "start", *arguments, "--port", str(port)],
            env=environment | ENVIRONMENT | owner,
            cwd=data,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=set_pdeathsig,  # noqa: PLW1509  # no threads touch it
        )
    # Ask it to stop first; a server that hangs is killed.
    try:
        with rotating_log(data / "server.log"):
            _wait(process, port, data)
            yield process
    finally:
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)
        process.kill()
        process.wait()


def _wait(process: subprocess.Popen[bytes], port: int, data: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(urllib.error.URLError, OSError):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
            return
        time.sleep(0.2)
    raise LayerloopError("Label Studio does not start", f"see {data / 'server.log'}")


def _read_or_store(file: Path, value: str) -> str:
    """Return the content of an owner-only file, which is created with `value` if missing."""
    if not file.exists():
        file.touch(0o600)
        file.write_text(value)
    return file.read_text()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _run(command: list[str]) -> None:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise LayerloopError("Label Studio cannot be installed", result.stderr.strip()[-1_000:])
