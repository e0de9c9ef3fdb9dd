"""Authentication, roles, and the one transaction of each request."""

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

ORDER = list(Role)
"""From least to most; each may do all that those before it may."""


class NotSignedIn(Refused):
    """No session, a forged or old one, or one of somebody who was sent away."""

    def __init__(self) -> None:
        super().__init__(
            "you are not signed in", "open the address with a sign-in token, or ask for a new one"
        )


class AccessTooLow(Refused):
    """Signed in, and not allowed."""

    def __init__(self, needed: Role, has: Role) -> None:
        super().__init__(f"this takes access {needed}; you have {has}", "ask an administrator")


@dataclass(frozen=True)
class RequestContext:
    """A request of somebody whose session is genuine; what they may do is settled on entering."""

    context: AppContext
    session: str
    needed: Role

    @contextmanager
    def enter(self, *, one_view: bool = False) -> Iterator[tuple[Transaction, Reviewer]]:
        """The request's one transaction, kept when the block is left: answer after it, never inside.

        The session is read in the same transaction, so that one that was ended is worth nothing from then on.
        Raises NotSignedIn, AccessTooLow.
        """
        with self.context.database.transaction(one_view=one_view) as tx:
            reviewer = find_session(tx, self.session)
            if reviewer is None:
                raise NotSignedIn
            if ORDER.index(reviewer.access) < ORDER.index(self.needed):
                raise AccessTooLow(self.needed, reviewer.access)
            yield tx, reviewer


def context_of(request: Request) -> AppContext:
    """The instance that this application serves."""
    context: AppContext = request.app.state.context
    return context


def session_of(request: Request) -> str | None:
    """Return the token of the session that a request's cookie carries, or None where there is no genuine one."""
    cookies: SessionCookies = request.app.state.sessions
    return cookies.open(request.cookies.get(cookies.name, ""))


def access_of(request: Request) -> Role | None:
    """Return what whoever is signed in may do, or None where nobody is."""
    session = session_of(request)
    if session is None:
        return None
    with context_of(request).database.transaction() as tx:
        reviewer = find_session(tx, session)
    return reviewer.access if reviewer else None


class SignedIn(SecurityBase):
    """A dependency that lets in whoever has this access or more, and a security scheme of the OpenAPI description."""

    def __init__(self, needed: Role) -> None:
        self.needed = needed
        self.scheme_name = SESSION_SCHEME
        where = {"in": APIKeyIn.cookie}
        self.model = APIKey(**where, name=SESSION_SCHEME, description="Set by POST /api/session.")

    async def __call__(self, request: Request) -> RequestContext:
        """Return the visit; async, since it reads no more than a cookie. Raises NotSignedIn."""
        session = session_of(request)
        if session is None:
            raise NotSignedIn
        return RequestContext(context_of(request), session, self.needed)


Annotator = Annotated[RequestContext, Depends(SignedIn(Role.annotator))]
Engineer = Annotated[RequestContext, Depends(SignedIn(Role.engineer))]
Trainer = Annotated[RequestContext, Depends(SignedIn(Role.trainer))]
