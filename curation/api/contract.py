"""The OpenAPI description: one error schema, every status, security schemes and links between operations."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.routing import BaseRoute, Match, Mount
from starlette.types import Scope

CHANGE_HEADER = "X-Layerloop"
"""The header that every changing request bears; no other site can make a browser send it."""

SESSION_SCHEME = "session"
"""The name of the session cookie's security scheme."""


class ErrorDetail(BaseModel):
    """What is wrong, and what to do about it."""

    message: str
    hint: str


class ErrorAnswer(BaseModel):
    """The body of every answer that is an error."""

    error: ErrorDetail


DESCRIPTIONS = {
    400: "The body cannot be read as JSON.",
    401: "There is no session, or the sign-in token is not valid.",
    403: "The session may not do this, a secret is wrong, or the header X-Layerloop is missing.",
    404: "There is no such thing.",
    409: "The state of things does not allow this, or somebody else was first.",
    411: "The request has a body of unknown length.",
    413: "The body is too large.",
    421: "The request is addressed to a host name that is not served here.",
    422: "A value is not as described here, or values do not go together.",
    429: "Too many wrong sign-in tokens came from this address.",
    500: "Something went wrong in the server; its log has the details.",
    503: "The database or another server does not answer; try again in a moment.",
}

ALWAYS = (400, 403, 411, 413, 421, 422, 500, 503)
"""Statuses that any operation may answer with."""


def answers(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the `responses` of a route or router that may answer with these errors."""
    return {
        status: {"model": ErrorAnswer, "description": DESCRIPTIONS[status]} for status in statuses
    }


def linked(status: int, **links: dict[str, Any]) -> dict[int | str, dict[str, Any]]:
    """Return the `responses` of a route whose answer names what other operations take.

    Args:
        status: The status of the answer.
        links: For each link its operation id and the parameters or the body taken from the answer.
    """
    return {status: {"links": links}}


def link(operation: str, body: Any = None, **parameters: str) -> dict[str, Any]:
    """Return a link to an operation, with runtime expressions for its parameters and its body."""
    described: dict[str, Any] = {"operationId": operation}
    if parameters:
        described["parameters"] = parameters
    if body is not None:
        described["requestBody"] = body
    return described


def describe(app: FastAPI, session_cookie: str) -> None:
    """Make the application's OpenAPI description name its cookie and the header of changing requests.

    Args:
        app: The application; its `openapi` method is replaced.
        session_cookie: The name of this instance's session cookie.
    """
    made = app.openapi

    def openapi() -> dict[str, Any]:
        new = app.openapi_schema is None
        described = made()
        if new:
            schemes = described["components"].setdefault("securitySchemes", {})
            if SESSION_SCHEME in schemes:
                schemes[SESSION_SCHEME]["name"] = session_cookie
            for method, operation in _operations(described):
                if method in {"post", "put", "patch", "delete"}:
                    operation.setdefault("parameters", []).append(_CHANGE_PARAMETER)
        return described

    app.openapi = openapi  # type: ignore[method-assign]


_CHANGE_PARAMETER = {
    "name": CHANGE_HEADER,
    "in": "header",
    "required": True,
    "description": "Any value; it keeps other sites from sending changes in a person's name.",
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
    """Return every method that the address of a request takes; empty where there is no such address."""
    found = {method for method in METHODS for route in routes if _takes(route, scope, method)}
    if "GET" in found:
        found.add("HEAD")
    return sorted(found | {"OPTIONS"}) if found else []


def _takes(route: BaseRoute, scope: Scope, method: str) -> bool:
    if isinstance(route, Mount):  # static files, which match whatever the method
        return method == "GET" and route.matches(scope)[0] is Match.FULL
    return route.matches(dict(scope, method=method))[0] is Match.FULL
