"""The job that draws both sides of a comparison."""

from __future__ import annotations

import logging
import time
import uuid
from typing import Final

from curation.checkpoints import registry
from curation.comparison_values import DrawingMethod
from curation.comparisons import drawing
from curation.comparisons.drawing import ClaimedDrawings
from curation.db import leases
from curation.domain import LayerRole, Progress
from curation.jobs.lease_heartbeat import (
    WORKER_ID,
    Stopped,
    register_worker,
    renewing_leases,
    stop_requested,
)
from curation.jobs.looking import SESSION_SECONDS
from curation.jobs.model_cache import evict, get_generator
from curation.jobs.trouble import (
    InstanceTrouble,
    WorkerTrouble,
    breakers,
    describe,
    is_instance_trouble,
    retry_in_trouble,
)
from curation.jobs.uploads import UPLOAD_PATIENCE_SECONDS
from curation.ports import Layers
from curation.rounds.generation import generate_layers, store_layers
from curation.runtime.context import AppContext, load_object

log = logging.getLogger("layerloop.jobs")

DRAW_BATCH_SIZE: Final = 16
"""Number of drawings of one side that a worker claims at a time."""


def draw_comparisons(context: AppContext, number: int) -> None:
    """Draw what a comparison still needs, for a while; the job is sent again if some is left.

    Args:
        context: The app context.
        number: Number of the comparison.

    Raises:
        InstanceTrouble: The store, the database or a disk fails; no attempt was counted.
        WorkerTrouble: This worker cannot load a checkpoint, or a batch failed.
        Stopped: The worker should end; its batch is released.
    """
    register_worker(context)
    deadline = time.monotonic() + SESSION_SECONDS
    with renewing_leases(context, leases.DRAW):
        while claimed := _claim(context, number):
            kept = _draw_batch(context, claimed)
            log.info("comparison %d: kept %d drawings", number, kept)
            if stop_requested.is_set() or time.monotonic() > deadline:
                return


def _claim(context: AppContext, number: int) -> ClaimedDrawings | None:
    with context.database.transaction() as tx:
        size = 1 if breakers["generate"].is_probing else DRAW_BATCH_SIZE
        seconds = context.settings.lease_seconds
        claimed = drawing.claim_drawings(tx, number, WORKER_ID, size, seconds)
        if claimed is not None and drawing.next_to_draw(tx) == number:
            # Wake another worker for the rest.
            tx.enqueue(leases.DRAW, number)
        return claimed


def _draw_batch(context: AppContext, claimed: ClaimedDrawings) -> int:
    """Draw one batch without an open transaction, store it, and return how many were kept."""
    try:
        layers = _draw(context, claimed)
        stored = {
            id_: retry_in_trouble(
                lambda one=one: store_layers(context.store, one),  # type: ignore[misc]
                UPLOAD_PATIENCE_SECONDS,
                stop_requested,
            )
            for id_, one in layers.items()
        }
        with context.database.transaction() as tx:
            kept = drawing.save_drawings(tx, stored, WORKER_ID)
    except Stopped:
        _release(context, claimed)
        raise
    except WorkerTrouble:
        raise
    except Exception as error:
        log.exception("%d drawings of a comparison failed", len(claimed.drawings))
        if is_instance_trouble(error):
            _release(context, claimed)
            raise InstanceTrouble(describe(error)) from error
        # One of them may be the reason: all are tried again in smaller batches.
        with context.database.transaction() as tx:
            drawing.release_failed(tx, claimed.ids, WORKER_ID, f"{type(error).__name__}: {error}")
        raise WorkerTrouble(f"a batch could not be drawn: {describe(error)}") from error
    if breakers["generate"].is_probing:
        breakers["generate"].succeed()
    return kept


def _draw(context: AppContext, claimed: ClaimedDrawings) -> dict[uuid.UUID, Layers]:
    """Return the layers of each drawing."""
    with context.database.transaction() as tx:
        checkpoint = registry.find_checkpoint(tx, claimed.side.checkpoint)
    if claimed.side.method is DrawingMethod.matted:
        evict()  # the comparer loads models of its own
        compared = load_object(context.settings.comparer)(
            checkpoint, context.store, claimed.requests, claimed.segmenter, _stop_when_requested
        )
        return {
            id_: {LayerRole.foreground: rgba}
            for id_, rgba in zip(claimed.ids, compared.matted, strict=True)
        }
    try:
        generator = get_generator(context, checkpoint)
    except Exception as error:
        if is_instance_trouble(error):
            raise
        # Others may be able to load it, so that no attempt counts.
        _release(context, claimed)
        raise WorkerTrouble(
            f"checkpoint {checkpoint.id[:12]} could not be loaded: {describe(error)}"
        ) from error
    return generate_layers(generator, claimed.drawings)


def _stop_when_requested(_: Progress) -> None:
    if stop_requested.is_set():
        raise Stopped


def _release(context: AppContext, claimed: ClaimedDrawings) -> None:
    with context.database.transaction() as tx:
        drawing.release_unfinished(tx, claimed.ids, WORKER_ID)
