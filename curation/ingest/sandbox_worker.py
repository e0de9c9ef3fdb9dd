"""The confined worker process: load a function, confine the process, then serve requests."""

from __future__ import annotations

import importlib
import os
import socket
import sys
from collections.abc import Callable
from typing import Final

from curation.ingest.confinement import confine
from curation.ingest.sandbox_wire import (
    ConnectionClosedError,
    InvalidMessageError,
    Message,
    receive_request,
    send_response,
)

THREADS: Final = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
"""Thread counts of numerical libraries, set to 1: a confined process can start no threads."""


def main(handle: int, parent: int) -> None:
    """Serve requests of the process at the other end of a socket.

    Args:
        handle: File descriptor of the socket.
        parent: ID of the process whose end ends this one.
    """
    channel = socket.socket(fileno=handle)
    try:
        # Import the function and its libraries, while files can still be opened.
        start = receive_request(channel).metadata
        for name in THREADS:
            os.putenv(name, "1")
        function = _load(start["function"])
        if cv2 := sys.modules.get("cv2"):
            cv2.setNumThreads(1)
        if start["warm_up"] is not None:
            _load(start["warm_up"])()
        for name in THREADS:
            os.unsetenv(name)
        # Confine the process and report the granted parts.
        granted = confine(parent, start["memory"])
        send_response(channel, Message({"granted": granted}))
        # Serve requests until the parent closes the socket.
        while True:
            response = _run(function, receive_request(channel))
            try:
                send_response(channel, response)
            # Encoding failed, so nothing was sent yet.
            except (InvalidMessageError, TypeError, ValueError) as error:
                send_response(channel, Message({"failed": "raised", "detail": _describe(error)}))
    except (ConnectionClosedError, BrokenPipeError, ConnectionResetError):
        return
    # An error before the first request is a bug of the application; the parent reports it.
    except Exception as error:
        send_response(channel, Message({"broken": f"{type(error).__name__}: {error}"[:1000]}))


def _run(function: Callable[[Message], Message], request: Message) -> Message:
    """Return the function's response, or its exception, which does not end the worker."""
    try:
        response = function(request)
        return Message({"answer": response.metadata}, response.parts)
    except MemoryError:
        return Message({"failed": "memory"})
    except Exception as error:
        return Message({"failed": "raised", "detail": _describe(error)})


def _describe(error: Exception) -> str:
    # An exception's own __str__ may raise.
    try:
        return f"{type(error).__name__}: {error}"[:500]
    except Exception:
        return type(error).__name__


def _load(name: str) -> Callable[..., Message]:
    module, _, attribute = name.partition(":")
    found: Callable[..., Message] = getattr(importlib.import_module(module), attribute)
    return found


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
