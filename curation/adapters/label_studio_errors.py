"""Errors of Label Studio's client and of the network, as errors of this package."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx
from label_studio_sdk.core.api_error import ApiError

from curation.errors import Conflict, LayerloopError, NotFound, Refused, Unreachable


def get_error_detail(error: ApiError) -> str:
    """Return the server's error message, without ids and traces, so that equal errors are equal."""
    body = error.body if isinstance(error.body, Mapping) else {}
    messages = [str(message) for message in _leaves(body.get("validation_errors"))] or [
        str(body.get("detail") or "")
    ]
    return " ".join(" ".join(messages).split())[:300] or "no reason given"


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        for item in value.values():
            yield from _leaves(item)
    elif isinstance(value, list):
        for item in value:
            yield from _leaves(item)
    elif value:
        yield value


@contextmanager
def translate_errors(address: str) -> Iterator[None]:
    """Translate errors of the client and the network to errors of this package."""
    try:
        yield
    except httpx.TransportError as error:
        hint = "check that it runs; nothing is lost: both sides are synchronized once it answers"
        raise Unreachable(f"Label Studio at {address} does not answer: {error}", hint) from error
    except ApiError as error:
        raise _translate(address, error) from error


def _translate(address: str, error: ApiError) -> LayerloopError:
    message = f"Label Studio at {address} answered {error.status_code}: {get_error_detail(error)}"
    if error.status_code in {401, 403}:
        return Unreachable(
            f"Label Studio at {address} does not accept the token ({error.status_code})",
            "set a token of that server in LAYERLOOP_LABELING_TOKEN",
        )
    if error.status_code == 404:
        return NotFound(message)
    if error.status_code == 409:
        return Conflict(message)
    if error.status_code is None or error.status_code >= 500 or error.status_code == 429:
        return Unreachable(message, "see Label Studio's log; the next try may succeed")
    return Refused(
        f"Label Studio at {address} refuses the request: {get_error_detail(error)}",
        "see Label Studio's log",
    )
