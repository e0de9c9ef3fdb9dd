"""The FastAPI application: routers, error responses, security middleware, and the front end."""

from __future__ import annotations

import importlib
import logging
from typing import Any

import sqlalchemy as sa
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.responses import Response
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from curation import __version__, errors
from curation.access.sign_in_failures import SignInFailures
from curation.api import (
    checkpoints,
    comparisons,
    health,
    labeling,
    layers,
    lineage,
    loops,
    metrics,
    oidc,
    operations,
    review,
    review_context,
    reviewers,
    rounds,
    runs,
    session,
    snapshot_details,
    snapshots,
)
from curation.api.access_log import AccessLog
from curation.api.adaptive_cache import AdaptiveCache
from curation.api.auth import (
    InsufficientRole,
    InsufficientScope,
    InvalidApiToken,
    NotSignedIn,
    get_role,
)
from curation.api.contract import (
    COMMON_STATUSES,
    allowed_methods,
    error_responses,
    extend_openapi,
    operation_id,
)
from curation.api.image_urls import ImageUrls
from curation.api.labeling import WrongWebhookSecret
from curation.api.metrics import WrongMetricsToken
from curation.api.security_middleware import SecurityMiddleware, error_response
from curation.api.signed_urls import SignedUrls
from curation.api.thumbnails import ThumbnailCache
from curation.db import schema
from curation.labeling.previews import PreviewUrls
from curation.review.reviewers import InvalidTokenError, SignInThrottle, TooManyAttemptsError
from curation.review.sessions import SessionCookies
from curation.runtime import image_delivery
from curation.runtime.context import AppContext
from curation.runtime.health import Readiness
from curation.runtime.instance_metrics import instance_registry
from curation.text import escape_control_characters

log = logging.getLogger("layerloop.api")

STATUS: dict[type[errors.LayerloopError], int] = {
    NotSignedIn: 401,
    InvalidTokenError: 401,
    InvalidApiToken: 401,
    InsufficientRole: 403,
    InsufficientScope: 403,
    WrongMetricsToken: 401,
    WrongWebhookSecret: 403,
    TooManyAttemptsError: 429,
    errors.NotFound: 404,
    errors.Conflict: 409,
    errors.TakenDown: 410,
    errors.Refused: 422,
    errors.Unreachable: 503,
    errors.Corrupt: 500,
    errors.LayerloopError: 500,
}


UNDEFINED_TABLE_OR_COLUMN = ("42P01", "42703")
"""SQLSTATEs of a statement that names what the database does not have."""

GENERIC_ERRORS = {
    500: ("internal error", "the server's log has the details"),
    503: (
        "the database or another server does not answer",
        "try again in a moment; the server's log has the details",
    ),
}
"""Messages and hints for errors of the server, whose own text is only logged."""


def create_app(context: AppContext) -> FastAPI:
    """Create the application."""
    app = FastAPI(
        title="Layerloop",
        version=__version__,
        openapi_url="/api/openapi.json",
        docs_url=None,
        redoc_url=None,
        responses=error_responses(*COMMON_STATUSES),
        generate_unique_id_function=operation_id,
    )
    # State that the routes read.
    secret = context.signing_secret()
    app.state.context = context
    app.state.access_of = get_role
    app.state.sessions = SessionCookies(
        secret, context.settings.session_hours, secure=context.settings.public_https
    )
    app.state.session_cookie = app.state.sessions.name
    app.state.links = SignedUrls(secret)
    app.state.images = ImageUrls(app.state.links, context.store)
    app.state.image_origin = context.settings.storage_public_endpoint
    app.state.previews = PreviewUrls(secret, context.settings.public_address)
    app.state.back_off = SignInThrottle()
    app.state.failures = SignInFailures()
    app.state.identity_provider = oidc.open_provider(context.settings)
    app.state.pending_sign_ins = oidc.PendingCookies(secret, secure=context.settings.public_https)
    app.state.counts = AdaptiveCache[dict[str, int]]()
    app.state.renditions = ThumbnailCache()
    app.state.readiness = Readiness(context)
    app.state.metrics = [instance_registry(context.database)]
    # Routes and error handlers.
    for module in (
        health,
        session,
        oidc,
        review,
        review_context,
        reviewers,
        rounds,
        loops,
        operations,
        snapshots,
        snapshot_details,
        checkpoints,
        comparisons,
        lineage,
        runs,
        layers,
        labeling,
        metrics,
    ):
        app.include_router(module.router)
    app.add_exception_handler(errors.LayerloopError, _handle_error)
    app.add_exception_handler(sa.exc.OperationalError, _handle_database_error)
    app.add_exception_handler(sa.exc.ProgrammingError, _handle_changed_tables)
    app.add_exception_handler(sa.exc.InterfaceError, _handle_database_error)
    app.add_exception_handler(sa.exc.TimeoutError, _handle_database_error)
    app.add_exception_handler(RequestValidationError, _handle_invalid_request)
    app.add_exception_handler(HTTPException, _handle_http_error)
    _mount_front_end(app, context.settings.front_end)
    extend_openapi(app, app.state.sessions.name)
    # The middleware that is added last runs first.
    app.add_middleware(
        SecurityMiddleware, host=context.settings.host, https=context.settings.public_https
    )
    image_delivery.start_delivery(
        context.store, context.settings.public_origin, app.state.images.set_delivery
    )
    if context.settings.trusted_proxies:
        app.add_middleware(ProxyHeadersMiddleware, trusted_hosts=context.settings.trusted_proxies)
    app.add_middleware(AccessLog)
    return app


