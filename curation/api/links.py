"""Links: addresses of stored images that anybody may open who was given one, for a short while."""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Callable

WINDOW = 600
"""Seconds in which an image keeps one address, so that browsers cache it; it works for one to two such windows."""


class Links:
    """Signs and checks addresses; each is bound to one image, one format and one end."""

    def __init__(self, secret: str, clock: Callable[[], float] = time.time) -> None:
        self._key = hmac.digest(secret.encode(), b"layerloop layer links", hashlib.sha256)
        self._clock = clock

    def address(self, sha256: str, form: str = "webp") -> str:
        """The path at which the API serves a stored image as "webp" or "png"."""
        until = (int(self._clock()) // WINDOW + 2) * WINDOW
        return f"/api/layers/{sha256}.{form}?until={until}&sign={self._sign(sha256, form, until)}"

    def seconds_left(self, sha256: str, form: str, until: int, sign: str) -> int:
        """How long an address still works; 0 when it is too old or was not made here."""
        genuine = hmac.compare_digest(self._sign(sha256, form, until).encode(), sign.encode())
        return max(until - int(self._clock()), 0) if genuine else 0

    def _sign(self, sha256: str, form: str, until: int) -> str:
        text = f"{sha256}.{form}?{until}".encode()
        return hmac.digest(self._key, text, hashlib.sha256).hex()[:32]
