"""Security middleware: checks of every request and headers of every response."""

from __future__ import annotations

import ipaddress
import logging

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from curation.text import printable

log = logging.getLogger("layerloop.api")

LARGEST_BODY = 64 * 1024
"""Bytes of one request; a contact sheet of 48 decisions has 12 KB, and the page keeps comments below 40."""

LONGEST_MESSAGE = 1_000
"""Characters of an error's sentence; a request may name things of any length."""

HEADERS = {
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=()",
}
"""Filled in where an answer does not bring its own: pages bring a content policy, layers bring a cache time."""


class SecurityMiddleware:
    """ASGI middleware; a class of Starlette's own would cost more CPU than all that it checks.

    On loopback, only requests addressed to loopback are answered: else a page of a stranger's
    site could rebind its own name to 127.0.0.1 and read along (DNS rebinding). A request that changes something must
    bear the header "X-Layerloop", which no other site can make a browser send without asking first (CSRF).
    """

    def __init__(self, app: ASGIApp, *, host: str) -> None:
        self.app = app
        self.loopback_only = is_loopback(host)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse, or pass on; whatever is answered gets the headers, an unexpected error too."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        api = scope["path"].startswith("/api/")
        started = False
        # HEAD is GET without the body; uvicorn keeps the original scope and counts no bytes for it.
        head = scope["method"] == "HEAD"
        if head:
            scope = dict(scope, method="GET")  # the caller's own stays as it is

        async def send_guarded(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                if api:
                    headers.setdefault("cache-control", "no-store")
            elif head and message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        refusal = self._refusal(scope, api=api)
        if refusal is not None:
            await refusal(scope, receive, send_guarded)
            return
        try:
            await self.app(scope, receive, send_guarded)
        except Exception:
            log.exception("%s %s failed", scope["method"], scope["path"])
            if started:
                raise
            await error_answer(
                500, "something went wrong in the server", "its log has the details"
            )(scope, receive, send_guarded)

    def _refusal(self, scope: Scope, *, api: bool) -> JSONResponse | None:
        headers = Headers(scope=scope)
        if self.loopback_only and not is_loopback(_name(headers.get("host", ""))):
            return error_answer(
                421, "this instance answers on loopback only", "open it at 127.0.0.1 or localhost"
            )
        changing = scope["method"] not in {"GET", "HEAD", "OPTIONS"}
        if changing and api and "x-layerloop" not in headers:
            return error_answer(
                403, "the header X-Layerloop is missing", "send 'X-Layerloop: 1' with every change"
            )
        # Bodies are bounded whatever the method: a server reads them all.
        if "transfer-encoding" in headers:
            return error_answer(
                411, "a request must say its length", "send it with a Content-Length"
            )
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > LARGEST_BODY:
            return error_answer(
                413, f"a request has at most {LARGEST_BODY} bytes", "send less at once"
            )
        return None


def error_answer(
    status: int, message: str, hint: str = "", headers: dict[str, str] | None = None
) -> JSONResponse:
    """An error as every client of the API gets it; what it quotes of a request is cut and escaped."""
    told = {
        "message": printable(message[:LONGEST_MESSAGE]),
        "hint": printable(hint[:LONGEST_MESSAGE]),
    }
    return JSONResponse({"error": told}, status_code=status, headers=headers)


def is_loopback(name: str) -> bool:
    """Whether a host name or address means this very machine."""
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False


def _name(host: str) -> str:
    """The name in a Host header, without its port."""
    return (
        host.partition("]")[0].lstrip("[")
        if host.startswith("[")
        else host.partition(":")[0].lower()
    )
