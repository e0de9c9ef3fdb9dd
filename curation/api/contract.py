"""The OpenAPI description: error schema, statuses, security scheme and links of operations."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.routing import BaseRoute, Match, Mount
from starlette.types import Scope

CHANGE_HEADER = "X-Layerloop"
"""The header of every changing request; other sites cannot make a browser send it."""

SESSION_SCHEME = "session"
"""The name of the session cookie's security scheme."""

TOKEN_SCHEME = "token"  # noqa: S105
"""The name of the security scheme of API tokens."""

REQUIREMENT = "requires "
"""The beginning of a scheme name that states a role, and a scope where there is one."""


LINK_HEADER = {
    "Link": {
        "description": 'The address of the next page, as <...>; rel="next"; absent on the last.',
        "schema": {"type": "string"},
    }
}
"""The header that names the next page of a list."""


class ErrorDetail(BaseModel):
    """The problem, and what to do about it."""

    message: str
    hint: str


class ErrorResponse(BaseModel):
    """The body of every error response."""

    error: ErrorDetail


DESCRIPTIONS = {
    400: "The body cannot be read as JSON.",
    401: "There is no session, or the sign-in token or API token is not valid.",
    403: (
        "The role or the token's scope does not allow this, a secret is wrong, or the header "
        "X-Layerloop is missing."
    ),
    404: "The object does not exist.",
    409: "The state of the object does not allow this, or another request was first.",
    410: "A takedown removed the sample, or samples of the snapshot and with them its content.",
    411: "The request has a body of unknown length.",
    413: "The body is too large.",
    421: "The request is addressed to a host name that is not served here.",
    422: "A value is invalid, or values contradict each other.",
    429: "Too many wrong sign-in tokens came from this address.",
    500: "Internal error; the server's log has the details.",
    503: "The database or another server does not answer; try again in a moment.",
}

COMMON_STATUSES = (400, 403, 411, 413, 421, 422, 500, 503)
"""Statuses that any operation may return."""


def error_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the `responses` of a route or router that may return these errors."""
    return {
        status: {"model": ErrorResponse, "description": DESCRIPTIONS[status]} for status in statuses
    }


def with_links(status: int, **links: dict[str, Any]) -> dict[int | str, dict[str, Any]]:
    """Return the `responses` of a route with OpenAPI links to other operations.

    Args:
        status: The status of the response.
        **links: The links by name; see `link`.
    """
    return {status: {"links": links}}


def list_page(**links: dict[str, Any]) -> dict[int | str, dict[str, Any]]:
    """Return the `responses` of a route that lists pages (curation.api.paging).

    Args:
        **links: The links by name; see `link`.
    """
    described: dict[str, Any] = {"headers": LINK_HEADER}
    return error_responses(404) | {200: described | ({"links": links} if links else {})}


def operation_link(operation: str, body: Any = None, **parameters: str) -> dict[str, Any]:
    """Return an OpenAPI link to an operation.

    Args:
        operation: Id of the operation.
        body: Its request body, with runtime expressions.
        **parameters: Its parameters, as runtime expressions.
    """
    described: dict[str, Any] = {"operationId": operation}
    if parameters:
        described["parameters"] = parameters
    if body is not None:
        described["requestBody"] = body
    return described


def extend_openapi(app: FastAPI, session_cookie: str) -> None:
    """Add security schemes, required roles and scopes, and the header of changing requests.

    Args:
        app: The application; its `openapi` method is replaced.
        session_cookie: Name of the session cookie.
    """
    original = app.openapi

    def openapi() -> dict[str, Any]:
        # FastAPI caches the description, so it is changed only the first time.
        new = app.openapi_schema is None
        described = original()
        if new:
            described["components"]["securitySchemes"] = _security_schemes(session_cookie)
            for method, operation in _operations(described):
                _describe_requirement(operation)
                if method in {"post", "put", "patch", "delete"}:
                    operation.setdefault("parameters", []).append(_CHANGE_PARAMETER)
        return described

    app.openapi = openapi  # type: ignore[method-assign]


def _security_schemes(session_cookie: str) -> dict[str, dict[str, str]]:
    """Return the schemes: the session cookie of people, and the API token of programs."""
    session = {"type": "apiKey", "in": "cookie", "name": session_cookie}
    token = {"type": "http", "scheme": "bearer"}
    return {
        SESSION_SCHEME: session | {"description": "Set by POST /api/session."},
        TOKEN_SCHEME: token | {"description": "Created by `layerloop token create`."},
    }


def _describe_requirement(operation: dict[str, Any]) -> None:
    """Replace a scheme that states a requirement by the schemes that meet it."""
    for stated in [name for one in operation.get("security", ()) for name in one]:
        role, _, scope = stated.removeprefix(REQUIREMENT).partition(" ")
        operation["security"] = [{SESSION_SCHEME: []}]
        operation["x-required-role"] = role
        if scope:
            operation["security"].append({TOKEN_SCHEME: []})
            operation["x-required-scope"] = scope


_CHANGE_PARAMETER = {
    "name": CHANGE_HEADER,
    "in": "header",
    "required": True,
    "description": "Protects against cross-site request forgery.",
    "schema": {"type": "string", "enum": ["1"]},
}


def _operations(described: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for methods in described["paths"].values():
        yield from methods.items()


def operation_id(route: APIRoute) -> str:
    """Return the id of an operation: the name of its function."""
    return route.name


METHODS = ("DELETE", "GET", "PATCH", "POST", "PUT")


def allowed_methods(routes: list[BaseRoute], scope: Scope) -> list[str]:
    """Return the methods that the path of a request allows.

    Args:
        routes: All routes of the application.
        scope: ASGI scope of the request.

    Returns:
        The methods, sorted; empty if no route has the path.
    """
    found = {method for method in METHODS for route in routes if _accepts(route, scope, method)}
    if "GET" in found:
        found.add("HEAD")
    return sorted(found | {"OPTIONS"}) if found else []


def _accepts(route: BaseRoute, scope: Scope, method: str) -> bool:
    # A mount (static files) matches every method.
    if isinstance(route, Mount):
        return method == "GET" and route.matches(scope)[0] is Match.FULL
    return route.matches(dict(scope, method=method))[0] is Match.FULL
