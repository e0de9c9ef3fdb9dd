"""Routes of the front end: pages without data, which JavaScript modules fill from the JSON API."""

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
    # No string becomes markup or code, so that a caption is always text; one policy creates the URL
    # of a web worker.
    "require-trusted-types-for": "'script'",
    "trusted-types": "edge-worker",
}
"""The content security policy: nothing inline, nothing from other origins, and no framing."""

HEADERS = {
    "Content-Security-Policy": "; ".join(f"{name} {value}" for name, value in POLICY.items()),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
"""Headers of every page and static file."""

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
"""Path of a page -> name of its template in pages/ and of its module in static/."""

_IMPORT = re.compile(r'^(?:import|export)\b[^"]*"\./([a-z_]+\.js)";$', re.MULTILINE)


def mount(app: FastAPI) -> None:
    """Add the pages and their static files to the application of the API.

    Pages contain no data, so they need no authorization: requests without a session cookie are
    redirected to the sign-in page, and the API decides which data a session may read.

    Args:
        app: The application; its state has the name of the session cookie.
    """
    # The path has a digest of all static files, so that browsers may cache them forever.
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
    """Redirect annotators to the review page, which claims candidates, and others to the rounds."""
    page = "/sign-in"
    if _has_session(request):
        # The API's application sets it; without it everybody goes to the review page.
        access_of = getattr(request.app.state, "access_of", None)
        page = (
            "/review"
            if access_of is None or access_of(request) in {"annotator", None}
            else "/rounds"
        )
    return RedirectResponse(page, 303, HEADERS | {"Cache-Control": "no-store"})


def _has_session(request: Request) -> bool:
    """Return whether there is a session cookie; only the API checks whether it is valid."""
    return request.app.state.session_cookie in request.cookies


def _page(name: str, folder: str) -> Any:
    """Return the endpoint of one page, which redirects requests without a session cookie."""

    def show(request: Request) -> Response:
        if name != "sign_in" and not _has_session(request):
            # The sign-in page returns to the requested page.
            requested = request.url.path + (f"?{request.url.query}" if request.url.query else "")
            target = f"/sign-in?next={quote(requested, safe='/')}"
            return RedirectResponse(target, 303, HEADERS | {"Cache-Control": "no-store"})
        html = render(name, folder)
        return HTMLResponse(html, headers=HEADERS | {"Cache-Control": "no-cache"})

    return show


def _error_page(folder: str) -> Any:
    """Return a function that responds with the error page, given a status and headers."""

    def show(_: Request, status: int, headers: dict[str, str]) -> Response:
        html = render("missing", folder)
        return HTMLResponse(html, status, headers | HEADERS | {"Cache-Control": "no-cache"})

    return show


def render(name: str, folder: str, **words: Any) -> str:
    """Render a page as HTML.

    Args:
        name: The name of its template and module.
        folder: The path of the static files.
        words: Further values of the template; they are escaped, and a missing one is an error.

    Returns:
        The HTML.
    """
    modules = sorted(needed_modules(f"{name}.js"))
    return (
        _templates()
        .get_template(f"{name}.html")
        .render(page=name, folder=folder, modules=modules, version=__version__, **words)
    )


def needed_modules(module: str) -> frozenset[str]:
    """Return a JavaScript module and all its transitive imports, for preloading in parallel."""
    found: set[str] = set()
    pending = [module]
    while pending:
        name = pending.pop()
        if name not in found:
            found.add(name)
            pending += _IMPORT.findall((STATIC / name).read_text("utf-8"))
    return frozenset(found)


@cache
def _templates() -> Environment:
    return Environment(
        loader=FileSystemLoader(HERE / "pages"), autoescape=True, undefined=StrictUndefined
    )


def _digest() -> str:
    """Return a digest of the names and contents of all static files."""
    digest = hashlib.sha256()
    for file in sorted(STATIC.rglob("*")):
        if file.is_file():
            digest.update(f"{file.relative_to(STATIC)}\0{file.stat().st_size}\0".encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


class _StaticFiles(StaticFiles):
    """Static files with security headers and unlimited caching, since their path has a digest."""

    def file_response(self, full_path: str | PathLike[str], *args: Any, **kwargs: Any) -> Response:
        response = super().file_response(full_path, *args, **kwargs)
        response.headers.update(HEADERS | {"Cache-Control": "public, max-age=31536000, immutable"})
        return response
