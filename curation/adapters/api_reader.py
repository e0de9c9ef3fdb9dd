"""Snapshots of a remote instance, read through its HTTP API with a token."""

from __future__ import annotations

import hashlib
import time
from typing import Any

import httpx

from curation.errors import (
    Corrupt,
    LayerloopError,
    NotFound,
    Refused,
    TakenDown,
    Unreachable,
)

TRIES = 5
"""Attempts at one request, with growing pauses between them."""
FIRST_PAUSE = 0.3
TRANSIENT = frozenset({429, 500, 502, 503, 504})
TIMEOUT = httpx.Timeout(60.0, connect=10.0)


class ApiReader:
    """The snapshots of an instance, to read; several threads may use it.

    Args:
        url: URL of the instance, such as https://layers.example.org.
        token: An API token with the scope snapshots:read.
        snapshot: Name of the snapshot: tag, id, or beginning of an id.
    """

    def __init__(self, url: str, token: str, snapshot: str) -> None:
        if not token:
            raise Refused(
                f"{url} needs a token",
                "set LAYERLOOP_TOKEN to a token with the scope snapshots:read; an administrator "
                "creates it",
            )
        self.url = url.rstrip("/")
        self.client = httpx.Client(
            base_url=self.url,
            headers={"authorization": f"Bearer {token}"},
            timeout=TIMEOUT,
            limits=httpx.Limits(max_connections=64),
        )
        try:
            page = self._get(f"/api/snapshots/{snapshot}", limit=1).json()
        except BaseException:
            self.client.close()
            raise
        self.info: dict[str, Any] = page["snapshot"]
        """Metadata of the snapshot in the instance: id, tags, query, parent, notes, review."""

    def get(self, sha256: str) -> bytes:
        """Return an object of the snapshot, after checking it.

        Args:
            sha256: The object's name, 64 hex digits.

        Raises:
            NotFound: The snapshot has no such object.
            Corrupt: The answer has another sha256.
            Unreachable: The instance does not answer.
        """
        data = self._get(f"/api/snapshots/{self.info['id']}/objects/{sha256}").content
        if hashlib.sha256(data).hexdigest() != sha256:
            raise Corrupt(
                f"object {sha256} of {self.url} does not match its sha256",
                "run 'layerloop snapshot verify' on the instance",
            )
        return data

    def close(self) -> None:
        """Close the connections."""
        self.client.close()

    def _get(self, path: str, **query: int) -> httpx.Response:
        for attempt in range(TRIES):
            try:
                response = self.client.get(path, params=query)
            except httpx.TransportError as error:
                failure = str(error) or type(error).__name__
            except httpx.InvalidURL as error:
                raise Refused(
                    f"{self.url} is not a URL: {error}", "for example https://h"
                ) from error
            else:
                if response.status_code not in TRANSIENT:
                    return _checked(self.url, response)
                failure = f"status {response.status_code}"
            if attempt + 1 < TRIES:
                time.sleep(FIRST_PAUSE * 2**attempt)
        raise Unreachable(
            f"{self.url} does not answer: {failure}", "run the same command again to resume"
        )


def _checked(url: str, response: httpx.Response) -> httpx.Response:
    """Return a successful response; raise an error of the API as one of this package."""
    if response.status_code == 200:
        return response
    try:
        body = response.json()
        message, hint = str(body["error"]["message"]), str(body["error"].get("hint", ""))
    except (ValueError, KeyError, TypeError):
        message, hint = f"{url} answered with status {response.status_code}", "check the address"
    if response.status_code in (401, 403):
        raise Refused(message, hint or "the token needs the scope snapshots:read")
    if response.status_code == 404:
        raise NotFound(message, hint)
    if response.status_code == 410:
        raise TakenDown(message, hint)
    raise LayerloopError(message, hint)
