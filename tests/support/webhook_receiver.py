"""A real receiver of webhooks on loopback, which verifies signatures by the library."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from standardwebhooks import Webhook


class Receiver:
    """The requests that a receiver received, and its responses."""

    def __init__(self) -> None:
        self.secret = ""
        self.statuses: list[int] = []  # of the next requests; 204 after them
        self.headers: dict[str, str] = {}
        self.pause = threading.Event()  # set: answer at once
        self.pause.set()
        self.received: list[tuple[str, Any]] = []  # ids and verified payloads
        self.requests: list[dict[str, str]] = []
        self.url = ""


@contextmanager
def receiver(context: ssl.SSLContext | None = None) -> Iterator[Receiver]:
    """Serve a receiver on a free port, with TLS if a context is given."""
    found = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            found.requests.append(headers)
            found.pause.wait(30)
            if found.secret:
                payload = Webhook(found.secret).verify(body, headers)
                found.received.append((headers["webhook-id"], payload))
            self.send_response(found.statuses.pop(0) if found.statuses else 204)
            for name, value in found.headers.items():
                self.send_header(name, value)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    scheme = "http" if context is None else "https"
    found.url = f"{scheme}://127.0.0.1:{server.server_port}/hook"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        found.pause.set()
        server.shutdown()
        server.server_close()
        thread.join(10)
