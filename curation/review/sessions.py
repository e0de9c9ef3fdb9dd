"""Sessions in the database, so that sign-out and deactivation take effect at once."""

from __future__ import annotations

import hashlib
import hmac
import secrets

import sqlalchemy as sa
from itsdangerous import BadData, URLSafeTimedSerializer

from curation.db import time_spans
from curation.db.engine import Transaction
from curation.db.tables import sessions, sign_in_tokens


class SessionCookies:
    """Signed cookies that carry a session's random token.

    The signature lets a forged cookie be rejected without a database query; whether a genuine
    cookie is valid is decided by its session's row.
    """

    def __init__(self, secret: str, hours: int, *, secure: bool = False) -> None:
        self.seconds = hours * 3_600
        self.name = cookie_name(secret, secure=secure)
        options = {"digest_method": hashlib.sha256, "key_derivation": "hmac"}
        self._signer = URLSafeTimedSerializer(
            secret, salt="layerloop session", signer_kwargs=options
        )

    def dumps(self, token: str) -> str:
        """Return the cookie value for a session token."""
        return str(self._signer.dumps(token))

    def open(self, cookie: str) -> str | None:
        """Return the token in a cookie, or None if it is forged, malformed or expired."""
        # The signature and the age are checked before anything is read from the database.
        try:
            found = self._signer.loads(cookie, max_age=self.seconds)
        except BadData:
            return None
        return found if isinstance(found, str) else None


def cookie_name(secret: str, purpose: str = "session", *, secure: bool = False) -> str:
    """Return the name of an instance's cookie.

    Browsers send a cookie to every port of a host, so instances on one machine need different
    names.

    Args:
        secret: The secret that signs the cookie.
        purpose: Purpose of the cookie.
        secure: Browsers reach the instance by https; the name then begins with `__Host-`, and
            browsers accept it from this host over https only.
    """
    digest = hmac.digest(secret.encode(), b"layerloop cookie name", hashlib.sha256)
    return f"{'__Host-' if secure else ''}layerloop_{purpose}_{digest.hex()[:8]}"


def begin_session(
    tx: Transaction, reviewer_id: int, seconds: int, sign_out_url: str | None = None
) -> str:
    """Start a session and return its token; only the token's hash is stored.

    Args:
        tx: The transaction.
        reviewer_id: Id of the reviewer.
        seconds: Seconds after which it expires.
        sign_out_url: URL that ends the session at the identity provider.
    """
    token = secrets.token_urlsafe(32)
    until = sa.func.now() + time_spans.seconds(seconds)
    # Delete ended sessions here, so that the table stays as small as the number of active ones.
    ended = sa.or_(sessions.c.expires_at < sa.func.now(), sessions.c.ended_at.is_not(None))
    tx.execute(sa.delete(sessions).where(sessions.c.reviewer_id == reviewer_id, ended))
    row = {"hash": hash_token(token), "reviewer_id": reviewer_id, "sign_out_url": sign_out_url}
    tx.execute(sa.insert(sessions).values(row | {"expires_at": until}))
    return token


def get_sign_out_url(tx: Transaction, token: str) -> str | None:
    """Return the URL that ends the session at the identity provider; None if there is none."""
    query = sa.select(sessions.c.sign_out_url).where(sessions.c.hash == hash_token(token))
    url: str | None = tx.scalar(query)
    return url


def end_session(tx: Transaction, token: str) -> None:
    """End one session; ending it again has no effect."""
    _end(tx, sessions.c.hash == hash_token(token))


def end_sessions(tx: Transaction, reviewer_id: int) -> None:
    """End every session of a reviewer and invalidate their unused sign-in tokens."""
    _end(tx, sessions.c.reviewer_id == reviewer_id)
    unused = sa.and_(
        sign_in_tokens.c.reviewer_id == reviewer_id, sign_in_tokens.c.used_at.is_(None)
    )
    tx.execute(sa.update(sign_in_tokens).where(unused).values(expires_at=sa.func.now()))


def hash_token(token: str) -> str:
    """Return the SHA-256 under which a session token or sign-in token is stored."""
    return hashlib.sha256(token.encode()).hexdigest()


def _end(tx: Transaction, which: sa.ColumnElement[bool]) -> None:
    active = sessions.c.ended_at.is_(None)
    tx.execute(sa.update(sessions).where(which, active).values(ended_at=sa.func.now()))
