"""Real servers on loopback for tests: PostgreSQL, radosgw (S3), RabbitMQ and Redis."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import kombu
import pytest

from curation.adapters import embedded_postgres

RABBITMQ = "amqp://guest:guest@127.0.0.1:5672//"
REDIS = "redis://127.0.0.1:6379/15"

# One daemon of each kind, in memory; only the S3 gateway authenticates its clients.
CEPH_CONF = """\
[global]
fsid = {fsid}
mon initial members = a
mon host = v2:127.0.0.1:{port}
public addr = 127.0.0.1
auth cluster required = none
auth service required = none
auth client required = none
ms mon client mode = crc secure
ms mon service mode = crc secure
ms mon cluster mode = crc secure
paxos propose interval = 0.05
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 1
osd crush chooseleaf type = 0
osd objectstore = memstore
memstore device bytes = 2147483648
mon allow pool size one = true
mon max pg per osd = 1000
mon data avail crit = 1
run dir = {folder}
admin socket = {folder}/$name.asok
log file = {folder}/$name.log
pid file = {folder}/$name.pid
mon data = {folder}/mon
osd data = {folder}/osd
"""


@contextmanager
def postgres(given: str | None = None) -> Iterator[str]:
    """Yield the given PostgreSQL server, or an embedded one, which is stopped at the end."""
    if given:
        yield given
        return
    with tempfile.TemporaryDirectory(prefix="layerloop-postgres-") as folder:
        try:
            yield embedded_postgres.start_server(Path(folder))
        finally:
            embedded_postgres.stop_server(Path(folder))


@dataclass(frozen=True)
class S3Server:
    """An S3 server on loopback, and the credentials of its user."""

    endpoint: str
    access_key: str
    secret_key: str


def missing(what: str, how: str) -> None:
    """Skip a test whose server is not installed, naming how to install it; fail it in CI."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{what} is missing here: {how}")
    pytest.skip(f"{what} is missing here: {how}")


def free_port() -> int:
    """Return a free TCP port on loopback."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def wait_for(what: str, condition: Callable[[], bool], seconds: float = 60) -> None:
    """Wait until a condition holds; raise AssertionError after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen within {seconds:.0f} s"
        time.sleep(0.05)


