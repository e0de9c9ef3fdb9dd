"""One confined process of the sandbox, its limits and the causes of its failures."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, TypeVar

from curation.errors import LayerloopError
from curation.ingest.sandbox_wire import (
    ConnectionClosedError,
    InvalidMessageError,
    Message,
    receive_response,
    send_request,
)

Item = TypeVar("Item")
Result = TypeVar("Result")
Function = Callable[[Message], Message]

CPU_SECONDS: Final = 30
"""CPU time per item; a file of the largest allowed size takes about a third of it (measured)."""

WALL_SECONDS: Final = 120.0
"""Wall-clock time per item; on a busy machine a worker gets only a share of a core."""

START_SECONDS: Final = 120.0
"""Wall-clock time for the start of a worker."""

MEMORY: Final = 1536 << 20
"""Bytes of address space per worker beyond its start: six times the largest allowed image."""

MAX_RESPONSE_BYTES: Final = 512 << 20
"""Bytes of one response: the three layers of a pair of the largest size, as pixels."""


# -I excludes modules from the working directory and the environment; the parent passes its path.
_START: Final = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[3]); "
    "from curation.ingest.sandbox_worker import main; main(int(sys.argv[1]), int(sys.argv[2]))"
)


class FailureCause(StrEnum):
    """Why an item has no result."""

    crashed = "crashed"  # the worker ended during the item
    timed_out = "timed_out"  # it exceeded the limit of CPU or wall-clock time
    memory = "memory"  # it exceeded the memory limit
    raised = "raised"  # the function raised another exception
    bad_answer = "bad_answer"  # the response is invalid, too large, or `parse` refused it
    not_loaded = "not_loaded"  # `load` raised, so no worker received the item


@dataclass(frozen=True)
class ItemFailure:
    """Failure of an item.

    Attributes:
        cause: Why there is no result.
        detail: Untrusted text for the log.
        error: The exception that `load` raised.
    """

    cause: FailureCause
    detail: str = ""
    error: Exception | None = None


@dataclass(frozen=True)
class SandboxLimits:
    """Resource limits of a worker: the memory in total, the others per item."""

    cpu_seconds: int = CPU_SECONDS
    wall_seconds: float = WALL_SECONDS
    memory: int = MEMORY
    answer_bytes: int = MAX_RESPONSE_BYTES


DEFAULT_LIMITS: Final = SandboxLimits()


class Worker:
    """One confined process and the socket to it; only `kill` may be called from another thread."""

    def __init__(self, start: dict[str, object], limits: SandboxLimits) -> None:
        """Start the process, and wait until it is confined.

        Args:
            start: First message: names of function and warm-up, and the memory limit.
            limits: Resource limits per item.

        Raises:
            LayerloopError: The process cannot be started.
        """
        self._limits = limits
        self.has_ended = False
        self._channel, child_channel = socket.socketpair()
        handle = child_channel.fileno()
        options = ("-I", "-X", "utf8", "-c")
        try:
            # A session of its own: Ctrl-C reaches only the parent, and there is no terminal.
            self._process = subprocess.Popen(
                [sys.executable, *options, _START, str(handle), str(os.getpid()), _path()],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                pass_fds=[handle], env={}, cwd="/", start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            self._channel.close()
            raise _not_started(str(error)) from error
        finally:
            child_channel.close()
        self.granted = self._begin(start)

    def _begin(self, start: dict[str, object]) -> dict[str, object]:
        """Send the first message and return the granted parts of the confinement."""
        deadline = time.monotonic() + START_SECONDS
        try:
            send_request(self._channel, Message(start), deadline)
            ready = receive_response(self._channel, 0, deadline).metadata
            granted = ready.get("granted")
            reason = str(ready.get("broken"))
        except (ConnectionClosedError, InvalidMessageError, OSError) as error:
            granted, reason = None, type(error).__name__
        if not isinstance(granted, dict):
            self.close()
            raise _not_started(reason)
        return granted

    def ask(self, request: Message) -> Message | ItemFailure:
        """Send one request and return the response, or the failure after killing the worker."""
        deadline = time.monotonic() + self._limits.wall_seconds
        self._allow_cpu()
        try:
            # A worker that ended while sending may have left a response.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                send_request(self._channel, request, deadline)
            response = receive_response(self._channel, self._limits.answer_bytes, deadline)
            return self._unwrap(response)
        except TimeoutError:
            failure = ItemFailure(FailureCause.timed_out)
        except InvalidMessageError as error:
            failure = ItemFailure(FailureCause.bad_answer, str(error))
        except (ConnectionClosedError, OSError):
            # It ends by itself; its exit status shows whether it exceeded the CPU time.
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(1)
            failure = ItemFailure(
                FailureCause.timed_out if self.close() == -signal.SIGXCPU else FailureCause.crashed
            )
        self.close()
        return failure

    def _unwrap(self, response: Message) -> Message | ItemFailure:
        """Return the function's response, or the failure that the worker reports."""
        if isinstance(content := response.metadata.get("answer"), dict):
            return Message(content, response.parts)
        failed = response.metadata.get("failed")
        if failed == "memory":
            return ItemFailure(FailureCause.memory)
        if failed == "raised":
            return ItemFailure(FailureCause.raised, str(response.metadata.get("detail"))[:1000])
        raise InvalidMessageError("the response has an unknown form")

    def _allow_cpu(self) -> None:
        """Set the CPU time limit of the process to its usage so far plus that of one item."""
        if sys.platform == "linux":
            # An OSError means that the process has ended, which the next message reports.
            with contextlib.suppress(OSError):
                # The clock of its CPU time; clock_getcpuclockid computes the ID like this.
                used = time.clock_gettime((~self._process.pid << 3) | 2)
                until = int(used) + 1 + self._limits.cpu_seconds
                resource.prlimit(
                    self._process.pid, resource.RLIMIT_CPU, (until, resource.RLIM_INFINITY)
                )

    def kill(self) -> None:
        """Kill the process, from any thread."""
        self.has_ended = True
        self._process.kill()

    def close(self) -> int:
        """Kill the process and return its exit status."""
        self.has_ended = True
        self._process.kill()
        self._channel.close()
        return self._process.wait()


def _not_started(reason: str) -> LayerloopError:
    return LayerloopError(f"no confined process can be started: {reason}", "run 'layerloop doctor'")


def _path() -> str:
    # An empty entry means the working directory.
    return json.dumps([os.path.abspath(entry) for entry in sys.path])  # noqa: PTH100
