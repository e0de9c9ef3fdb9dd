"""The local stack: PostgreSQL, API, front end and two workers on one machine."""

from __future__ import annotations

import io
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import sqlalchemy as sa

from curation.adapters import embedded_postgres
from curation.db import leases
from curation.domain import Role
from curation.errors import LayerloopError, NotFound, Unreachable
from curation.logs import logging_to
from curation.review import reviewers
from curation.runtime import lease_holders
from curation.runtime.context import AppContext, open_context
from curation.runtime.log_files import open_log, rotate_log
from curation.runtime.moved import check_not_moved
from curation.runtime.supervisor import LOGGER, Supervisor, exclusive_home, graceful_sigterm
from curation.settings import Settings

START_SECONDS = 60
RETRY_SECONDS = 120
TOKEN_MINUTES = 24 * 60

Result = TypeVar("Result")


@dataclass(frozen=True)
class LocalStack:
    """A running instance: its app context and the address of its front end."""

    context: AppContext
    address: str

    def sign_in_url(self) -> str:
        """Return a one-time link that signs in the owner, an admin who is created if missing."""
        with self.context.database.transaction() as tx:
            try:
                owner = reviewers.find_reviewer(tx, "owner")
            except NotFound:
                owner = reviewers.add_reviewer(tx, "owner", Role.admin)
            return f"{self.address}/sign-in?token={reviewers.issue_token(tx, owner, TOKEN_MINUTES)}"

    def retry_while_db_down(self, work: Callable[[], Result]) -> Result:
        """Call resumable work, and call it again while the database restarts.

        Args:
            work: The work; it must be idempotent.

        Returns:
            The result of the work.

        Raises:
            Unreachable: The database did not come back within RETRY_SECONDS.
        """
        deadline = time.monotonic() + RETRY_SECONDS
        while True:
            try:
                return work()
            except (Unreachable, sa.exc.OperationalError):
                if time.monotonic() > deadline:
                    raise
                time.sleep(1)

    def wait(self) -> None:
        """Wait until Ctrl-C or SIGTERM."""
        while True:
            time.sleep(3600)


@contextmanager
def run_local_stack(settings: Settings) -> Iterator[LocalStack]:
    """Start the database, API and workers, and stop them in order at the end of the block.

    They are also stopped after an error, Ctrl-C or SIGTERM.

    Args:
        settings: The settings of the instance; a port that is 0 or in use is replaced.

    Yields:
        The running stack.

    Raises:
        LayerloopError: The home is in use already, or the API does not start.
    """
    settings = settings.model_copy(update={"port": settings.port or _free_port(settings.host)})
    if not _is_free(settings.host, settings.port):
        settings = settings.model_copy(update={"port": _free_port(settings.host)})
    # Two workers on one machine cannot have one port.
    if settings.metrics_port is not None:
        settings = settings.model_copy(update={"metrics_port": 0})
    with (
        graceful_sigterm(),
        exclusive_home(settings.path(".")),
        open_context(settings) as context,
        _supervisor_log(settings),
    ):
        check_not_moved(context.database)
        _release_stale_leases(context)
        supervisor = Supervisor(settings.environment())
        logs = settings.path("logs")
        try:
            supervisor.start("api", ["api"], logs / "api.log")
            supervisor.start("worker cpu", ["worker", "--queue", "cpu"], logs / "worker-cpu.log")
            supervisor.start("worker gpu", ["worker", "--queue", "gpu"], logs / "worker-gpu.log")
            # The embedded PostgreSQL is no child process, so a restart needs a check of its own.
            if settings.embedded:
                supervisor.add_health_check(lambda: _ensure_postgres(settings))
            address = f"http://{settings.host}:{settings.port}"
            _wait_for(address, logs / "api.log")
            yield LocalStack(context, address)
        finally:
            supervisor.stop()


@contextmanager
def _supervisor_log(settings: Settings) -> Iterator[None]:
    """Log what happens to the processes to logs/supervisor.log, and warnings to stderr too."""
    secrets = settings.secret_values()
    path = settings.path("logs") / "supervisor.log"
    with (
        io.TextIOWrapper(open_log(path), write_through=True) as file,
        logging_to(file, LOGGER, settings.log_format, settings.log_level, secrets),
        logging_to(sys.stderr, LOGGER, "text", "warning", secrets),
    ):
        yield


def _release_stale_leases(context: AppContext) -> None:
    """Release the leases of processes that have ended."""
    # All holders of an embedded home are on this machine, where living ones have a marker.
    if context.settings.embedded:
        alive = lease_holders.live_holders(context.settings.path("holders"))
        with context.database.transaction() as tx:
            leases.release_workers(tx, alive)


def _ensure_postgres(settings: Settings) -> None:
    """Start the embedded PostgreSQL if it is not running, and bound its log."""
    if not embedded_postgres.is_running(settings.path("postgres")):
        embedded_postgres.start_server(settings.path("postgres"))
    rotate_log(settings.path("postgres") / "data" / "server.log")


def _wait_for(address: str, log: object) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        try:
            # Our own loopback address.
            with urllib.request.urlopen(f"{address}/api/health", timeout=2):  # noqa: S310
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise LayerloopError(f"the API does not answer at {address}", f"see {log}")


def _is_free(host: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def _free_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])
