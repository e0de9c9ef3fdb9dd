"""Sign-in at an identity provider: the browser is sent there, and comes back with a code.

These are addresses for browsers, not operations of the API. The cookie of a started sign-in is
sent along from the provider's site (SameSite=Lax), the session's cookie is not (Strict): the
return leads to the sign-in page, whose own requests carry it.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import asdict
from typing import Any
from urllib.parse import urlencode

from fastapi import APIRouter, Request
from itsdangerous import BadData, URLSafeTimedSerializer
from starlette.responses import RedirectResponse

from curation.access import identities
from curation.access.sign_in_failures import SignInFailures
from curation.adapters.oidc import IdentityProvider, InvalidProviderAnswer, StartedSignIn
from curation.api.auth import get_app_context, get_session_token
from curation.api.session import cookie_options
from curation.db.engine import Transaction
from curation.errors import Conflict, LayerloopError, NotFound, Refused, Unreachable
from curation.review.reviewers import Reviewer, find_session
from curation.review.sessions import SessionCookies, begin_session, cookie_name, end_session
from curation.settings import Settings

router = APIRouter(prefix="/api/oidc", include_in_schema=False)

MAX_SECONDS = 600
"""Seconds in which a started sign-in must be finished."""

MAX_NEXT = 500
"""Longest path of a page to open after the sign-in, in characters."""


class OtherAccount(Conflict):
    """The browser is signed in as another reviewer."""


PROBLEMS: dict[type[LayerloopError], str] = {
    identities.NoMappedRole: "no-role",
    identities.UnusableName: "name",
    OtherAccount: "other-account",
    InvalidProviderAnswer: "provider",
    Unreachable: "unreachable",
    Refused: "refused",
}
"""The word with which the sign-in page is opened after each error."""


class PendingCookies:
    """Signed cookies that hold what the provider's answer must match."""

    def __init__(self, secret: str, *, secure: bool) -> None:
        self.name = cookie_name(secret, "sign_in", secure=secure)
        options = {"digest_method": hashlib.sha256, "key_derivation": "hmac"}
        self._signer = URLSafeTimedSerializer(
            secret, salt="layerloop started sign-in", signer_kwargs=options
        )

    def dumps(self, started: StartedSignIn, next_page: str) -> str:
        """Return the cookie value of a started sign-in."""
        return str(self._signer.dumps([asdict(started) | {"url": ""}, next_page]))

    def open(self, cookie: str) -> tuple[StartedSignIn, str] | None:
        """Return the started sign-in of a cookie; None if it is forged or too old."""
        try:
            started, next_page = self._signer.loads(cookie, max_age=MAX_SECONDS)
        except BadData:
            return None
        return StartedSignIn(**started), str(next_page)


def open_provider(settings: Settings) -> IdentityProvider | None:
    """Return the identity provider of the settings; None if people sign in by tokens only.

    Raises:
        Refused: There is an issuer without a client id, or no group has a role.
    """
    if settings.oidc_issuer is None:
        return None
    if not settings.oidc_client_id or not settings.oidc_roles:
        raise Refused(
            "LAYERLOOP_OIDC_ISSUER needs LAYERLOOP_OIDC_CLIENT_ID and LAYERLOOP_OIDC_ROLES",
            'for instance LAYERLOOP_OIDC_ROLES=\'{"layerloop-reviewers": "annotator"}\'',
        )
    secret = settings.oidc_client_secret
    return IdentityProvider(
        settings.oidc_issuer,
        settings.oidc_client_id,
        secret.get_secret_value() if secret else None,
        settings.oidc_scope,
    )


@router.get("/sign-in")
def start_sign_in(request: Request, next: str = "") -> RedirectResponse:  # noqa: A002
    """Send the browser to the provider."""
    pending: PendingCookies = request.app.state.pending_sign_ins
    try:
        started = _provider(request).start(_redirect_uri(request))
    except (Refused, Unreachable) as error:
        return _refuse(request, error, "")
    response = RedirectResponse(started.url, 303)
    cookie = pending.dumps(started, next[:MAX_NEXT])
    response.set_cookie(pending.name, cookie, max_age=MAX_SECONDS, **_pending_options(request))
    return response


