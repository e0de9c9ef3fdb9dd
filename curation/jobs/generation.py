"""The job that generates a round's candidates."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Final

from curation.domain import Checkpoint, JobName
from curation.errors import Conflict
from curation.jobs.lease_heartbeat import (
    WORKER_ID,
    register_worker,
    renewing_leases,
    stop_requested,
)
from curation.jobs.looking import SESSION_SECONDS
from curation.jobs.model_cache import get_generator, get_round_checkpoint
from curation.jobs.trouble import (
    InstanceTrouble,
    WorkerTrouble,
    breakers,
    describe,
    is_instance_trouble,
)
from curation.jobs.uploads import Uploads, background_uploads
from curation.ports import LayerGenerator
from curation.rounds import generation, work
from curation.rounds.lifecycle import find_round
from curation.runtime.context import AppContext

log = logging.getLogger("layerloop.jobs")

GENERATE_BATCH_SIZE: Final = 16

LOADS_PER_SESSION: Final = 10
"""A checkpoint is used for at least this many times its loading time."""

Claimed = Sequence[generation.ClaimedCandidate]


def generate(context: AppContext, round_id: int, chain: int = 0) -> None:
    """Generate batches of a round for a while, and enqueue the job again if some are left.

    The job only wakes another worker: each worker looks for its next work in the database.

    Args:
        context: The app context.
        round_id: Id of the round.
        chain: Ignored; messages of former versions have it.

    Raises:
        InstanceTrouble: The store, the database or a disk fails; no attempt was counted.
        WorkerTrouble: This worker cannot load the checkpoint, or the batch failed.
    """
    del chain
    register_worker(context)
    chosen = _choose_round(context, round_id)
    claimed = _claim(context, chosen)
    if not claimed:
        return
    with context.database.transaction() as tx:
        checkpoint = get_round_checkpoint(tx, chosen.round_id)
    with renewing_leases(context, "generate"), background_uploads(context) as uploads:
        started = time.monotonic()
        generator = _load(context, checkpoint, claimed)
        loaded = time.monotonic()
        deadline = loaded + max(SESSION_SECONDS, LOADS_PER_SESSION * (loaded - started))
        busy = 0.0
        while claimed:
            begun = time.monotonic()
            _generate_batch(context, generator, claimed, uploads)
            busy += time.monotonic() - begun
            if stop_requested.is_set() or time.monotonic() > deadline:
                break
            claimed = _claim(context, chosen)
        uploads.finish()
    with context.database.transaction() as tx:
        generation.add_gpu_seconds(tx, chosen.round_id, busy)
    log.info("round %d: kept %d candidates", chosen.round_id, uploads.kept)


def _choose_round(context: AppContext, round_id: int) -> work.RoundWork:
    """Return the round of the job, or another one of a higher priority."""
    with context.database.transaction() as tx:
        own = work.RoundWork(round_id, int(find_round(tx, round_id)["priority"]))
        first = work.next_to_generate(tx)
        return first if first is not None and first.priority > own.priority else own


def _claim(context: AppContext, chosen: work.RoundWork) -> Claimed:
    """Claim a batch, unless a round of a higher priority has work by now."""
    round_id = chosen.round_id
    with context.database.transaction() as tx:
        first = work.next_to_generate(tx)
        if first is None or first.priority > chosen.priority:
            return []
        size = work.shared_batch(tx, round_id, "generate", GENERATE_BATCH_SIZE)
        if breakers["generate"].is_probing:
            size = 1
        seconds = context.settings.lease_seconds
        claimed = generation.claim_candidates(tx, round_id, WORKER_ID, size, seconds)
        if claimed:
            # Wake another worker for the rest.
            tx.enqueue(JobName.generate, round_id)
        return claimed


def _load(context: AppContext, checkpoint: Checkpoint, claimed: Claimed) -> LayerGenerator:
    """Return the loaded checkpoint; if that fails, release the batch without an attempt."""
    try:
        return get_generator(context, checkpoint)
    except Exception as error:
        log.exception("the checkpoint %s could not be loaded", checkpoint.id[:12])
        _release(context, claimed)
        trouble = InstanceTrouble if is_instance_trouble(error) else WorkerTrouble
        raise trouble(
            f"checkpoint {checkpoint.id[:12]} could not be loaded: {describe(error)}"
        ) from error


def _generate_batch(
    context: AppContext, generator: LayerGenerator, claimed: Claimed, uploads: Uploads
) -> None:
    """Generate one batch without an open transaction, and store it in the background."""
    try:
        generated = generation.generate_layers(generator, claimed)
        settings = generation.describe_settings(generator, claimed[0].request.prompt)
    except Conflict:
        raise
    except Exception as error:
        log.exception("%d candidates could not be generated", len(claimed))
        if is_instance_trouble(error):
            _release(context, claimed)
            raise InstanceTrouble(describe(error)) from error
        # One of the candidates may be the reason: all are tried again in smaller batches.
        with context.database.transaction() as tx:
            generation.release_failed(tx, claimed, WORKER_ID, f"{type(error).__name__}: {error}")
        raise WorkerTrouble(f"a batch could not be generated: {describe(error)}") from error
    uploads.submit(generated, settings)
    # After trouble, the first batch that is stored ends the pauses and the small batches.
    if breakers["generate"].is_probing:
        uploads.finish()
        breakers["generate"].succeed()


def _release(context: AppContext, claimed: Claimed) -> None:
    with context.database.transaction() as tx:
        generation.release_unfinished(tx, [item.id for item in claimed], WORKER_ID)