def _mount_front_end(app: FastAPI, dotted: str) -> None:
    """Mount the front end, if its package is installed; the API works without it."""
    module, _, name = dotted.partition(":")
    try:
        mount = getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        # A missing dependency of the front end is an error.
        if error.name is None or not module.startswith(error.name):
            raise
        log.warning("no front end: %s is not installed", module)
        return
    mount(app)


# The handlers are async, since Starlette runs plain functions in its thread pool.
async def _handle_error(request: Request, error: Exception) -> Response:
    """Return the response for an error, with the status of its nearest class.

    Errors from 500 on may name hosts, users and files. Their text is only logged.
    """
    # The method resolution order lists the error's class before its base classes.
    status = next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)
    message, hint = (
        (error.message, error.hint)
        if isinstance(error, errors.LayerloopError)
        else (str(error), "")
    )
    if status >= 500:
        log.warning(
            "%s %s: %s (%s)",
            request.method,
            request.url.path,
            escape_control_characters(message),
            escape_control_characters(hint),
        )
        message, hint = GENERIC_ERRORS[status]
    return error_response(status, message, hint, _headers_for(status, error))


def _headers_for(status: int, error: Exception) -> dict[str, str] | None:
    if isinstance(error, TooManyAttemptsError):
        return {"retry-after": str(round(error.seconds))}
    if isinstance(error, InvalidApiToken):
        return {"www-authenticate": 'Bearer error="invalid_token"'}
    return {401: {"www-authenticate": "Cookie"}, 503: {"retry-after": "1"}}.get(status)


async def _handle_database_error(_: Request, error: Exception) -> Response:
    """Return 503 after a lost connection or a deadlock; the transaction was rolled back."""
    log.warning("the database did not answer: %s", escape_control_characters(str(error)))
    return error_response(
        503, "the database did not answer", "try again in a moment", {"retry-after": "1"}
    )


async def _handle_changed_tables(request: Request, error: Exception) -> Response:
    """Return 503 if a newer version has upgraded the tables since this process started.

    Every other statement that the database does not understand is a bug, and raised again.
    """
    code = getattr(getattr(error, "orig", None), "pgcode", None)
    if code in UNDEFINED_TABLE_OR_COLUMN:
        context: AppContext = request.app.state.context
        try:
            await run_in_threadpool(schema.check, context.database)
        except schema.SchemaMismatch as mismatch:
            log.error("%s (%s)", mismatch.message, mismatch.hint)  # noqa: TRY400 - no bug to trace
            return error_response(
                503,
                "the database has been upgraded to another version than this server's",
                "try again when the server has been upgraded too",
                {"retry-after": "30"},
            )
    raise error


async def _handle_invalid_request(_: Request, error: Exception) -> Response:
    """Return 422 with the first validation error of a request."""
    found: list[dict[str, Any]] = (
        list(error.errors()) if isinstance(error, RequestValidationError) else []
    )
    first = found[0] if found else {"loc": (), "msg": "it cannot be read"}
    field = ".".join(
        str(part)[:100] for part in first["loc"] if part not in {"body", "path", "query", "header"}
    )
    reason = str(first["msg"]).removeprefix("Value error, ")
    return error_response(
        422, f"{field or 'the request'}: {reason}", "/api/openapi.json describes the request"
    )


async def _handle_http_error(request: Request, error: Exception) -> Response:
    """Return the response for an unknown path or method; the front end has a page for it."""
    status, detail = (
        (error.status_code, error.detail) if isinstance(error, HTTPException) else (500, str(error))
    )
    headers = dict(error.headers or {}) if isinstance(error, HTTPException) else {}
    if status == 405:
        # The router reports only the methods of the first matching route.
        headers["allow"] = ", ".join(allowed_methods(request.app.routes, request.scope))
        if request.method == "OPTIONS":
            return Response(status_code=204, headers=headers)
    show = getattr(request.app.state, "error_page", None)
    if show is not None and not request.url.path.startswith("/api/"):
        page: Response = show(request, status, headers)
        return page
    return error_response(
        status, str(detail).lower(), "/api/openapi.json lists all operations", headers
    )
