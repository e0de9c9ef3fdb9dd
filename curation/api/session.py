"""Signing in and out, and who one is."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, StringConstraints

from curation import __version__
from curation.api.access import COOKIE, Annotator, house_of
from curation.domain import Access
from curation.errors import Refused
from curation.review.reviewers import BackOff, Reviewer, Sessions, sign_in

router = APIRouter(prefix="/api", tags=["session"])


class Health(BaseModel):
    """Whether the API answers."""

    status: str
    version: str


class SignIn(BaseModel):
    """A one-time token, as an administrator hands it out."""

    model_config = ConfigDict(extra="forbid")
    token: Annotated[str, StringConstraints(min_length=1, max_length=200, strip_whitespace=True)]


class Me(BaseModel):
    """Who is signed in."""

    name: str
    kind: str
    access: Access


@router.get("/health")
async def health() -> Health:
    """Open to all: whether the API answers, and its version."""
    return Health(status="ok", version=__version__)


@router.get("/me")
def me(visit: Annotator) -> Me:
    """Who I am."""
    with visit.enter() as (_, reviewer):
        return _me(reviewer)


@router.post("/session")
def post_session(request: Request, response: Response, body: SignIn) -> Me:
    """Spend a one-time token for a session cookie; wrong tokens make the next try wait (429)."""
    back_off: BackOff = request.app.state.back_off
    sessions: Sessions = request.app.state.sessions
    address = request.client.host if request.client else ""
    back_off.check(address)
    try:
        with house_of(request).database.transaction() as tx:
            reviewer = sign_in(tx, body.token)
    except Refused:
        back_off.failed(address)
        raise
    back_off.succeeded(address)
    response.set_cookie(
        COOKIE,
        sessions.seal(reviewer),
        max_age=sessions.seconds,
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )
    return _me(reviewer)


@router.delete("/session", status_code=204)
async def delete_session(response: Response) -> None:
    """Sign out: the browser forgets the cookie."""
    response.delete_cookie(COOKIE, httponly=True, samesite="strict")


def _me(reviewer: Reviewer) -> Me:
    return Me(name=reviewer.name, kind=reviewer.kind, access=reviewer.access)
