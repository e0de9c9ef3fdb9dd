"""Client of an identity provider: OpenID Connect with the authorization code flow and PKCE."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx2
from authlib.integrations.base_client import OAuthError
from authlib.integrations.starlette_client import StarletteOAuth2App
from joserfc.errors import JoseError

from curation.errors import Refused, Unreachable

METADATA_PATH = "/.well-known/openid-configuration"
"""Path of a provider's description (OpenID Connect Discovery 1.0, section 4)."""

ALGORITHMS = frozenset(
    {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}
)
"""Accepted signatures of ID tokens; "none" and those with a shared secret are not among them."""

CLOCK_SKEW_SECONDS = 60
METADATA_SECONDS = 3_600
"""Seconds after which the provider's metadata and keys are read again."""

TIMEOUT_SECONDS = 10

Claims = Mapping[str, Any]


class InvalidProviderAnswer(Refused):
    """The identity provider refused the sign-in, or its answer is not valid."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"the identity provider did not sign you in: {reason}", "try again, or ask an admin"
        )


@dataclass(frozen=True)
class StartedSignIn:
    """A sign-in at the provider: where the browser goes, and what the answer must match."""

    url: str
    state: str
    nonce: str
    code_verifier: str


class IdentityProvider:
    """An OpenID provider, whose metadata is read at the first use.

    Args:
        issuer: URL of the provider, as in its ID tokens.
        client_id: Id under which Layerloop is registered.
        client_secret: Secret of the registration; None for a public client.
        scope: The scopes to request, separated by spaces.
    """

    def __init__(self, issuer: str, client_id: str, client_secret: str | None, scope: str) -> None:
        self.issuer = issuer
        self._client_id = client_id
        self._client_secret = client_secret
        self._scope = scope
        self._lock = threading.Lock()
        self._client: Any = None
        self._read_at = 0.0

    def start(self, redirect_uri: str) -> StartedSignIn:
        """Return where to send the browser, with new values of state, nonce and code verifier.

        Args:
            redirect_uri: The URL to which the provider returns the browser.

        Raises:
            Unreachable: The provider does not answer.
            Refused: Its metadata is not usable.
        """
        client = self._open()
        data = _run(client.create_authorization_url(redirect_uri))
        return StartedSignIn(data["url"], data["state"], data["nonce"], data["code_verifier"])

    def finish(self, redirect_uri: str, code: str, started: StartedSignIn) -> Claims:
        """Exchange an authorization code, and return the checked claims of the person.

        Signature, issuer, audience, expiry and nonce of the ID token are checked. Claims that only
        the userinfo endpoint has are added; those of the ID token take precedence.

        Args:
            redirect_uri: The URL of the start.
            code: The code that the provider gave to the browser.
            started: The result of the start; its state was compared already.

        Raises:
            Unreachable: The provider does not answer.
            InvalidProviderAnswer: The code or the ID token is not valid.
        """
        client = self._open()
        token = _run(
            client.fetch_access_token(
                redirect_uri=redirect_uri, code=code, code_verifier=started.code_verifier
            )
        )
        if "id_token" not in token:
            raise InvalidProviderAnswer("it sent no ID token")
        options = {
            "iss": {"essential": True, "values": [self.issuer]},
            "aud": {"essential": True, "values": [self._client_id]},
        }
        claims = dict(
            _run(
                client.parse_id_token(
                    token, started.nonce, claims_options=options, leeway=CLOCK_SKEW_SECONDS
                )
            )
        )
        if client.server_metadata.get("userinfo_endpoint") and "access_token" in token:
            more = dict(_run(client.userinfo(token=token)))
            # The answer of another person's token must not be mixed in.
            if more.get("sub") == claims["sub"]:
                claims = more | claims
        return claims

    def sign_out_url(self, return_url: str) -> str | None:
        """Return the URL that ends the session at the provider; None if it offers none.

        Args:
            return_url: The URL to which the provider returns the browser.
        """
        client = self._open()
        if not client.server_metadata.get("end_session_endpoint"):
            return None
        logout = _run(
            client.create_logout_url(post_logout_redirect_uri=return_url, client_id=self._client_id)
        )
        return str(logout["url"])

    def _open(self) -> Any:
        """Return the client with metadata that is not too old."""
        with self._lock:
            if self._client is None or time.monotonic() - self._read_at > METADATA_SECONDS:
                client = StarletteOAuth2App(
                    None,
                    name="provider",
                    client_id=self._client_id,
                    client_secret=self._client_secret,
                    server_metadata_url=self.issuer.rstrip("/") + METADATA_PATH,
                    client_kwargs={
                        "scope": self._scope,
                        "code_challenge_method": "S256",
                        "timeout": TIMEOUT_SECONDS,
                        "follow_redirects": False,
                    },
                )
                self._check_metadata(_run(client.load_server_metadata()))
                self._client, self._read_at = client, time.monotonic()
            return self._client

    def _check_metadata(self, metadata: dict[str, Any]) -> None:
        """Check the issuer and the endpoints, and keep only accepted algorithms."""
        if metadata.get("issuer") != self.issuer:
            raise InvalidProviderAnswer(
                f"its issuer is {str(metadata.get('issuer'))[:200]!r}, not {self.issuer!r}"
            )
        for name in ("authorization_endpoint", "token_endpoint", "jwks_uri"):
            url = str(metadata.get(name, ""))
            # Only a provider on http, such as one of a test, has endpoints on http.
            if urlsplit(url).scheme not in {"https", urlsplit(self.issuer).scheme}:
                raise InvalidProviderAnswer(f"its {name} is {url[:200]!r}")
        offered = metadata.get("id_token_signing_alg_values_supported") or ["RS256"]
        accepted = [name for name in offered if name in ALGORITHMS]
        if not accepted:
            raise InvalidProviderAnswer(f"its ID tokens are signed by {', '.join(offered)[:200]}")
        metadata["id_token_signing_alg_values_supported"] = accepted


def _run(call: Coroutine[Any, Any, Any]) -> Any:
    """Run a call of the asynchronous client, and translate its errors."""
    try:
        # In a thread of its own, since the caller's thread may run an event loop already.
        with ThreadPoolExecutor(1, "oidc") as pool:
            return pool.submit(asyncio.run, call).result()
    except httpx2.HTTPStatusError as error:
        raise Unreachable(
            f"the identity provider answered {error.response.status_code}", "try again later"
        ) from error
    except httpx2.HTTPError as error:
        raise Unreachable("the identity provider does not answer", "try again later") from error
    except OAuthError as error:
        raise InvalidProviderAnswer(str(error.error or error)[:200]) from error
    except (JoseError, ValueError, KeyError, TypeError, RuntimeError) as error:
        # Of Authlib, for documents and tokens that are malformed or fail a check.
        raise InvalidProviderAnswer(f"{type(error).__name__}: {str(error)[:200]}") from error
