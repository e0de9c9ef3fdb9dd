"""Checks whether browsers can read images in the store, without the API in between."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from curation.adapters.s3 import S3Store
from curation.adapters.s3_public import allow_origin, get_as_browser
from curation.errors import LayerloopError
from curation.runtime.context import AppContext
from curation.runtime.finding import Finding
from curation.store_inventory import InstanceStore

log = logging.getLogger("layerloop.images")

RETRY_SECONDS: Final = 60.0
PROBE: Final = b"layerloop: can browsers read this store?\n"
PROBE_TYPE: Final = "image/webp"
PROBE_SECONDS: Final = 60


@dataclass(frozen=True)
class ImageDelivery:
    """Whether browsers read images in the store.

    Attributes:
        problem: Why they cannot; empty if they can.
        hint: What to do about it.
        hides_write_times: Whether answers do not tell when an object was written. Gold is written
            at another time than the candidates around it, so reviewers must not see this.
    """

    problem: str = ""
    hint: str = ""
    hides_write_times: bool = False

    @property
    def works(self) -> bool:
        """Whether browsers can read images in the store."""
        return not self.problem


SHOWS_WRITE_TIMES: Final = (
    "its answers have Last-Modified, which tells gold from candidates; images of the review page "
    "pass through the API"
)
HIDE_WRITE_TIMES: Final = (
    "hide Last-Modified in a proxy before the store (docs/guides/deploying.md shows one)"
)


def check_delivery(store: S3Store, origin: str) -> ImageDelivery:
    """Read an object at the public endpoint as a page of the origin would.

    Args:
        store: The store, with a public endpoint. A small object is put into it, which the garbage
            collector removes later.
        origin: Origin of the pages.
    """
    cors = "allow GET from " + origin + " in the bucket's CORS rules"
    try:
        now = int(time.time())
        url = str(
            store.address(store.put(PROBE), PROBE_TYPE, now - PROBE_SECONDS, 2 * PROBE_SECONDS)
        )
        answer = get_as_browser(url, origin)
        unsigned = get_as_browser(url.partition("?")[0], origin)
    except LayerloopError as error:
        return ImageDelivery(error.message, error.hint)
    if answer.status != 200 or answer.body != PROBE:
        return ImageDelivery(
            f"a presigned GET gets status {answer.status}",
            "the endpoint must pass the path, the query and the Host header on unchanged",
        )
    if unsigned.status == 200:
        return ImageDelivery(
            "anybody may read objects without a signature",
            "make the bucket private; a proxy before it must not sign",
        )
    if answer.media_type != PROBE_TYPE:
        return ImageDelivery(
            f"it answers with the content type {answer.media_type!r} in place of the one asked for",
            "the server must support response-content-type",
        )
    if answer.allowed_origin not in ("*", origin):
        return ImageDelivery("pages may not read its answers (CORS)", cors)
    return ImageDelivery(hides_write_times=not answer.written_at)


def check_image_delivery(context: AppContext) -> Finding:
    """Check that browsers can read images in the store, if a setting says so."""
    store = context.store
    if not isinstance(store, S3Store) or store.public_endpoint is None:
        return Finding("images", ok=True, message="they pass through the API")
    found = check_delivery(store, context.settings.public_origin)
    if not found.works:
        message = f"{store.public_endpoint}: {found.problem}; images pass through the API"
        return Finding("images", False, message, found.hint)
    if not found.hides_write_times:
        message = f"browsers read them at {store.public_endpoint}; {SHOWS_WRITE_TIMES}"
        return Finding("images", True, message, HIDE_WRITE_TIMES)
    return Finding("images", ok=True, message=f"browsers read them at {store.public_endpoint}")


def prepare_delivery(store: S3Store, origin: str) -> ImageDelivery:
    """Add the CORS rule to the bucket if it is missing and may be added, and check the delivery.

    Args:
        store: The store, with a public endpoint.
        origin: Origin of the pages.
    """
    try:
        if allow_origin(store.client, store.bucket, origin):
            log.info("bucket %s answers pages of %s from now on", store.bucket, origin)
    except LayerloopError as error:
        # A proxy may add the headers in place of the bucket.
        found = check_delivery(store, origin)
        return found if found.works else ImageDelivery(error.message, error.hint)
    return check_delivery(store, origin)


def start_delivery(
    store: InstanceStore, origin: str, use: Callable[[ImageDelivery], None]
) -> threading.Thread | None:
    """Prepare the delivery in a thread until it works, so that the API starts without the store.

    Args:
        store: The store.
        origin: Origin of the pages.
        use: Receives the result once it works.

    Returns:
        The thread; None if the store has no public endpoint.
    """
    if not isinstance(store, S3Store) or store.public_endpoint is None:
        return None

    def prepare() -> None:
        found = prepare_delivery(store, origin)
        while not found.works:
            log.warning("images pass through the API: %s (%s)", found.problem, found.hint)
            time.sleep(RETRY_SECONDS)
            found = prepare_delivery(store, origin)
        if not found.hides_write_times:
            log.warning("%s: %s (%s)", store.public_endpoint, SHOWS_WRITE_TIMES, HIDE_WRITE_TIMES)
        use(found)

    thread = threading.Thread(target=prepare, name="image delivery", daemon=True)
    thread.start()
    return thread
