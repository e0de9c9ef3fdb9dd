"""A small OpenID provider on loopback whose answers a test can falsify."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from joserfc import jwt
from joserfc.jwk import RSAKey

KEY = RSAKey.generate_key(2048, {"kid": "one", "use": "sig"})
OTHER_KEY = RSAKey.generate_key(2048, {"kid": "one", "use": "sig"})
CLIENT, SECRET = "layerloop", "a-secret"


class Provider:
    """The requests that the provider received, and its responses."""

    def __init__(self) -> None:
        self.issuer = ""
        self.person: dict[str, Any] = {"sub": "42", "preferred_username": "Ada"}
        self.userinfo: dict[str, Any] | None = None
        self.change_claims: Callable[[dict[str, Any]], object] = lambda claims: None
        self.change_metadata: Callable[[dict[str, Any]], object] = lambda metadata: None
        self.change_token: Callable[[dict[str, Any]], object] = lambda token: None
        self.algorithm, self.key = "RS256", KEY
        self.authorized: list[dict[str, str]] = []
        self.codes: dict[str, dict[str, str]] = {}

    def metadata(self) -> dict[str, Any]:
        paths = {"authorization_endpoint": "/authorize", "token_endpoint": "/token"}
        paths |= {"jwks_uri": "/jwks", "end_session_endpoint": "/end"}
        if self.userinfo is not None:
            paths["userinfo_endpoint"] = "/userinfo"
        found = {name: self.issuer + path for name, path in paths.items()}
        found |= {"issuer": self.issuer, "id_token_signing_alg_values_supported": ["RS256"]}
        self.change_metadata(found)
        return found

    def authorize(self, query: dict[str, str]) -> str:
        """Return the address to which the browser goes back."""
        self.authorized.append(query)
        code = secrets.token_urlsafe(8)
        self.codes[code] = query
        return query["redirect_uri"] + "?" + urlencode({"code": code, "state": query["state"]})

    def token(self, form: dict[str, str], authorization: str) -> tuple[int, dict[str, Any]]:
        requested = self.codes.pop(form.get("code", ""), None)
        digest = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        expected = "Basic " + base64.b64encode(f"{CLIENT}:{SECRET}".encode()).decode()
        if (
            requested is None
            or challenge != requested["code_challenge"]
            or authorization != expected
        ):
            return 400, {"error": "invalid_grant"}
        now = int(time.time())
        claims = self.person | {"iss": self.issuer, "aud": CLIENT, "nonce": requested["nonce"]}
        claims |= {"iat": now, "exp": now + 300}
        self.change_claims(claims)
        header = {"alg": self.algorithm, "kid": "one"}
        if self.algorithm == "RS256":
            signed = jwt.encode(header, claims, self.key)
        else:
            signed = sign_weakly(header, claims)
        token = {"access_token": "x", "token_type": "Bearer", "expires_in": 300, "id_token": signed}
        self.change_token(token)
        return 200, token


def sign_weakly(header: dict[str, Any], claims: dict[str, Any]) -> str:
    """Return a token with the client's secret as its key, or without a signature."""

    def encode(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    signed = ".".join(encode(json.dumps(part).encode()) for part in (header, claims))
    if header["alg"] == "none":
        return f"{signed}."
    return f"{signed}.{encode(hmac.digest(SECRET.encode(), signed.encode(), 'sha256'))}"


@contextmanager
def oidc_provider() -> Iterator[Provider]:
    """Serve a provider on a free port."""
    provider = Provider()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            query = {name: values[0] for name, values in parse_qs(parts.query).items()}
            if parts.path == "/authorize":
                self._answer(302, {}, {"location": provider.authorize(query)})
            else:
                self._answer(
                    200,
                    {
                        "/.well-known/openid-configuration": provider.metadata,
                        "/jwks": lambda: {"keys": [KEY.as_dict(private=False)]},
                        "/userinfo": lambda: provider.userinfo,
                    }[parts.path](),
                )

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"])).decode()
            form = {name: values[0] for name, values in parse_qs(body).items()}
            self._answer(*provider.token(form, self.headers.get("authorization", "")))

        def _answer(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for name, text in ({"content-type": "application/json"} | (headers or {})).items():
                self.send_header(name, text)
            self.end_headers()
            self.wfile.write(json.dumps(value).encode())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    provider.issuer = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield provider
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
