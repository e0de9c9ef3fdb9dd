"""Jobs that take hours: training and captioning runs, which are resumed where they stopped."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from curation.checkpoints import registry
from curation.datasets import captions
from curation.db import leases
from curation.db.engine import Transaction
from curation.domain import Progress
from curation.errors import Conflict, LayerloopError
from curation.jobs.lease_heartbeat import (
    WORKER_ID,
    Stopped,
    register_worker,
    renewing_leases,
    stop_requested,
)
from curation.jobs.model_cache import evict
from curation.ports import ProgressCallback
from curation.progress import ProgressLines
from curation.runtime.context import AppContext, load_object

log = logging.getLogger("layerloop.jobs")


def train(context: AppContext, run: str, on_progress: ProgressCallback | None = None) -> None:
    """Run or resume a training run, and register its checkpoint.

    Args:
        context: The app context.
        run: Id of the training run.
        on_progress: Callback for progress; the log when None.
    """
    # Claim the run, unless it is done or runs elsewhere.
    run_id = uuid.UUID(run)
    seconds = context.settings.lease_seconds
    register_worker(context)
    with context.database.transaction() as tx:
        order = registry.claim_run(tx, run_id, WORKER_ID, seconds)
    if order is None:
        return

    def note(tx: Transaction, progress: Progress) -> None:
        registry.record_progress(tx, run_id, WORKER_ID, progress, seconds)

    def fail(tx: Transaction, error: str) -> None:
        registry.fail_run(tx, run_id, WORKER_ID, error)

    # Train under the lease, then register the checkpoint.
    with _held(context, "train", run, fail):
        folder = context.settings.path(f"runs/{run}")
        made = load_object(context.settings.trainer)(
            order, context.store, folder, _reporting(context, note, on_progress)
        )
        with context.database.transaction() as tx:
            registry.finish_run(tx, run_id, WORKER_ID, made)


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
    context: AppContext, purpose: str, run: str, fail: Callable[[Transaction, str], None]
) -> Iterator[None]:
    """Keep the lease of a run while the block works on it, and record a failure with `fail`.

    The run is released if this process stops, and left alone if another process has it by now.
    """
    # The inner block records failures, the outer one handles the end of this process.
    try:
        try:
            with renewing_leases(context, purpose):
                yield
        except (Stopped, Conflict):
            raise
        except Exception as error:
            log.exception("%s %s failed", purpose, run)
            hint = f" ({error.hint})" if isinstance(error, LayerloopError) and error.hint else ""
            with context.database.transaction() as tx:
                fail(tx, f"{type(error).__name__}: {error}{hint}")
    except (Stopped, KeyboardInterrupt, SystemExit) as stop:
        with context.database.transaction() as tx:
            leases.release_holder(tx, WORKER_ID)
        # Ctrl-C or SIGTERM ends a command that runs the job itself.
        if not isinstance(stop, Stopped):
            raise
    except Conflict as conflict:
        log.warning("%s %s stops in this process: %s", purpose, run, conflict)


def _reporting(
    context: AppContext,
    note: Callable[[Transaction, Progress], None],
    tell: ProgressCallback | None,
) -> ProgressCallback:
    """Return a progress callback that records progress with `note` and calls `tell`.

    It raises Stopped when the worker should end. Without `tell` the progress is logged.
    """
    tell = tell or ProgressLines(log.info)

    def report(progress: Progress) -> None:
        if stop_requested.is_set():
            raise Stopped
        with context.database.transaction() as tx:
            note(tx, progress)
        tell(progress)

    return report
