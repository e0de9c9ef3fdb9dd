"""Uploads of generated batches: one batch is stored while the next is generated."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Final

from curation.datasets.samples import StoredLayer
from curation.domain import LayerRole
from curation.jobs.lease_heartbeat import WORKER_ID, stop_requested
from curation.jobs.trouble import InstanceTrouble, is_instance_trouble, retry_in_trouble
from curation.ports import Layers
from curation.rounds import generation
from curation.runtime.context import AppContext

log = logging.getLogger("layerloop.jobs")

UPLOAD_THREADS: Final = 8
UPLOAD_PATIENCE_SECONDS = 60.0
"""Time for which a generated batch is kept while the store or the database does not answer."""

Stored = Mapping[LayerRole, StoredLayer]


class Uploads:
    """Stores generated batches in the background, at most one at a time.

    Args:
        context: The app context.
    """

    def __init__(self, context: AppContext) -> None:
        self._context = context
        self._puts = ThreadPoolExecutor(UPLOAD_THREADS, "upload")
        self._batches = ThreadPoolExecutor(1, "uploads")
        self._pending: Future[int] | None = None
        self.kept = 0

    def submit(self, generated: Mapping[uuid.UUID, Layers], settings: Mapping[str, str]) -> None:
        """Store a batch in the background, after waiting for the batch before.

        Args:
            generated: The layers of each candidate.
            settings: What they were generated with.

        Raises:
            InstanceTrouble: The batch before could not be stored; this one is stored first.
        """
        before, self._pending = (
            self._pending,
            self._batches.submit(self._store, generated, settings),
        )
        self._add(before)

    def finish(self) -> None:
        """Wait for the last batch. Raises InstanceTrouble if it could not be stored."""
        last, self._pending = self._pending, None
        self._add(last)

    def close(self) -> None:
        """End the threads after their work."""
        self._batches.shutdown()
        self._puts.shutdown()

    def _add(self, batch: Future[int] | None) -> None:
        if batch is not None:
            self.kept += batch.result()

    def _store(self, generated: Mapping[uuid.UUID, Layers], settings: Mapping[str, str]) -> int:
        """Store what can be stored, and release the rest without an attempt."""
        puts = {id_: self._puts.submit(self._put, layers) for id_, layers in generated.items()}
        stored, troubles = {}, []
        for id_, put in puts.items():
            error = put.exception()
            if error is None:
                stored[id_] = put.result()
            elif is_instance_trouble(error):
                troubles.append(error)
            else:
                raise error
        lost = [id_ for id_ in generated if id_ not in stored]
        kept = self._in_transaction(stored, lost, settings)
        if troubles:
            raise InstanceTrouble(
                f"{len(troubles)} of {len(generated)} generated candidates could not be stored: "
                f"{troubles[0]}"
            ) from troubles[0]
        return kept

    def _put(self, layers: Layers) -> Stored:
        store = self._context.store
        return retry_in_trouble(
            lambda: generation.store_layers(store, layers), UPLOAD_PATIENCE_SECONDS, stop_requested
        )

    def _in_transaction(
        self,
        stored: Mapping[uuid.UUID, Stored],
        lost: list[uuid.UUID],
        settings: Mapping[str, str],
    ) -> int:
        def save() -> int:
            with self._context.database.transaction() as tx:
                generation.release_unfinished(tx, lost, WORKER_ID)
                return generation.save_layers(tx, stored, WORKER_ID, settings)

        return retry_in_trouble(save, UPLOAD_PATIENCE_SECONDS, stop_requested)


@contextmanager
def background_uploads(context: AppContext) -> Iterator[Uploads]:
    """Provide uploads, and wait for them at the end of the block, also after an error."""
    uploads = Uploads(context)
    try:
        yield uploads
        uploads.finish()
    except BaseException:
        # The batch before is kept even if the present one failed.
        try:
            uploads.finish()
        except InstanceTrouble as trouble:
            log.warning("%s", trouble)
        raise
    finally:
        uploads.close()
