"""Signed URLs of stored images, valid for a short time."""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Callable

WINDOW = 600
"""Seconds in which an image keeps one address, so that browsers cache it; it works for one to two such windows."""


class SignedUrls:
    """Signs and checks addresses; each is bound to one image, one format, one size and one end."""

    def __init__(self, secret: str, clock: Callable[[], float] = time.time) -> None:
        self._key = hmac.digest(secret.encode(), b"layerloop layer links", hashlib.sha256)
        self._clock = clock

    def address(self, sha256: str, form: str = "webp", side: int = 0) -> str:
        """The path of a stored image as "webp" or "png", shrunk to a longer side where one is given."""
        until = (int(self._clock()) // WINDOW + 2) * WINDOW
        shrunk = f"side={side}&" if side else ""
        return f"/api/layers/{sha256}.{form}?{shrunk}until={until}&sign={self._sign(sha256, form, side, until)}"

    def seconds_left(self, sha256: str, form: str, until: int, sign: str, side: int = 0) -> int:
        """How long an address still works; 0 when it is too old or was not made here."""
        genuine = hmac.compare_digest(self._sign(sha256, form, side, until).encode(), sign.encode())
        return max(until - int(self._clock()), 0) if genuine else 0

    def _sign(self, sha256: str, form: str, side: int, until: int) -> str:
        text = f"{sha256}.{form}?{side}&{until}".encode()
        return hmac.digest(self._key, text, hashlib.sha256).hex()[:32]
