"""Jobs that take hours: training and captioning runs, which are resumed where they stopped."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from curation.checkpoints import registry, run_queue, run_states
from curation.datasets import captions
from curation.db import leases
from curation.db.engine import Transaction
from curation.domain import Checkpoint, Progress, TrainingRequest
from curation.errors import Conflict, LayerloopError
from curation.jobs.lease_heartbeat import (
    WORKER_ID,
    Stopped,
    register_worker,
    renewing_leases,
    stop_requested,
)
from curation.jobs.model_cache import evict
from curation.jobs.run_recorder import RunRecorder
from curation.jobs.run_state_sync import StateUploader, remove_files, restore_states
from curation.jobs.trouble import InstanceTrouble, describe, is_instance_trouble, retry_in_trouble
from curation.ports import ProgressCallback
from curation.progress import ProgressLines
from curation.runtime.context import AppContext, load_object
from curation.takedown.caches import clear_caches

log = logging.getLogger("layerloop.jobs")
run_log = logging.getLogger("layerloop.run")

PATIENCE_SECONDS = 120.0
"""How long a running job waits for an unreachable database, before it ends."""


def train(context: AppContext, run: str) -> None:
    """Run or resume the claimable training run with the largest priority.

    Args:
        context: The app context.
        run: Id of the run that the job was sent for; another may come before it.
    """
    settings = context.settings
    register_worker(context)
    with context.database.transaction() as tx:
        request = run_queue.claim_next(
            tx, WORKER_ID, settings.lease_seconds, settings.train_machines
        )
    if request is None:
        log.debug("no training run is claimable; the job was sent for %s", run)
        return
    _train_claimed(context, request, None)


def train_run(context: AppContext, run: str, on_progress: ProgressCallback | None = None) -> None:
    """Run or resume one training run, and register its checkpoint.

    Args:
        context: The app context.
        run: Id of the training run.
        on_progress: Callback for progress; the log when None.
    """
    # Claim the run, unless it is done, waits or runs elsewhere.
    settings = context.settings
    register_worker(context)
    with context.database.transaction() as tx:
        request = registry.claim_run(
            tx, uuid.UUID(run), WORKER_ID, settings.lease_seconds, settings.train_machines
        )
    if request is not None:
        _train_claimed(context, request, on_progress)


def _train_claimed(
    context: AppContext, request: TrainingRequest, on_progress: ProgressCallback | None
) -> None:
    """Train under the lease, with states, metrics and log lines going to the instance."""
    run, seconds = request.id, context.settings.lease_seconds
    recorder = RunRecorder(context.database, run, WORKER_ID)
    say = ProgressLines(run_log.info)

    def note(tx: Transaction, progress: Progress) -> None:
        registry.record_progress(tx, run, WORKER_ID, progress, seconds)

    def tell(progress: Progress) -> None:
        recorder.add_progress(progress)
        say(progress)
        if on_progress is not None:
            on_progress(progress)

    def fail(tx: Transaction, error: str) -> None:
        run_log.error("failed: %s", error)
        registry.fail_run(tx, run, WORKER_ID, error)

    def postpone(tx: Transaction, error: str) -> None:
        run_log.warning("interrupted by an outage of the instance: %s", error)
        run_queue.postpone_run(tx, run, WORKER_ID, error)

    with recorder.recording(), _held(context, "train", str(run), fail, postpone):
        run_log.info("claimed by %s", WORKER_ID)
        # What other machines took down may be in the caches of this one.
        clear_caches(context.database, context.settings.path("runs"), own_run=run)
        folder = context.settings.path(f"runs/{run}")
        restore_states(context, run, folder)
        with StateUploader(context, run, folder, recorder.flush).uploading():
            made = load_object(context.settings.trainer)(
                request, context.store, folder, _reporting(context, note, tell)
            )
        _patiently(lambda: _finish(context, run, made))
        run_log.info("finished with checkpoint %s", made.id)


def _finish(context: AppContext, run: uuid.UUID, made: Checkpoint) -> None:
    """Register the checkpoint, after which only the states of intervals are of use."""
    every = context.settings.run_states_every_images
    with context.database.transaction() as tx:
        registry.finish_run(tx, run, WORKER_ID, made)
        released = run_states.prune_states(tx, run, keep_newest=0, keep_every_images=every)
    remove_files(context, released)


def caption(context: AppContext, run: str, on_progress: ProgressCallback | None = None) -> None:
    """Run or resume a captioning run.

    Args:
        context: The app context.
        run: Id of the captioning run.
        on_progress: Callback for progress; the log when None.
    """
    # Claim the run, unless it is done or runs elsewhere.
    run_id = uuid.UUID(run)
    seconds = context.settings.lease_seconds
    register_worker(context)
    with context.database.transaction() as tx:
        order = captions.claim_run(tx, run_id, WORKER_ID, seconds)
    if order is None:
        return

    def held(tx: Transaction) -> None:
        captions.renew_run(tx, run_id, WORKER_ID, seconds)

    def note(tx: Transaction, progress: Progress) -> None:
        held(tx)
        captions.record_progress(tx, run_id, progress)

    def fail(tx: Transaction, error: str) -> None:
        held(tx)
        captions.end_run(tx, run_id, error)

    with _held(context, "caption", run, fail):
        # Free the memory of a loaded checkpoint: both would not fit on one GPU.
        evict()
        captioner = load_object(context.settings.captioner)(order.model)
        report = _reporting(context, note, on_progress)
        captions.caption_samples(context.database, context.store, captioner, order, held, report)
        with context.database.transaction() as tx:
            held(tx)
            captions.end_run(tx, run_id)


@contextmanager
def _held(
    context: AppContext,
    purpose: str,
    run: str,
    fail: Callable[[Transaction, str], None],
    postpone: Callable[[Transaction, str], None] | None = None,
) -> Iterator[None]:
    """Keep the lease of a run while the block works on it, and record a failure with `fail`.

    An outage of the instance is recorded with `postpone`, if it is given. The run is released if
    this process stops, and left alone if another process has it by now.
    """
    # The inner block records failures, the outer one handles the end of this process.
    try:
        try:
            with renewing_leases(context, purpose):
                yield
        except (Stopped, Conflict):
            raise
        except Exception as error:
            hint = f" ({error.hint})" if isinstance(error, LayerloopError) and error.hint else ""
            message = f"{type(error).__name__}: {error}{hint}"
            if postpone is not None and is_instance_trouble(error):
                fail, message = postpone, describe(error)
            else:
                log.exception("%s %s failed", purpose, run)
            _patiently(partial(_record, context, fail, message))
    except (Stopped, KeyboardInterrupt, SystemExit) as stop:
        with context.database.transaction() as tx:
            leases.release_holder(tx, WORKER_ID)
        # Ctrl-C or SIGTERM ends a command that runs the job itself.
        if not isinstance(stop, Stopped):
            raise
    except Conflict as conflict:
        log.warning("%s %s stops in this process: %s", purpose, run, conflict)


def _patiently(work: Callable[[], None]) -> None:
    """Do a short write, and wait some time for an unreachable database.

    Raises:
        Stopped: The worker must stop.
        InstanceTrouble: The database was unreachable for longer.
    """
    try:
        retry_in_trouble(work, PATIENCE_SECONDS, stop_requested)
    except InstanceTrouble:
        if stop_requested.is_set():
            raise Stopped from None
        raise


def _record(context: AppContext, record: Callable[[Transaction, str], None], message: str) -> None:
    with context.database.transaction() as tx:
        record(tx, message)


def _reporting(
    context: AppContext,
    note: Callable[[Transaction, Progress], None],
    tell: ProgressCallback | None,
) -> ProgressCallback:
    """Return a progress callback that records progress with `note` and calls `tell`.

    It raises Stopped when the worker should end. Without `tell` the progress is logged.
    """
    tell = tell or ProgressLines(log.info)

    def _note(progress: Progress) -> None:
        with context.database.transaction() as tx:
            note(tx, progress)

    def report(progress: Progress) -> None:
        if stop_requested.is_set():
            raise Stopped
        _patiently(partial(_note, progress))
        tell(progress)

    return report
