"""The front end: HTML shells without data, filled by plain JavaScript modules from the JSON API."""

from __future__ import annotations

import hashlib
import posixpath
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
    # No string becomes markup or code. The only Trusted Types policy returns the URL of one worker.
    "require-trusted-types-for": "'script'",
    "trusted-types": "edge-worker",
}
"""The Content Security Policy: nothing inline, nothing from other origins, no framing."""

HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
"""Response headers of every page and static file, beside the Content Security Policy."""

PAGES = {
    "/review": "review",
    "/comparison": "comparison",
    "/comparisons/{number:int}": "comparison_result",
    "/rounds": "rounds",
    "/rounds/{number:int}": "round",
    "/loops": "loops",
    "/loops/{number:int}": "loop",
    "/snapshots": "snapshots",
    "/snapshots/{name}": "snapshot",
    "/samples/{sample}": "sample",
    "/checkpoints": "checkpoints",
    "/runs/{run}": "run",
    "/reviewers": "reviewers",
    "/operations": "operations",
    "/me": "me",
    "/sign-in": "sign_in",
}
"""Paths of the pages, each with the name of its template and of its module in static/pages/."""

_IMPORT = re.compile(r'^(?:import|export)\b[^"]*"(\.{1,2}/[a-z_/]+\.js)";$', re.MULTILINE)


def mount(app: FastAPI) -> None:
    """Add the pages and their static files to the application that serves the API.

    Pages contain no data, so they are public: visitors without a session are redirected to the
    sign-in page, and the API checks what a session may read. The path of the static files contains
    a digest of their content, so that browsers may cache them indefinitely.

    Args:
        app: The application of the API, with `state.session_cookie` set.
    """
    static_path = f"/static/{_digest()}"
    # Missing in tests of the pages without an API.
    headers = page_headers(getattr(app.state, "image_origin", None))
    app.mount(static_path, _StaticFiles(headers, directory=STATIC), name="static")
    router = APIRouter(include_in_schema=False)
    router.add_api_route("/", _start_page, methods=["GET"], response_class=RedirectResponse)
    for path, name in PAGES.items():
        endpoint = _page(name, static_path, headers)
        router.add_api_route(path, endpoint, methods=["GET"], response_class=HTMLResponse)
    app.include_router(router)
    app.state.error_page = _error_page(static_path, headers)


def page_headers(image_origin: str | None = None) -> dict[str, str]:
    """Return the response headers of pages and static files.

    Args:
        image_origin: Origin of the object store, where pages may read images beside the API.
    """
    policy = dict(POLICY)
    if image_origin is not None:
        # The worker of the edges view fetches images; its policy is that of its static file.
        policy |= dict.fromkeys(("img-src", "connect-src"), f"'self' {image_origin}")
    written = "; ".join(f"{name} {value}" for name, value in policy.items())
    return {"Content-Security-Policy": written} | HEADERS


def _start_page(request: Request) -> Response:
    """Redirect annotators to the review page, and other roles to the rounds page.

    Opening the review page claims candidates, so it is the start page of annotators only.
    """
    target = "/sign-in"
    if _has_session(request):
        # The application that serves the API sets `access_of`; it is missing in tests of the pages.
        access_of = getattr(request.app.state, "access_of", None)
        role = None if access_of is None else access_of(request)
        target = "/review" if role in {"annotator", None} else "/rounds"
    return RedirectResponse(target, 303, page_headers() | {"Cache-Control": "no-store"})


def _has_session(request: Request) -> bool:
    """Return whether the request has a session cookie; the API checks whether it is valid."""
    return request.app.state.session_cookie in request.cookies


def _has_provider(request: Request) -> bool:
    """Return whether people can sign in at an identity provider."""
    return getattr(request.app.state, "identity_provider", None) is not None


def _page(name: str, static_path: str, headers: dict[str, str]) -> Any:
    """Return the endpoint of a page; without a session cookie, it redirects to the sign-in page."""

    def show(request: Request) -> Response:
        if name != "sign_in" and not _has_session(request):
            wanted = request.url.path + (f"?{request.url.query}" if request.url.query else "")
            target = f"/sign-in?next={quote(wanted, safe='/')}"
            return RedirectResponse(target, 303, headers | {"Cache-Control": "no-store"})
        values = {"provider": _has_provider(request)} if name == "sign_in" else {}
        html = render(name, static_path, **values)
        return HTMLResponse(html, headers=headers | {"Cache-Control": "no-cache"})

    return show


def _error_page(static_path: str, page: dict[str, str]) -> Any:
    """Return a handler that responds to unknown paths with the "not found" page."""

    def show(_: Request, status: int, headers: dict[str, str]) -> Response:
        html = render("not_found", static_path)
        return HTMLResponse(html, status, headers | page | {"Cache-Control": "no-cache"})

    return show


def render(name: str, static_path: str, **values: Any) -> str:
    """Render a page as HTML. Every value is escaped, and a missing value is an error.

    Args:
        name: The name of the page's template and module.
        static_path: The URL path of the static files.
        **values: Further values of the template.

    Returns:
        The HTML of the page.
    """
    modules = sorted(needed_modules(f"pages/{name}.js"))
    return (
        _templates()
        .get_template(f"{name}.html")
        .render(page=name, static_path=static_path, modules=modules, version=__version__, **values)
    )


def needed_modules(module: str) -> frozenset[str]:
    """Return a module and its transitive imports, so that the browser can preload them in parallel.

    Args:
        module: The path of the module, relative to static/.

    Returns:
        The paths of the modules, relative to static/.
    """
    found: set[str] = set()
    pending = [module]
    while pending:
        name = pending.pop()
        if name in found:
            continue
        found.add(name)
        imports = _IMPORT.findall((STATIC / name).read_text("utf-8"))
        folder = posixpath.dirname(name)
        pending += [posixpath.normpath(posixpath.join(folder, path)) for path in imports]
    return frozenset(found)


@cache
def _templates() -> Environment:
    loader = FileSystemLoader(HERE / "templates")
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined)


def _digest() -> str:
    digest = hashlib.sha256()
    for file in sorted(STATIC.rglob("*")):
        if file.is_file():
            digest.update(f"{file.relative_to(STATIC)}\0{file.stat().st_size}\0".encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


class _StaticFiles(StaticFiles):
    """Static files with our response headers. Their path has a digest, so they never change."""

    def __init__(self, headers: dict[str, str], **options: Any) -> None:
        super().__init__(**options)
        self._headers = headers

    def file_response(self, full_path: str | PathLike[str], *args: Any, **kwargs: Any) -> Response:
        response = super().file_response(full_path, *args, **kwargs)
        response.headers.update(
            self._headers | {"Cache-Control": "public, max-age=31536000, immutable"}
        )
        return response