@router.get("/callback")
def finish_sign_in(
    request: Request, code: str = "", state: str = "", error: str = ""
) -> RedirectResponse:
    """Exchange the provider's code for a session, and open the sign-in page, which goes on."""
    pending: PendingCookies = request.app.state.pending_sign_ins
    opened = pending.open(request.cookies.get(pending.name, ""))
    next_page = opened[1] if opened else ""
    try:
        if opened is None or not hmac.compare_digest(state.encode(), opened[0].state.encode()):
            raise InvalidProviderAnswer("the sign-in was not started in this browser")
        if error or not code:
            raise InvalidProviderAnswer(error[:200] or "it sent no code")
        session = _sign_in(request, code, opened[0])
    except (Refused, Unreachable) as problem:
        response = _refuse(request, problem, next_page)
    else:
        cookies: SessionCookies = request.app.state.sessions
        response = RedirectResponse(_sign_in_page(signed_in="1", next=next_page), 303)
        cookie = cookies.dumps(session)
        options = cookie_options(request)
        response.set_cookie(cookies.name, cookie, max_age=cookies.seconds, **options)
    # A started sign-in is finished once.
    response.delete_cookie(pending.name, **_pending_options(request))
    return response


def _sign_in(request: Request, code: str, started: StartedSignIn) -> str:
    """Return the token of a new session. Raises Refused and Unreachable."""
    context = get_app_context(request)
    settings = context.settings
    provider = _provider(request)
    claims = provider.finish(_redirect_uri(request), code, started)
    identity = identities.read_identity(
        provider.issuer, claims, settings.oidc_name_claim, settings.oidc_roles_claim
    )
    sign_out_url = provider.sign_out_url(f"{settings.public_address}/sign-in")
    with context.database.transaction() as tx:
        reviewer = identities.sign_in_identity(tx, identity, settings.oidc_roles)
        if reviewer is not None:
            _end_own_session(tx, request, reviewer)
            cookies: SessionCookies = request.app.state.sessions
            session = begin_session(tx, reviewer.id, cookies.seconds, sign_out_url)
            tx.log(reviewer.name, "signed in", f"reviewer {reviewer.name}", by=provider.issuer)
            return session
    # Raised after the commit, which ends the sessions of a person who has lost the role.
    raise identities.NoMappedRole


def _end_own_session(tx: Transaction, request: Request, reviewer: Reviewer) -> None:
    """End the browser's present session. Raises OtherAccount if it is another reviewer's."""
    session = get_session_token(request)
    present = find_session(tx, session) if session else None
    if session is None or present is None:
        return
    if present.id != reviewer.id:
        raise OtherAccount(f"this browser is signed in as {present.name}", "sign out first")
    end_session(tx, session)


def _refuse(request: Request, error: LayerloopError, next_page: str) -> RedirectResponse:
    """Record a refused sign-in, and return the redirect to the sign-in page with its reason."""
    failures: SignInFailures = request.app.state.failures
    address = request.client.host if request.client else ""
    database = get_app_context(request).database
    failures.record(database, address, error.message, by="identity provider")
    problem = next(PROBLEMS[kind] for kind in type(error).__mro__ if kind in PROBLEMS)
    return RedirectResponse(_sign_in_page(problem=problem, next=next_page), 303)


def _sign_in_page(**query: str) -> str:
    return "/sign-in?" + urlencode({name: value for name, value in query.items() if value})


def _provider(request: Request) -> IdentityProvider:
    provider: IdentityProvider | None = request.app.state.identity_provider
    if provider is None:
        raise NotFound("there is no identity provider", "sign in with a token")
    return provider


def _redirect_uri(request: Request) -> str:
    return f"{get_app_context(request).settings.public_address}/api/oidc/callback"


def _pending_options(request: Request) -> dict[str, Any]:
    return cookie_options(request) | {"samesite": "lax"}
