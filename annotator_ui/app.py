"""The pages: shells without data, filled by plain JavaScript modules from the JSON API."""

from __future__ import annotations

import hashlib
import re
from functools import cache
from os import PathLike
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from fastapi.staticfiles import StaticFiles
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from curation import __version__

HERE = Path(__file__).parent
STATIC = HERE / "static"

POLICY = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "img-src": "'self'",
    "connect-src": "'self'",
    "form-action": "'self'",
    "base-uri": "'none'",
    "frame-ancestors": "'none'",
    # No string ever becomes markup or code: a caption cannot be anything but text. One address may become a worker.
    "require-trusted-types-for": "'script'",
    "trusted-types": "edge-worker",
}
"""What a page may load: nothing inline, nothing from elsewhere; and nobody may frame it."""

HEADERS = {
    "Content-Security-Policy": "; ".join(f"{name} {value}" for name, value in POLICY.items()),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
"""Sent with every page and static file."""

PAGES = {
    "/review": "review",
    "/rounds": "rounds",
    "/rounds/{number:int}": "round",
    "/snapshots": "snapshots",
    "/snapshots/{name}": "snapshot",
    "/checkpoints": "checkpoints",
    "/reviewers": "reviewers",
    "/me": "me",
    "/sign-in": "sign_in",
}
"""Address of a page: the name of its template in pages/ and of its module in static/."""

_IMPORT = re.compile(r'^(?:import|export)\b[^"]*"\./([a-z_]+\.js)";$', re.MULTILINE)


def mount(app: FastAPI) -> None:
    """Add the pages and their static files to an application that serves the API.

    Pages hold no data, so they are open; whoever has no session is sent to sign in, and the API decides what a
    session may read. Static files live under a digest of their contents and may be cached for ever.
    """
    folder = f"/static/{_digest()}"
    app.mount(folder, _StaticFiles(directory=STATIC), name="static")
    router = APIRouter(include_in_schema=False)
    router.add_api_route("/", _front, methods=["GET"], response_class=RedirectResponse)
    for address, name in PAGES.items():
        router.add_api_route(
            address, _page(name, folder), methods=["GET"], response_class=HTMLResponse
        )
    app.include_router(router)
    app.state.error_page = _error_page(folder)


def _front(request: Request) -> Response:
    """Send reviewers to the review page, which takes candidates for them, and all others to the rounds."""
    page = "/sign-in"
    if _has_session(request):
        access_of = getattr(
            request.app.state, "access_of", None
        )  # set by the application that serves the API
        page = (
            "/review"
            if access_of is None or access_of(request) in {"annotator", None}
            else "/rounds"
        )
    return RedirectResponse(page, 303, HEADERS | {"Cache-Control": "no-store"})


def _has_session(request: Request) -> bool:
    """Return whether there is a session cookie; whether it is a good one is for the API to say."""
    return request.app.state.session_cookie in request.cookies


def _page(name: str, folder: str) -> Any:
    """The endpoint of one page; it looks at whether there is a session, never at whether it is a good one."""

    def show(request: Request) -> Response:
        if name != "sign_in" and not _has_session(request):
            wanted = request.url.path + (f"?{request.url.query}" if request.url.query else "")
            target = f"/sign-in?next={quote(wanted, safe='/')}"
            return RedirectResponse(target, 303, HEADERS | {"Cache-Control": "no-store"})
        html = render(name, folder)
        return HTMLResponse(html, headers=HEADERS | {"Cache-Control": "no-cache"})

    return show


def _error_page(folder: str) -> Any:
    """Return what answers a request for an address that is no page, with that status and those headers."""

    def show(_: Request, status: int, headers: dict[str, str]) -> Response:
        html = render("missing", folder)
        return HTMLResponse(html, status, headers | HEADERS | {"Cache-Control": "no-cache"})

    return show


def render(name: str, folder: str, **words: Any) -> str:
    """One page as HTML; every value is escaped, and a value that is missing is an error."""
    modules = sorted(needed_modules(f"{name}.js"))
    return (
        _templates()
        .get_template(f"{name}.html")
        .render(page=name, folder=folder, modules=modules, version=__version__, **words)
    )


def needed_modules(module: str) -> frozenset[str]:
    """A module and all that it imports, so that the browser can fetch them at once and not one after another."""
    found: set[str] = set()
    open_ends = [module]
    while open_ends:
        name = open_ends.pop()
        if name not in found:
            found.add(name)
            open_ends += _IMPORT.findall((STATIC / name).read_text("utf-8"))
    return frozenset(found)


@cache
def _templates() -> Environment:
    return Environment(
        loader=FileSystemLoader(HERE / "pages"), autoescape=True, undefined=StrictUndefined
    )


def _digest() -> str:
    digest = hashlib.sha256()
    for file in sorted(STATIC.rglob("*")):
        if file.is_file():
            digest.update(f"{file.relative_to(STATIC)}\0{file.stat().st_size}\0".encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


class _StaticFiles(StaticFiles):
    """Static files with our headers; their address changes with their content."""

    def file_response(self, full_path: str | PathLike[str], *args: Any, **kwargs: Any) -> Response:
        response = super().file_response(full_path, *args, **kwargs)
        response.headers.update(HEADERS | {"Cache-Control": "public, max-age=31536000, immutable"})
        return response
