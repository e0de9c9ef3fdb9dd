"""URLs of layers: presigned ones of the store where browsers may read it, else the API's own."""

from __future__ import annotations

from curation.api.signed_urls import SignedUrls
from curation.ports import ObjectStore
from curation.runtime.image_delivery import ImageDelivery

CLOCK_SLACK = 60
"""Seconds that a presigned URL is dated back, since the store's clock may be behind."""


class ImageUrls:
    """URLs of layers that are valid for one to two windows, and do not change within a window.

    Args:
        own: Signed URLs of the API, for every image.
        store: The object store.
    """

    def __init__(self, own: SignedUrls, store: ObjectStore) -> None:
        self.own = own
        self._store = store
        self._delivery = ImageDelivery("it has not been checked yet")

    def set_delivery(self, delivery: ImageDelivery) -> None:
        """Use the store's public endpoint as far as it was found to work."""
        self._delivery = delivery

    def layer(self, sha256: str, *, blind: bool = False) -> str:
        """Return the URL of a layer as it is stored.

        Args:
            sha256: Name of a layer that the database knows; other objects are not given out.
            blind: The reader must not learn when the layer was stored.
        """
        if self._delivery.works and (self._delivery.hides_write_times or not blind):
            start, until = self.own.window()
            signed_at = start - CLOCK_SLACK
            url = self._store.address(sha256, "image/webp", signed_at, until - signed_at)
            if url is not None:
                return url
        return self.own.address(sha256)
