"""A proxy before an S3 server that counts requests, delays them, and fails as a test asks."""

from __future__ import annotations

import http.client
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlparse

Fault = Callable[[str, int], str | None]
"""Given the method and the number of the request: None, a status such as "503", or one of FAULTS."""

FAULTS = ("reset", "slow", "wrong", "truncated", "lost")
"""Reset before the request, slow, wrong or half the bytes of a GET, and a lost answer."""

SLOW_SECONDS = 0.4


class S3Proxy:
    """What a test may change and read while the proxy runs."""

    def __init__(self, endpoint: str, upstream: str) -> None:
        self.endpoint = endpoint
        self.upstream = urlparse(upstream).netloc
        self.delay = 0.0
        self.hidden: frozenset[str] = frozenset()
        """Headers, in lower case, that clients do not see."""
        self.fault: Fault = lambda _method, _number: None
        self.requests = 0
        self.faults = 0
        self.read: Counter[str] = Counter()
        self.lock = threading.Lock()


@contextmanager
def s3_proxy(upstream: str) -> Iterator[S3Proxy]:
    """Run a proxy on a free port of loopback for the block."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_one(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            with proxy.lock:
                proxy.requests += 1
                fault = proxy.fault(self.command, proxy.requests)
                proxy.faults += fault is not None
            time.sleep(proxy.delay + (SLOW_SECONDS if fault == "slow" else 0))
            if fault == "reset":
                self.close_connection = True
                self.connection.close()
                return
            if fault is not None and fault.isdigit():
                self.answer(int(fault), {}, b"")
                return
            connection = http.client.HTTPConnection(proxy.upstream, timeout=60)
            # The signature covers the host that the client named.
            connection.putrequest(
                self.command, self.path, skip_host=True, skip_accept_encoding=True
            )
            for name, value in self.headers.items():
                if name.lower() not in {"connection", "expect"}:
                    connection.putheader(name, value)
            connection.endheaders(body or None)
            answered = connection.getresponse()
            data = answered.read()
            connection.close()
            if fault == "lost":
                self.close_connection = True
                self.connection.close()
                return
            if fault == "wrong" and data:
                data = bytes([data[0] ^ 1]) + data[1:]
            if self.command == "GET" and answered.status == 200:
                with proxy.lock:
                    proxy.read[self.path] += 1
            cut = fault == "truncated" and self.command == "GET" and len(data) > 1
            self.answer(answered.status, dict(answered.getheaders()), data, cut=cut)

        def answer(
            self, status: int, headers: dict[str, str], data: bytes, *, cut: bool = False
        ) -> None:
            self.send_response_only(status)
            for name, value in headers.items():
                if name.lower() not in proxy.hidden | {
                    "connection",
                    "content-length",
                    "transfer-encoding",
                }:
                    self.send_header(name, value)
            length = headers.get("Content-Length") if self.command == "HEAD" else None
            self.send_header("Content-Length", length or str(len(data)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data[: len(data) // 2] if cut else data)
            self.close_connection |= cut

        do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = handle_one

        def log_message(self, *_: object) -> None:
            pass

        def handle_expect_100(self) -> bool:
            self.send_response_only(100)
            self.end_headers()
            return True

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

        def handle_error(self, *_: object) -> None:
            pass  # a client that was reset

    server = Server(("127.0.0.1", 0), Handler)
    proxy = S3Proxy(f"http://127.0.0.1:{server.server_address[1]}", upstream)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        server.shutdown()
        server.server_close()
