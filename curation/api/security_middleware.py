"""Security middleware: checks on every request, and headers on every response."""

from __future__ import annotations

import ipaddress
import logging

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from curation.text import escape_control_characters

log = logging.getLogger("layerloop.api")

MAX_BODY_BYTES = 64 * 1024
"""Largest body in bytes: 48 decisions have 12 KB, and the front end limits comments to 40 KB."""

MAX_MESSAGE_CHARACTERS = 1_000
"""Longest message of an error in characters, since errors quote the request."""

HEADERS = {
    "content-security-policy": (
        "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=()",
}
"""Default headers; pages set a content security policy of their own, and images a cache time."""


STRICT_TRANSPORT = {"strict-transport-security": "max-age=31536000; includeSubDomains"}
"""The header that makes browsers use https alone for a year."""


class SecurityMiddleware:
    """ASGI middleware for host checks, CSRF protection, body limits and response headers.

    If the API listens on loopback, only requests to loopback names are accepted; otherwise a
    foreign site could map its own name to 127.0.0.1 and read responses (DNS rebinding). Changing
    requests need the header "X-Layerloop", which a browser does not send for another site without
    a CORS preflight (CSRF).

    Plain ASGI, since Starlette's BaseHTTPMiddleware takes more CPU time than these checks.

    Args:
        app: The application.
        host: The host that the API listens on.
        https: Browsers reach the API by https, and are instructed to use nothing else (HSTS).
    """

    def __init__(self, app: ASGIApp, *, host: str, https: bool = False) -> None:
        self.app = app
        self.headers = HEADERS | (STRICT_TRANSPORT if https else {})
        self.loopback_only = is_loopback(host)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse a request or pass it on; every response gets the headers, also after errors."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        api = scope["path"].startswith("/api/")
        started = False
        # HEAD is handled as GET without the body. The scope is copied: uvicorn needs its own.
        head = scope["method"] == "HEAD"
        if head:
            scope = dict(scope, method="GET")

        async def send_with_headers(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                for name, value in self.headers.items():
                    headers.setdefault(name, value)
                if api:
                    headers.setdefault("cache-control", "no-store")
            elif head and message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        refusal = self._refusal(scope, api=api)
        if refusal is not None:
            await refusal(scope, receive, send_with_headers)
            return
        # An unexpected error gets a response here, unless the response has started.
        try:
            await self.app(scope, receive, send_with_headers)
        except Exception:
            log.exception("%s %s failed", scope["method"], scope["path"])
            if started:
                raise
            response = error_response(500, "internal error", "the server's log has the details")
            await response(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope, *, api: bool) -> JSONResponse | None:
        headers = Headers(scope=scope)
        # DNS rebinding.
        if self.loopback_only and not is_loopback(_name(headers.get("host", ""))):
            return error_response(
                421, "this server accepts only loopback hosts", "use 127.0.0.1 or localhost"
            )
        # CSRF.
        changing = scope["method"] not in {"GET", "HEAD", "OPTIONS"}
        if changing and api and "x-layerloop" not in headers:
            return error_response(
                403, "the header X-Layerloop is missing", "send 'X-Layerloop: 1' with all changes"
            )
        # Bodies are limited for all methods, since the server reads them all.
        if "transfer-encoding" in headers:
            return error_response(411, "the request has no length", "send a Content-Length")
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > MAX_BODY_BYTES:
            return error_response(
                413, f"the body has more than {MAX_BODY_BYTES} bytes", "send smaller requests"
            )
        return None


def error_response(
    status: int, message: str, hint: str = "", headers: dict[str, str] | None = None
) -> JSONResponse:
    """Return the JSON response of an error; its texts are shortened and escaped.

    Args:
        status: HTTP status.
        message: The problem.
        hint: How to resolve it.
        headers: Additional headers.
    """
    detail = {
        "message": escape_control_characters(message[:MAX_MESSAGE_CHARACTERS]),
        "hint": escape_control_characters(hint[:MAX_MESSAGE_CHARACTERS]),
    }
    return JSONResponse({"error": detail}, status_code=status, headers=headers)


def is_loopback(name: str) -> bool:
    """Return whether a host name or address is the loopback interface."""
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False


def _name(host: str) -> str:
    """Return the name in a Host header, without its port."""
    return (
        host.partition("]")[0].lstrip("[")
        if host.startswith("[")
        else host.partition(":")[0].lower()
    )