@contextmanager
def radosgw(folder: Path) -> Iterator[S3Server]:
    """Yield a Ceph node in memory with its S3 gateway; starting it takes about 5 s."""
    for program in ("ceph", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin"):
        if shutil.which(program) is None:
            missing(f"radosgw ({program})", "apt-get install radosgw ceph-mon ceph-osd ceph-common")
    port, gateway = free_port(), free_port()
    fsid, osd = str(uuid.uuid4()), str(uuid.uuid4())
    conf = folder / "ceph.conf"
    conf.write_text(CEPH_CONF.format(fsid=fsid, port=port, folder=folder))
    (folder / "mon").mkdir()
    (folder / "osd").mkdir()
    server = S3Server(f"http://127.0.0.1:{gateway}", "test-access", "test-secret")
    user = [
        "--uid=test",
        "--display-name=test",
        "--access-key=test-access",
        "--secret-key=test-secret",
    ]
    frontend = f"beast endpoint=127.0.0.1:{gateway}"
    started: list[subprocess.Popen[bytes]] = []

    def run(*command: str) -> None:
        subprocess.run(
            [command[0], "-c", str(conf), *command[1:]],
            check=True,
            capture_output=True,
            timeout=120,
        )

    def serve(*command: str) -> None:
        with (folder / "output").open("ab") as out:
            started.append(
                subprocess.Popen(
                    [command[0], "-f", "-c", str(conf), *command[1:]], stdout=out, stderr=out
                )
            )

    try:
        monitor = f"[v2:127.0.0.1:{port}]"
        run(
            "monmaptool", "--create", "--fsid", fsid, "--addv", "a", monitor, str(folder / "monmap")
        )
        run("ceph-mon", "--mkfs", "-i", "a", "--monmap", str(folder / "monmap"))
        serve("ceph-mon", "-i", "a")
        run("ceph", "osd", "new", osd)
        run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", osd)
        serve("ceph-osd", "-i", "0")
        run("radosgw-admin", "user", "create", *user)
        serve("radosgw", "--rgw-frontends", frontend, "-n", "client.rgw")
        wait_for("radosgw", lambda: _answers_http(server.endpoint))
        yield server
    finally:
        for process in reversed(started):
            process.kill()  # its data is not kept
            process.wait(30)


@contextmanager
def rabbitmq(folder: Path) -> Iterator[str]:
    """Yield the address of the RabbitMQ on this machine, or of one started for the block."""
    if _answers(RABBITMQ):
        yield RABBITMQ
        return
    with own_rabbitmq(folder) as address:
        yield address


@contextmanager
def own_rabbitmq(folder: Path, settings: str = "") -> Iterator[str]:
    """Yield the address of a RabbitMQ started for the block, with `settings` of the broker."""
    # Debian's script in /usr/sbin switches to the user rabbitmq; this one runs as the caller.
    program = "/usr/lib/rabbitmq/bin/rabbitmq-server"
    if not Path(program).exists():
        missing("RabbitMQ", "apt-get install rabbitmq-server")
        return
    port, distribution = free_port(), free_port()
    address = f"amqp://guest:guest@127.0.0.1:{port}//"
    (folder / "rabbitmq.conf").write_text(f"listeners.tcp.local = 127.0.0.1:{port}\n")
    (folder / "advanced.config").write_text(f"[{{rabbit, [{settings}]}}].\n")
    environment = {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": str(folder),
        "RABBITMQ_NODENAME": f"layerloop{port}@localhost",
        "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
        "RABBITMQ_ADVANCED_CONFIG_FILE": str(folder / "advanced.config"),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "RABBITMQ_DIST_PORT": str(distribution),
        "RABBITMQ_MNESIA_BASE": str(folder),
        "RABBITMQ_LOG_BASE": str(folder),
        "RABBITMQ_PID_FILE": str(folder / "pid"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
        "RABBITMQ_CONF_ENV_FILE": str(folder / "rabbitmq-env.conf"),
        "LC_ALL": "C.UTF-8",
    }
    with _process([program], environment, folder):
        wait_for("RabbitMQ", lambda: _answers(address), 90)
        yield address


@contextmanager
def redis(folder: Path) -> Iterator[str]:
    """Yield the address of the Redis on this machine, or of one started for the block."""
    if _answers(REDIS):
        yield REDIS
        return
    program = shutil.which("redis-server")
    if program is None:
        missing("Redis", "apt-get install redis-server")
        return
    port = free_port()
    address = f"redis://127.0.0.1:{port}/15"
    command = [
        program,
        "--port",
        str(port),
        "--bind",
        "127.0.0.1",
        "--save",
        "",
        "--dir",
        str(folder),
    ]
    with _process(command, {"PATH": "/usr/bin:/bin"}, folder):
        wait_for("Redis", lambda: _answers(address))
        yield address


@contextmanager
def _process(command: list[str], environment: dict[str, str], folder: Path) -> Iterator[None]:
    with (folder / "output").open("ab") as out:
        # A process group of its own: RabbitMQ's server is a child of its shell script.
        process = subprocess.Popen(
            command, env=environment, stdout=out, stderr=out, start_new_session=True
        )
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(30)


def _answers(broker: str) -> bool:
    options = {"socket_connect_timeout": 1} if broker.startswith("redis") else {}
    try:
        with kombu.Connection(broker, connect_timeout=1, transport_options=options) as connection:
            connection.ensure_connection(max_retries=1, interval_start=0, timeout=2)
    except Exception:  # any error means that the broker does not answer
        return False
    return True


def _answers_http(address: str) -> bool:
    try:
        urllib.request.urlopen(address, timeout=2).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True
