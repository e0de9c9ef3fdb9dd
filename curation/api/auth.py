"""Authentication, roles, and the transaction of a request."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request
from fastapi.openapi.models import APIKey, APIKeyIn
from fastapi.security.base import SecurityBase
from fastapi.security.utils import get_authorization_scheme_param

from curation.access.scopes import Scope
from curation.access.tokens import Program, find_program, record_use
from curation.api.contract import REQUIREMENT
from curation.db.engine import Transaction
from curation.domain import Role
from curation.errors import Refused
from curation.review.reviewers import Reviewer, find_session
from curation.review.sessions import SessionCookies
from curation.runtime.context import AppContext

log = logging.getLogger("layerloop.api")

ROLES_ASCENDING = list(Role)
"""The roles, ascending; each has all permissions of the roles before it."""


class NotSignedIn(Refused):
    """The request has no session, or its session is forged, expired or ended."""

    def __init__(self) -> None:
        super().__init__(
            "you are not signed in", "open a sign-in link, or ask an administrator for a new link"
        )


class InsufficientRole(Refused):
    """The reviewer's role does not allow the request."""

    def __init__(self, needed: Role, has: Role) -> None:
        super().__init__(
            f"this needs the role {needed}; you have the role {has}", "ask an administrator"
        )


class InvalidApiToken(Refused):
    """The request has an API token that is unknown, expired or revoked."""

    def __init__(self) -> None:
        super().__init__(
            "this API token is not valid",
            "ask an administrator for a new one ('layerloop token create')",
        )


class InsufficientScope(Refused):
    """The API token lacks the scope that the request needs."""

    def __init__(self, needed: Scope) -> None:
        super().__init__(
            f"this needs a token with the scope {needed}",
            f"ask an administrator for one: layerloop token create NAME --scope {needed}",
        )


@dataclass(frozen=True)
class RequestContext:
    """A request with a genuine session cookie; session and role are checked on entering."""

    context: AppContext
    session: str
    needed: Role

    @contextmanager
    def transaction(self, *, one_view: bool = False) -> Iterator[tuple[Transaction, Reviewer]]:
        """Open the request's transaction, which is committed when the block ends.

        The response must be made after the block. The session is read in the same transaction, so
        that an ended session is refused at once.

        Args:
            one_view: All statements see the same state of the database.

        Raises:
            NotSignedIn: The session has expired or was ended.
            InsufficientRole: The role does not allow the request.
        """
        with self.context.database.transaction(repeatable_read=one_view) as tx:
            yield tx, _check_role(tx, self.session, self.needed)


@dataclass(frozen=True)
class ScopedRequestContext:
    """A request with a session cookie or an API token; the right is checked on entering."""

    context: AppContext
    session: str | None
    token: str | None
    needed: Role
    scope: Scope

    @contextmanager
    def transaction(
        self, *, one_view: bool = False
    ) -> Iterator[tuple[Transaction, Reviewer | Program]]:
        """Open the request's transaction, as `RequestContext.transaction` does.

        Args:
            one_view: All statements see the same state of the database.

        Raises:
            NotSignedIn: The session has expired or was ended.
            InsufficientRole: The role does not allow the request.
            InvalidApiToken: The token is unknown, expired or revoked.
            InsufficientScope: The token lacks the scope.
        """
        database = self.context.database
        with database.transaction(repeatable_read=one_view) as tx:
            if self.token is None:
                yield tx, _check_role(tx, self.session or "", self.needed)
                return
            program = find_program(tx, self.token)
            if program is None:
                raise InvalidApiToken
            if self.scope not in program.scopes:
                log.warning("%s needs the scope %s", program.name, self.scope)
                raise InsufficientScope(self.scope)
            yield tx, program
        # In a transaction of its own: in one with a single view of the database, concurrent
        # updates of the token would fail.
        if program.use_is_due:
            with database.transaction() as tx:
                record_use(tx, program)


def _check_role(tx: Transaction, session: str, needed: Role) -> Reviewer:
    """Return the reviewer of a session. Raises NotSignedIn or InsufficientRole."""
    reviewer = find_session(tx, session)
    if reviewer is None:
        raise NotSignedIn
    if ROLES_ASCENDING.index(reviewer.role) < ROLES_ASCENDING.index(needed):
        log.warning("%s needs the role %s, and has %s", reviewer.name, needed, reviewer.role)
        raise InsufficientRole(needed, reviewer.role)
    return reviewer


