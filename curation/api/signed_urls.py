"""Signed URLs of stored images, valid for a short time."""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Callable

WINDOW = 600
"""Seconds for which an image keeps its URL, so that browsers cache it.

A URL is valid for one to two such windows.
"""


class SignedUrls:
    """Signed URLs of images; a signature covers the image, its format, its size and the expiry.

    Args:
        secret: The secret; the key is derived from it.
        clock: Function that returns the time in seconds since the epoch.
    """

    def __init__(self, secret: str, clock: Callable[[], float] = time.time) -> None:
        self._key = hmac.digest(secret.encode(), b"layerloop layer links", hashlib.sha256)
        self._clock = clock

    def address(self, sha256: str, image_format: str = "webp", side: int = 0) -> str:
        """Return the signed URL of a stored image.

        Args:
            sha256: Name of the image.
            image_format: File format, "webp" or "png".
            side: Longer side in pixels to shrink it to; 0 keeps its size.

        Returns:
            Path and query.
        """
        _, until = self.window()
        shrunk = f"side={side}&" if side else ""
        sign = self._sign(sha256, image_format, side, until)
        return f"/api/layers/{sha256}.{image_format}?{shrunk}until={until}&sign={sign}"

    def window(self) -> tuple[int, int]:
        """Return the start of the present window, and the end of the next.

        URLs are valid until then, so that they do not change within a window.
        """
        start = int(self._clock()) // WINDOW * WINDOW
        return start, start + 2 * WINDOW

    def seconds_left(self, sha256: str, form: str, until: int, sign: str, side: int = 0) -> int:
        """Return how long a URL is still valid.

        Args:
            sha256: Name of the image.
            form: File format.
            until: Expiry, in seconds since the epoch.
            sign: The signature.
            side: Longer side in pixels; 0 for the image's own size.

        Returns:
            Seconds; 0 if the URL has expired or the signature is wrong.
        """
        genuine = hmac.compare_digest(self._sign(sha256, form, side, until).encode(), sign.encode())
        return max(until - int(self._clock()), 0) if genuine else 0

    def _sign(self, sha256: str, form: str, side: int, until: int) -> str:
        text = f"{sha256}.{form}?{side}&{until}".encode()
        return hmac.digest(self._key, text, hashlib.sha256).hex()[:32]
