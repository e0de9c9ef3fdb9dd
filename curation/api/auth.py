"""Authentication, roles, and the transaction of a request."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request
from fastapi.openapi.models import APIKey, APIKeyIn
from fastapi.security.base import SecurityBase

from curation.api.contract import SESSION_SCHEME
from curation.db.engine import Transaction
from curation.domain import Role
from curation.errors import Refused
from curation.review.reviewers import Reviewer, find_session
from curation.review.sessions import SessionCookies
from curation.runtime.context import AppContext

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
            AccessTooLow: The role does not allow the request.
        """
        with self.context.database.transaction(repeatable_read=one_view) as tx:
            reviewer = find_session(tx, self.session)
            if reviewer is None:
                raise NotSignedIn
            if ROLES_ASCENDING.index(reviewer.role) < ROLES_ASCENDING.index(self.needed):
                raise InsufficientRole(self.needed, reviewer.role)
            yield tx, reviewer


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


class RequiresRole(SecurityBase):
    """A dependency that requires a role or a higher role, and the OpenAPI security scheme."""

    def __init__(self, needed: Role) -> None:
        self.needed = needed
        self.scheme_name = SESSION_SCHEME
        location = {"in": APIKeyIn.cookie}
        self.model = APIKey(
            **location, name=SESSION_SCHEME, description="Set by POST /api/session."
        )

    async def __call__(self, request: Request) -> RequestContext:
        """Return the request context. Raises NotSignedIn."""
        # Async, so that FastAPI does not use its thread pool to read a cookie.
        session = get_session_token(request)
        if session is None:
            raise NotSignedIn
        return RequestContext(get_app_context(request), session, self.needed)


Annotator = Annotated[RequestContext, Depends(RequiresRole(Role.annotator))]
Engineer = Annotated[RequestContext, Depends(RequiresRole(Role.engineer))]
Trainer = Annotated[RequestContext, Depends(RequiresRole(Role.trainer))]
