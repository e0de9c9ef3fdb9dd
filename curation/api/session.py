"""Sign-in, sign-out and the current user."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, Field, Strict

from curation import __version__
from curation.api.auth import Annotator, context_of, session_of
from curation.api.contract import answers
from curation.api.fields import STORABLE, Body
from curation.db.engine import Transaction
from curation.domain import Role
from curation.errors import Conflict
from curation.review.reviewers import BackOff, Reviewer, WrongToken, find_session, sign_in
from curation.review.sessions import SessionCookies, begin_session, end_session, end_sessions

router = APIRouter(prefix="/api", tags=["session"])


class Health(BaseModel):
    """Whether the API answers."""

    status: str
    version: str


class SignIn(Body):
    """A one-time token, as an administrator hands it out.

    In a browser that is signed in as somebody else it takes `switch`, so that nobody's account changes unnoticed.
    """

    token: Annotated[str, Field(min_length=1, max_length=200), STORABLE]
    switch: Annotated[bool, Strict()] = False


class Me(BaseModel):
    """Who is signed in."""

    name: str
    kind: str
    access: Role


@router.get("/health", summary="Whether the API answers")
async def health() -> Health:
    """Open to all: whether the API answers, and its version."""
    return Health(status="ok", version=__version__)


@router.get("/me", summary="Who is signed in", responses=answers(401))
def me(visit: Annotator) -> Me:
    """Return the name and the access of the session's reviewer."""
    with visit.enter() as (_, reviewer):
        return _me(reviewer)


@router.post("/session", summary="Sign in", responses=answers(401, 409, 429))
def post_session(request: Request, response: Response, body: SignIn) -> Me:
    """Spend a one-time token for a session cookie.

    A valid token is always taken; wrong ones are answered with 401, and after three from one address with 429. Where
    the request comes from a session of another reviewer it is refused with 409 unless `switch` is set; the token stays
    valid then.
    """
    back_off: BackOff = request.app.state.back_off
    cookies: SessionCookies = request.app.state.sessions
    address = request.client.host if request.client else ""
    try:
        with context_of(request).database.transaction() as tx:
            reviewer = sign_in(tx, body.token.strip())
            _end_present_session(tx, request, reviewer, switch=body.switch)
            session = begin_session(tx, reviewer.id, cookies.seconds)
    except WrongToken:
        back_off.failed(address)
        raise
    back_off.succeeded(address)
    response.set_cookie(
        cookies.name, cookies.seal(session), max_age=cookies.seconds, **_cookie_options(request)
    )
    return _me(reviewer)


@router.delete("/session", status_code=204, summary="Sign out")
def delete_session(
    request: Request,
    response: Response,
    everywhere: Annotated[
        bool, Query(description="also end every other session of this reviewer")
    ] = False,
) -> None:
    """End this session, on the server too, and make the browser forget its cookie."""
    cookies: SessionCookies = request.app.state.sessions
    session = session_of(request)
    if session is not None:
        with context_of(request).database.transaction() as tx:
            reviewer = find_session(tx, session)
            end_session(tx, session)
            if everywhere and reviewer is not None:
                end_sessions(tx, reviewer.id)
    response.delete_cookie(cookies.name, **_cookie_options(request))


def _end_present_session(
    tx: Transaction, request: Request, reviewer: Reviewer, *, switch: bool
) -> None:
    """End the session that the browser has. Raises Conflict where it is another reviewer's and `switch` is not set."""
    session = session_of(request)
    present = find_session(tx, session) if session else None
    if session is None or present is None:
        return
    if present.id != reviewer.id and not switch:
        raise Conflict(
            f"this browser is signed in as {present.name}, and the token is {reviewer.name}'s",
            "sign out first, or say that the account is to be switched",
        )
    end_session(tx, session)


def _cookie_options(request: Request) -> dict[str, Any]:
    # Whether the cookie is Secure follows the address that is configured: what a request says of its own scheme
    # depends on proxies in between.
    secure = context_of(request).settings.public_address.lower().startswith("https:")
    return {"httponly": True, "samesite": "strict", "secure": secure}


def _me(reviewer: Reviewer) -> Me:
    return Me(name=reviewer.name, kind=reviewer.kind, access=reviewer.access)
