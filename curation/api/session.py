"""Sign-in, sign-out and the current user."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, Field, Strict

from curation.access.sign_in_failures import SignInFailures
from curation.api.auth import Annotator, get_app_context, get_session_token
from curation.api.contract import error_responses
from curation.api.fields import STORABLE, Body
from curation.db.engine import Transaction
from curation.domain import Role
from curation.errors import Conflict
from curation.review.reviewers import (
    InvalidTokenError,
    Reviewer,
    SignInThrottle,
    find_session,
    sign_in,
)
from curation.review.sessions import (
    SessionCookies,
    begin_session,
    end_session,
    end_sessions,
    get_sign_out_url,
)

router = APIRouter(prefix="/api", tags=["session"])


# Requests and responses


class SignIn(Body):
    """A one-time sign-in token from an administrator.

    `switch` is required in a browser that is signed in as another reviewer, so that the account
    does not change unnoticed.
    """

    token: Annotated[str, Field(min_length=1, max_length=200), STORABLE]
    switch: Annotated[bool, Strict()] = False


class SignedInReviewer(BaseModel):
    """The signed-in reviewer.

    `sign_out_url` is where the session at the identity provider ends, if there is one.
    """

    name: str
    kind: str
    role: Role
    sign_out_url: str | None = None


# Routes


@router.get(
    "/me",
    summary="Get the signed-in reviewer",
    responses=error_responses(401),
    response_model_exclude_none=True,
)
def get_signed_in_reviewer(visit: Annotator) -> SignedInReviewer:
    """Return the name and the role of the signed-in reviewer."""
    with visit.transaction() as (tx, reviewer):
        return _me(reviewer, get_sign_out_url(tx, visit.session))


@router.post(
    "/session",
    summary="Sign in",
    responses=error_responses(401, 409, 429),
    response_model_exclude_none=True,
)
def post_session(request: Request, response: Response, body: SignIn) -> SignedInReviewer:
    """Exchange a one-time token for a session cookie.

    A valid token is always accepted. A wrong token is refused with 401, and after three from one
    address with 429. A request from a session of another reviewer is refused with 409 unless
    `switch` is set; the token stays valid then.
    """
    back_off: SignInThrottle = request.app.state.back_off
    cookies: SessionCookies = request.app.state.sessions
    address = request.client.host if request.client else ""
    # One transaction uses the token, ends the current session, and begins the new one.
    try:
        with get_app_context(request).database.transaction() as tx:
            reviewer = sign_in(tx, body.token.strip())
            _end_current_session(tx, request, reviewer, switch=body.switch)
            session = begin_session(tx, reviewer.id, cookies.seconds)
    except InvalidTokenError:
        # Raises TooManyAttemptsError after too many failures, which are not recorded.
        back_off.failed(address)
        failures: SignInFailures = request.app.state.failures
        failures.record(get_app_context(request).database, address, "wrong token")
        raise
    back_off.succeeded(address)
    response.set_cookie(
        cookies.name, cookies.dumps(session), max_age=cookies.seconds, **cookie_options(request)
    )
    return _me(reviewer)


@router.delete("/session", status_code=204, summary="Sign out")
def delete_session(
    request: Request,
    response: Response,
    everywhere: Annotated[
        bool, Query(description="also end all other sessions of this reviewer")
    ] = False,
) -> None:
    """End this session on the server, and delete its cookie."""
    # Without a session, only the cookie is deleted.
    cookies: SessionCookies = request.app.state.sessions
    session = get_session_token(request)
    if session is not None:
        with get_app_context(request).database.transaction() as tx:
            reviewer = find_session(tx, session)
            end_session(tx, session)
            if reviewer is not None:
                tx.log(
                    reviewer.name, "signed out", f"reviewer {reviewer.name}", everywhere=everywhere
                )
            if everywhere and reviewer is not None:
                end_sessions(tx, reviewer.id)
    response.delete_cookie(cookies.name, **cookie_options(request))
    # Clears cached images; browsers accept this header over HTTPS only.
    if get_app_context(request).settings.public_https:
        response.headers["clear-site-data"] = '"cache"'


def _end_current_session(
    tx: Transaction, request: Request, reviewer: Reviewer, *, switch: bool
) -> None:
    """End the browser's session. Raises Conflict if it is another reviewer's, without `switch`."""
    session = get_session_token(request)
    current = find_session(tx, session) if session else None
    if session is None or current is None:
        return
    if current.id != reviewer.id and not switch:
        raise Conflict(
            f"this browser is signed in as {current.name}, and the token is {reviewer.name}'s",
            "sign out first, or confirm that you want to switch the account",
        )
    end_session(tx, session)


def cookie_options(request: Request) -> dict[str, Any]:
    """Return the attributes of the session's cookie."""
    secure = get_app_context(request).settings.public_https
    return {"httponly": True, "samesite": "strict", "secure": secure}


def _me(reviewer: Reviewer, sign_out_url: str | None = None) -> SignedInReviewer:
    return SignedInReviewer(
        name=reviewer.name, kind=reviewer.kind, role=reviewer.role, sign_out_url=sign_out_url
    )