def get_app_context(request: Request) -> AppContext:
    """Return the app context of the application."""
    context: AppContext = request.app.state.context
    return context


def get_session_token(request: Request) -> str | None:
    """Return the session token in a request's cookie; None without a genuine cookie."""
    cookies: SessionCookies = request.app.state.sessions
    return cookies.open(request.cookies.get(cookies.name, ""))


def get_role(request: Request) -> Role | None:
    """Return the role of the signed-in reviewer; None if nobody is signed in."""
    session = get_session_token(request)
    if session is None:
        return None
    with get_app_context(request).database.transaction() as tx:
        reviewer = find_session(tx, session)
    return reviewer.role if reviewer else None


def get_api_token(request: Request) -> str | None:
    """Return the token in a request's Authorization header; None without such a header."""
    scheme, token = get_authorization_scheme_param(request.headers.get("authorization"))
    return token if scheme.lower() == "bearer" else None


class RequiresRole(SecurityBase):
    """A dependency that requires a role or a higher role, and the OpenAPI security scheme.

    The name of the scheme states the requirement, from which `contract.extend_openapi` makes the
    operation's security.
    """

    def __init__(self, needed: Role) -> None:
        self.needed = needed
        self.scheme_name = f"{REQUIREMENT}{needed}"
        self.model = APIKey(**{"in": APIKeyIn.cookie}, name=self.scheme_name)

    async def __call__(self, request: Request) -> RequestContext:
        """Return the request context. Raises NotSignedIn."""
        # Async, so that FastAPI does not use its thread pool to read a cookie.
        session = get_session_token(request)
        if session is None:
            raise NotSignedIn
        return RequestContext(get_app_context(request), session, self.needed)


class RequiresScope(SecurityBase):
    """A dependency that requires a session with a role, or an API token with a scope.

    A request with a token is a program's, whatever cookies it has.
    """

    def __init__(self, needed: Role, scope: Scope) -> None:
        self.needed, self.scope = needed, scope
        self.scheme_name = f"{REQUIREMENT}{needed} {scope}"
        self.model = APIKey(**{"in": APIKeyIn.cookie}, name=self.scheme_name)

    async def __call__(self, request: Request) -> ScopedRequestContext:
        """Return the request context. Raises NotSignedIn."""
        token = get_api_token(request)
        session = get_session_token(request) if token is None else None
        if token is None and session is None:
            raise NotSignedIn
        return ScopedRequestContext(
            get_app_context(request), session, token, self.needed, self.scope
        )


def require_scope(scope: Scope, role: Role = Role.engineer) -> RequiresScope:
    """Return the dependency of a route for programs with a scope, and for people with a role.

    A route declares it as `visit: Annotated[ScopedRequestContext, Depends(require_scope(...))]`.

    Args:
        scope: The scope that an API token needs.
        role: The role that a signed-in person needs, or a higher one.
    """
    return RequiresScope(role, scope)


Annotator = Annotated[RequestContext, Depends(RequiresRole(Role.annotator))]
Engineer = Annotated[RequestContext, Depends(RequiresRole(Role.engineer))]

ReadRounds = Annotated[ScopedRequestContext, Depends(require_scope(Scope.rounds_read))]
WriteRounds = Annotated[ScopedRequestContext, Depends(require_scope(Scope.rounds_write))]
ReadSnapshots = Annotated[ScopedRequestContext, Depends(require_scope(Scope.snapshots_read))]
WriteSnapshots = Annotated[ScopedRequestContext, Depends(require_scope(Scope.snapshots_write))]
ReadCheckpoints = Annotated[ScopedRequestContext, Depends(require_scope(Scope.checkpoints_read))]
WriteCheckpoints = Annotated[
    ScopedRequestContext, Depends(require_scope(Scope.checkpoints_write, Role.trainer))
]
ReadStatistics = Annotated[ScopedRequestContext, Depends(require_scope(Scope.statistics_read))]
ListRounds = Annotated[
    ScopedRequestContext, Depends(require_scope(Scope.rounds_read, Role.annotator))
]
ListRuns = Annotated[
    ScopedRequestContext, Depends(require_scope(Scope.checkpoints_read, Role.annotator))
]
