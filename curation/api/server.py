"""The HTTP server of the API: uvicorn, with limits on connections that send requests slowly."""

from __future__ import annotations

import asyncio
import resource
import socket
from typing import Final

import h11
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from curation.errors import Refused

OPEN_FILES: Final = 65_536
"""Soft limit of open files to set, if the hard limit allows it."""
RESERVED_FILES: Final = 256
"""Open files that are not HTTP connections: the database, objects, the program itself."""
MAX_CONNECTIONS: Final = 8_192
HEAD_SECONDS: Final = 10.0
"""Longest time for the head of a request, from the connection or from its first byte."""
BODY_SECONDS: Final = 60.0
"""Longest time for the body of a request; bodies are small JSON documents."""


def serve(app: FastAPI, listening_socket: socket.socket) -> None:
    """Serve the API until it is stopped; Ctrl-C raises KeyboardInterrupt.

    Args:
        app: The application.
        listening_socket: A socket that `open_socket` returned.
    """
    host, port = listening_socket.getsockname()[:2]
    uvicorn.Server(server_config(app, host, port)).run(sockets=[listening_socket])


def open_socket(host: str, port: int) -> socket.socket:
    """Bind the address of the API.

    Args:
        host: Host name or address.
        port: Port; 0 takes a free port.

    Raises:
        Refused: The port is in use, or the address does not belong to this machine.
    """
    # Bound before the server starts, so that an error is reported at once.
    listening = None
    try:
        family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, proto)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
    except OSError as error:
        if listening is not None:
            listening.close()
        hint = "if another program uses the port, choose another port (--port, LAYERLOOP_PORT)"
        raise Refused(
            f"the API cannot listen at {host}:{port}: {error.strerror or error}", hint
        ) from error
    return listening


def server_config(app: FastAPI, host: str, port: int) -> uvicorn.Config:
    """Raise the soft limit of open files, and return uvicorn's settings.

    uvicorn's `limit_concurrency` is not used: it returns 503 to all clients once the limit is
    reached, so that a few clients with many connections would block the API.

    Args:
        app: The application.
        host: Host of the bound address.
        port: Port of the bound address.
    """
    most = max_connections(raise_open_file_limit())
    return uvicorn.Config(
        app,
        host=host,
        port=port,
        http=_bounded(most),
        ws="none",
        # The loop accepts this many connections at a time before the protocol counts them.
        backlog=max(16, min(1024, most // 4)),
        # The application logs requests itself (access_log.py).
        log_config=None,
        access_log=False,
        server_header=False,
        # The application adds its own middleware for the proxies that a setting names.
        proxy_headers=False,
    )


def raise_open_file_limit() -> int:
    """Raise the soft limit of open files as far as the hard limit allows, and return it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        return wanted
    return OPEN_FILES if soft == resource.RLIM_INFINITY else soft


def max_connections(open_files: int) -> int:
    """Return the largest number of connections: four fifths of the files that are not reserved."""
    return max(16, min(MAX_CONNECTIONS, (open_files - RESERVED_FILES) * 4 // 5))


class Connections:
    """The open connections of a server.

    Above the limit, the oldest connection without a complete request head is closed.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._waiting: dict[BoundedProtocol, None] = {}  # oldest first
        self._open: set[BoundedProtocol] = set()

    def add(self, connection: BoundedProtocol) -> None:
        """Count a new connection, and close the oldest waiting connection above the limit."""
        self._open.add(connection)
        self.wait(connection)
        # Dictionaries keep the order of insertion.
        if len(self._open) > self._most:
            next(iter(self._waiting)).abort()

    def wait(self, connection: BoundedProtocol) -> None:
        """Mark a connection as waiting for a complete request head; it keeps its position."""
        self._waiting.setdefault(connection)

    def proceed(self, connection: BoundedProtocol) -> None:
        """Mark a connection as having sent a complete head."""
        self._waiting.pop(connection, None)

    def remove(self, connection: BoundedProtocol) -> None:
        """Remove a closed connection."""
        self._open.discard(connection)
        self.proceed(connection)


class BoundedProtocol(H11Protocol):
    """uvicorn's HTTP protocol with time limits for heads and bodies, which uvicorn lacks."""

    known: Connections

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start waiting for the first request."""
        self._timer: asyncio.TimerHandle | None = None
        self._state: object = None
        super().connection_made(transport)  # type: ignore[arg-type]
        self.known.add(self)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop counting the connection."""
        self.known.remove(self)
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Process data; the time limit runs from the beginning of a head or a body."""
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """Wait for the next request; uvicorn itself closes idle connections."""
        super().on_response_complete()
        self._stop_timer()
        self._state = None
        self.known.wait(self)

    def abort(self) -> None:
        """Close the connection at once, without a response."""
        self.known.remove(self)
        self._stop_timer()
        if not self.transport.is_closing():
            self.transport.abort()

    def _watch(self) -> None:
        """Set the timer when a request has reached its next part."""
        state = self.conn.their_state
        if state is self._state or self.transport.is_closing():
            return
        self._stop_timer()
        self._state = state
        if state is h11.IDLE:
            self.known.wait(self)
            self._timer = self.loop.call_later(HEAD_SECONDS, self.abort)
        else:
            self.known.proceed(self)
            if state is h11.SEND_BODY:
                self._timer = self.loop.call_later(BODY_SECONDS, self.abort)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _bounded(most: int) -> type[asyncio.Protocol]:
    """Return a subclass of the protocol with its own set of connections."""
    return type("Bounded", (BoundedProtocol,), {"known": Connections(most)})
