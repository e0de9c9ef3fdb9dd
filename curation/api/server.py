"""The HTTP server of the API: uvicorn, with bounds for connections that never send a whole request."""

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
"""Soft limit of open files to ask for, where the hard limit allows it."""
RESERVED_FILES: Final = 256
"""Open files for what is no connection: the database, objects, the program itself."""
MAX_CONNECTIONS: Final = 8_192
HEAD_SECONDS: Final = 10.0
"""How long a request's head may take, from the connection or from its first byte on a kept one."""
BODY_SECONDS: Final = 60.0
"""How long its body may take; bodies are small JSON documents."""


def serve(app: FastAPI, listening: socket.socket) -> None:
    """Serve the API at a socket of `open_socket` until it is stopped; Ctrl-C raises KeyboardInterrupt."""
    host, port = listening.getsockname()[:2]
    uvicorn.Server(server_config(app, host, port)).run(sockets=[listening])


def open_socket(host: str, port: int) -> socket.socket:
    """Bind the address that the API listens at.

    Raises:
        Refused: It is taken, or is none of this machine.
    """
    listening = None
    try:
        family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, proto)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
    except OSError as error:
        if listening is not None:
            listening.close()
        hint = "another program listens there: choose another port (--port, LAYERLOOP_PORT)"
        raise Refused(
            f"the API cannot listen at {host}:{port}: {error.strerror or error}", hint
        ) from error
    return listening


def server_config(app: FastAPI, host: str, port: int) -> uvicorn.Config:
    """Return uvicorn's settings, after raising the soft limit of open files to the hard one.

    `limit_concurrency` is not used: it answers 503 to everybody once so many connections are open, and so does the work
    of whoever holds them.
    """
    most = max_connections(raise_open_files())
    return uvicorn.Config(
        app,
        host=host,
        port=port,
        http=_bounded(most),
        ws="none",
        # The loop accepts so many at a time before it hands any of them on: they count too.
        backlog=max(16, min(1024, most // 4)),
        log_level="warning",
        server_header=False,
        proxy_headers=False,  # the application believes the proxies that a setting names, and no others
    )


def raise_open_files() -> int:
    """Raise the soft limit of open files as far as the hard limit allows; return the soft limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        return wanted
    return OPEN_FILES if soft == resource.RLIM_INFINITY else soft


def max_connections(open_files: int) -> int:
    """Return how many connections may be open: four fifths of the files that are not reserved."""
    return max(16, min(MAX_CONNECTIONS, (open_files - RESERVED_FILES) * 4 // 5))


class Connections:
    """The open connections of a server; when there are too many, those without a whole request give way to new ones."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._waiting: dict[BoundedProtocol, None] = {}  # oldest first
        self._open: set[BoundedProtocol] = set()

    def add(self, connection: BoundedProtocol) -> None:
        """Count a new connection; when there are too many, the oldest one without a whole request is closed."""
        self._open.add(connection)
        self.wait(connection)
        if len(self._open) > self._most:
            next(iter(self._waiting)).abort()

    def wait(self, connection: BoundedProtocol) -> None:
        """Note that a connection has no whole head of a request, unless that is noted already."""
        self._waiting.setdefault(connection)

    def proceed(self, connection: BoundedProtocol) -> None:
        """Note that a connection has sent a whole head."""
        self._waiting.pop(connection, None)

    def remove(self, connection: BoundedProtocol) -> None:
        """Forget a connection that was lost."""
        self._open.discard(connection)
        self.proceed(connection)


class BoundedProtocol(H11Protocol):
    """uvicorn's protocol, with a limit of time for heads and bodies, which uvicorn has not."""

    known: Connections

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to wait for the first request."""
        self._timer: asyncio.TimerHandle | None = None
        self._state: object = None
        super().connection_made(transport)  # type: ignore[arg-type]
        self.known.add(self)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        self.known.remove(self)
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read on; the time for a head or a body runs from its beginning, however little comes at a time."""
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """Wait for the next request; uvicorn itself closes what stays silent then."""
        super().on_response_complete()
        self._stop_timer()
        self._state = None
        self.known.wait(self)

    def abort(self) -> None:
        """Close at once, without an answer."""
        self.known.remove(self)
        self._stop_timer()
        if not self.transport.is_closing():
            self.transport.abort()

    def _watch(self) -> None:
        """Set the timer anew where the request has come from one part to the next."""
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
    """Return the protocol with connections of its own to count."""
    return type("Bounded", (BoundedProtocol,), {"known": Connections(most)})
