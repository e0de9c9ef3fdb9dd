"""A Label Studio of our own on this machine: its environment, its data and its process, for a demo and for tests."""

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
from curation.runtime.log_files import bounded_log, open_log
from curation.runtime.supervisor import die_with_parent

VERSION = "1.23.2"
OWNER = "owner@layerloop.local"
CACHE = Path.home() / ".cache" / "layerloop" / "label-studio"
"""Where its environment is kept, for every home and every run of the tests."""

START_SECONDS = 300
"""A first start migrates a database for minutes on a busy machine; later ones take seconds."""

SWITCHES = {
    "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true",
    "LABEL_STUDIO_DISABLE_SIGNUP_WITHOUT_LINK": "true",
    "COLLECT_ANALYTICS": "false",
    "LATEST_VERSION_CHECK": "false",
    "SENTRY_DSN": "",
    "FRONTEND_SENTRY_DSN": "",
    "SSRF_PROTECTION_ENABLED": "false",  # it may call its hook on loopback, where both of us live
}
"""Nothing is sent anywhere, and nobody signs up without being invited."""


@dataclass
class LabelStudioServer:
    """A running Label Studio: where it is, the token and the password of its owner, and its process."""

    address: str
    token: str
    password: str
    process: subprocess.Popen[bytes]

    def kill(self) -> None:
        """End it without a warning, as a power cut would."""
        self.process.kill()
        self.process.wait()


def install(folder: Path) -> Path:
    """The program in an environment of its own below `folder`, made once (about 1 GB) and used by all who ask.

    It stands beside ours because its pins are not ours. Raises LayerloopError where it cannot be installed.
    """
    done = folder / f"label-studio-{VERSION}"
    program = done / "bin" / "label-studio"
    with _locked(folder):
        if not (done / "complete").exists():
            shutil.rmtree(done, ignore_errors=True)
            # Made in its final place, since its scripts name it; the mark is what says that it is whole.
            venv.create(done, with_pip=True)
            _run(
                [
                    str(done / "bin" / "python"),
                    "-m",
                    "pip",
                    "install",
                    "--quiet",
                    f"label-studio=={VERSION}",
                ]
            )
            (done / "complete").touch()
    return program


@contextmanager
def label_studio(cache: Path, data: Path, port: int | None = None) -> Iterator[LabelStudioServer]:
    """A server on loopback for as long as the block lasts, its data in `data`, which is kept.

    `cache` has its environment and a migrated database that a first start begins with. Credentials and, when none is
    given, a free port are drawn once and kept with the data: what was put up at an address stays there. Raises
    LayerloopError where it cannot be installed or does not come up.
    """
    program = install(cache)
    if not data.exists():
        shutil.copytree(_template(cache, program), data)
    token, password = (_kept(data / name, secrets.token_hex(20)) for name in ("token", "password"))
    port = port or int(_kept(data / "port", str(_free_port())))
    owner = {
        "LABEL_STUDIO_USERNAME": OWNER,
        "LABEL_STUDIO_PASSWORD": password,
        "LABEL_STUDIO_USER_TOKEN": token,
    }
    with _serving(program, data, port, owner) as process:
        yield LabelStudioServer(f"http://127.0.0.1:{port}", token, password, process)


def _template(cache: Path, program: Path) -> Path:
    """A data folder whose database is migrated and empty, made once: to copy it saves minutes at each first start."""
    done = cache / f"data-{VERSION}"
    with _locked(cache):
        if not done.exists():
            fresh = cache / f"data-{VERSION}.new"
            shutil.rmtree(fresh, ignore_errors=True)
            with _serving(program, fresh, _free_port(), {}):
                pass
            fresh.rename(done)
    return done


@contextmanager
def _serving(
    program: Path, data: Path, port: int, owner: dict[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    data.mkdir(exist_ok=True)
    # Nothing of our own environment: a token or a proxy of ours is no business of its.
    places = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(data),
        "LC_ALL": "C.UTF-8",
        "LABEL_STUDIO_BASE_DATA_DIR": str(data),
    }
    command = [
        str(program),
        "start",
        "--no-browser",
        "--internal-host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    with open_log(data / "server.log") as log:
        process = subprocess.Popen(
            [*command, "--enable-legacy-api-token"], env=places | SWITCHES | owner, cwd=data,
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, preexec_fn=die_with_parent,  # noqa: PLW1509  # no threads touch it
        )  # fmt: skip
    try:
        with bounded_log(data / "server.log"):
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
            urllib.request.urlopen(
                f"http://127.0.0.1:{port}/health", timeout=5
            ).close()  # our own loopback address
            return
        time.sleep(0.2)
    raise LayerloopError("Label Studio does not come up", f"{data / 'server.log'} tells why")


def _kept(file: Path, drawn: str) -> str:
    """What was drawn the first time, kept for the owner's eyes only."""
    if not file.exists():
        file.touch(0o600)
        file.write_text(drawn)
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
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LayerloopError("Label Studio cannot be installed", done.stderr.strip()[-1_000:])
