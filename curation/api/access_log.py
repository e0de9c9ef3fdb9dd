"""The access log of the API: one record a request, with a request id, its status and its time."""

from __future__ import annotations

import logging
import re
import time
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from curation.logs import log_context
from curation.runtime.metrics import HTTP_SECONDS
from curation.runtime.tracing import span

log = logging.getLogger("layerloop.access")

REQUEST_ID = "x-request-id"
QUIET_PATHS = ("/metrics", "/api/live", "/api/ready", "/api/health", "/static/")
"""Paths whose requests are logged at the level debug: probes and static files."""

MAX_PATH_CHARACTERS = 300

_ACCEPTED_ID = re.compile(r"[A-Za-z0-9._-]{8,64}")


class AccessLog:
    """ASGI middleware that logs and measures every request; it is the outermost one.

    A request keeps the id that a proxy gave it in X-Request-Id, or gets a new one; the id is a
    field of every record of the request, and a header of the response. Queries and headers are
    never logged, since they hold tokens and signatures.

    Args:
        app: The application.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and log it when its response has been sent."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get(REQUEST_ID, "")
        request_id = given if _ACCEPTED_ID.fullmatch(given) else uuid.uuid4().hex
        status = 500
        started = time.perf_counter()

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[REQUEST_ID] = request_id
            await send(message)

        with span("request", headers=headers) as trace, log_context(request_id=request_id):
            try:
                await self.app(scope, receive, send_with_id)
            finally:
                _record(scope, status, time.perf_counter() - started)
                trace.rename(f"{scope['method']} {_route(scope)}")
                trace.add({"http.response.status_code": status, "request_id": request_id})


def _record(scope: Scope, status: int, seconds: float) -> None:
    """Log a request and add it to the metrics."""
    method, path, route = scope["method"], scope["path"], _route(scope)
    # A method is free text of the client, and every value of a label is kept for good.
    known = method in {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
    HTTP_SECONDS.labels(method if known else "other", route, str(status)).observe(seconds)
    level = logging.WARNING if status >= 500 else logging.INFO
    if path.startswith(QUIET_PATHS) and status < 500:
        level = logging.DEBUG
    client = scope.get("client")
    log.log(
        level,
        "%s %s %d",
        method[:20],
        path[:MAX_PATH_CHARACTERS],
        status,
        extra={
            "route": route,
            "status": status,
            "milliseconds": round(seconds * 1000, 1),
            "client": client[0] if client else None,
        },
    )


def _route(scope: Scope) -> str:
    """Return the template of the route that handled a request, such as /api/rounds/{number}."""
    route = getattr(scope.get("route"), "path", None)
    if route is not None:
        return str(route)
    return "/static" if scope["path"].startswith("/static/") else "unmatched"
