"""The confined process: load a function, give up everything else, then answer requests until there are no more."""

from __future__ import annotations

import importlib
import os
import socket
import sys
from collections.abc import Callable
from typing import Final

from curation.ingest.confinement import confine
from curation.ingest.sandbox_wire import BadMessage, Closed, Message, receive_request, send_answer

THREADS: Final = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
"""Numerical libraries must start no threads of their own: after the confinement none can be made."""


def main(handle: int, parent: int) -> None:
    """Serve the process at the other end of a socket.

    Args:
        handle: The descriptor of the socket.
        parent: The process to live and die with.
    """
    channel = socket.socket(fileno=handle)
    try:
        order = receive_request(channel).facts
        for name in THREADS:
            os.putenv(name, "1")
        function = _load(order["function"])
        if cv2 := sys.modules.get("cv2"):
            cv2.setNumThreads(1)
        if order["warm_up"] is not None:
            _load(order["warm_up"])()
        for name in THREADS:
            os.unsetenv(name)
        granted = confine(parent, order["memory"])
        send_answer(channel, Message({"granted": granted}))
        while True:
            answer = _answer(function, receive_request(channel))
            try:
                send_answer(channel, answer)
            except (BadMessage, TypeError, ValueError) as error:  # nothing of it was sent
                send_answer(channel, Message({"failed": "raised", "detail": _told(error)}))
    except (Closed, BrokenPipeError, ConnectionResetError):
        return
    except Exception as error:  # before the first request: our own mistake, which the parent tells
        send_answer(channel, Message({"broken": f"{type(error).__name__}: {error}"[:1000]}))


def _answer(function: Callable[[Message], Message], request: Message) -> Message:
    """Return what the function answers, or what it raised: that is the item's result, never an end of the worker."""
    try:
        answer = function(request)
        return Message({"answer": answer.facts}, answer.parts)
    except MemoryError:
        return Message({"failed": "memory"})
    except Exception as error:
        return Message({"failed": "raised", "detail": _told(error)})


def _told(error: Exception) -> str:
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
