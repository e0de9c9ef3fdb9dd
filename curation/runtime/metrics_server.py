"""A small HTTP server of a worker for its metrics and its health."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address

from curation import __version__
from curation.errors import Refused
from curation.runtime.context import AppContext
from curation.runtime.gpu_metrics import register_gpu_metrics
from curation.runtime.health import Readiness, is_ready
from curation.runtime.metrics import CONTENT_TYPE, is_metrics_token, render_metrics
from curation.settings import Settings

log = logging.getLogger("layerloop.metrics")

SOCKET_SECONDS = 10


@contextmanager
def serve_worker_metrics(context: AppContext, port: int | None) -> Iterator[int | None]:
    """Serve /metrics, /live and /ready of this process while the block runs.

    Args:
        context: The app context.
        port: The port; 0 takes a free one, None serves nothing.

    Yields:
        The port, or None.

    Raises:
        Refused: The port is in use.
    """
    if port is None:
        yield None
        return
    readiness = Readiness(context)
    host = context.settings.metrics_host
    try:
        server = ThreadingHTTPServer((host, port), _handler(context.settings, readiness))
    except OSError as error:
        raise Refused(
            f"the metrics cannot be served at {host}:{port}: {error.strerror or error}",
            "choose another port (--metrics-port, LAYERLOOP_METRICS_PORT)",
        ) from error
    server.daemon_threads = True
    register_gpu_metrics()
    thread = threading.Thread(target=server.serve_forever, name="metrics", daemon=True)
    thread.start()
    log.info("metrics and health at http://%s:%d", host, server.server_port)
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        readiness.close()


def _handler(settings: Settings, readiness: Readiness) -> type[BaseHTTPRequestHandler]:
    """Return the handler of requests; it knows three paths."""

    class Handler(BaseHTTPRequestHandler):
        timeout = SOCKET_SECONDS
        server_version = "layerloop"
        sys_version = ""

        def do_GET(self) -> None:
            """Answer a request."""
            path = self.path.partition("?")[0]
            if path == "/metrics":
                self._metrics()
            elif path == "/live":
                self._json(200, {"status": "ok", "version": __version__})
            elif path == "/ready":
                parts = readiness.check()
                ready = is_ready(parts)
                status = "ok" if ready else "unavailable"
                self._json(200 if ready else 503, {"status": status, "parts": parts})
            else:
                self._json(404, {"error": "not found"})

        def _metrics(self) -> None:
            header = self.headers.get("authorization", "")
            if settings.metrics_token is None and not _is_loopback(settings.metrics_host):
                self._json(404, {"error": "metrics are off: set LAYERLOOP_METRICS_TOKEN"})
            elif settings.metrics_token is not None and not is_metrics_token(settings, header):
                self._json(401, {"error": "this is not the metrics token"})
            else:
                self._send(200, CONTENT_TYPE, render_metrics())

        def _json(self, status: int, value: object) -> None:
            self._send(status, "application/json", json.dumps(value).encode())

        def _send(self, status: int, kind: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Log a request at the level debug."""
            log.debug(format, *args)

    return Handler


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
