"""Requests to the Hub through its own client, whose errors become ours."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from curation.adapters.hub.address import HubAddress
from curation.errors import Conflict, LayerloopError, NotFound, Refused, Unreachable

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

T = TypeVar("T")

ATTEMPTS = 5
MAX_WAIT_S = 300.0
"""The longest wait that a server may ask for before a request is repeated."""


def require_client() -> None:
    """Import the Hub's client, before long work that needs it. Raises ModuleNotFoundError."""
    import huggingface_hub  # noqa: F401


def open_hub() -> HfApi:
    """Return the Hub's client, without progress bars of its own.

    The token is HF_TOKEN or that of `hf auth login`, the server HF_ENDPOINT.

    Raises:
        ModuleNotFoundError: huggingface_hub is not installed.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    return HfApi(library_name="layerloop")


@contextmanager
def hub_errors(address: HubAddress) -> Iterator[None]:
    """Turn errors of the Hub and of the connection to it into ours.

    Args:
        address: The repository that the requests are about.

    Raises:
        NotFound: The repository, revision or file does not exist.
        Conflict: Another process changed the repository.
        Refused: The token is missing or may not do this, or the Hub refuses the content.
        Unreachable: The Hub does not answer, or limits the rate of requests.
    """
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    try:
        yield
    except HfHubHTTPError as error:
        raise _translate(error, address) from error
    except OfflineModeIsEnabled as error:
        raise Refused("HF_HUB_OFFLINE forbids requests to the Hub", "unset it") from error
    except (httpx2.HTTPError, ConnectionError, TimeoutError) as error:
        raise Unreachable(
            f"the Hub does not answer: {_one_line(error)}",
            "check the network and HF_ENDPOINT, and run the same command again to resume",
        ) from error
    except (ValueError, RuntimeError) as error:  # of LFS and Xet transfers
        cause = _http_error(error)
        if cause is not None:
            raise _translate(cause, address) from error
        raise Refused(
            f"the Hub refused {address}: {_one_line(error)}",
            "run the same command again: it sends only what is missing",
        ) from error


def retry_busy(request: Callable[[], T], wait: Callable[[float], None] = time.sleep) -> T:
    """Repeat a request while the Hub is busy (429 and 5xx), as long as it asks to wait.

    Args:
        request: The request, which may be repeated. The client itself repeats other requests.
        wait: Function that waits for a number of seconds.
    """
    from huggingface_hub.errors import HfHubHTTPError

    for attempt in range(ATTEMPTS):
        try:
            return request()
        except HfHubHTTPError as error:
            status = error.response.status_code
            if attempt == ATTEMPTS - 1 or (status != 429 and status < 500):
                raise
            asked = error.response.headers.get("Retry-After", "")
            wait(min(float(asked), MAX_WAIT_S) if asked.isdigit() else 2.0**attempt)
    raise AssertionError("unreachable")


def _translate(error: HfHubHTTPError, address: HubAddress) -> LayerloopError:
    """Return our error for an answer of the Hub."""
    from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, RevisionNotFoundError

    status = error.response.status_code
    said = _one_line(error.server_message or "")
    what = f"{address.kind} {address.repository}"
    again = "run the same command again: it sends only what is missing"
    if isinstance(error, RevisionNotFoundError):
        return NotFound(f"{what} has no revision {address.revision!r}", "check the name after @")
    if isinstance(error, EntryNotFoundError):
        return NotFound(f"{what} has no such file: {address.file}", "check the path")
    if isinstance(error, GatedRepoError):
        return Refused(f"{what} is gated", "accept its conditions on its page, and set HF_TOKEN")
    match status:
        case 401:
            return Refused(
                f"the Hub accepts no token for {what}: HF_TOKEN is missing, wrong or expired, or "
                "there is no such repository",
                "set HF_TOKEN to a token with write access for a push, or run 'hf auth login'",
            )
        case 403:
            return Refused(
                f"the token has no access to {what}: {said or 'forbidden'}",
                "choose a repository of your own, and a token that may write to it",
            )
        case 404:
            return NotFound(
                f"there is no {what} on the Hub",
                "check owner and name; a private repository needs HF_TOKEN",
            )
        case 409 | 412:
            return Conflict(f"{what} was changed at the same time: {said}", again)
        case 413:
            return Refused(
                f"the Hub finds {what} too large: {said}",
                "push a snapshot as --format parquet, and see the limits of your account",
            )
        case 429:
            return Unreachable(f"the Hub limits the rate of requests for {what}", again)
        case _ if status >= 500:
            return Unreachable(f"the Hub has a problem ({status}): {said}", again)
    return Refused(f"the Hub refused {what} ({status}): {said}", "change what it names")


def _http_error(error: BaseException) -> HfHubHTTPError | None:
    """Return the answer of the Hub that caused an error, or None."""
    from huggingface_hub.errors import HfHubHTTPError

    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, HfHubHTTPError):
        cause = cause.__cause__
    return cause


def _one_line(text: object) -> str:
    """Return the first 200 characters of a message in one line."""
    return " ".join(str(text).split())[:200]
