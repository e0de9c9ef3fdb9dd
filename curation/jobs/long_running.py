"""Jobs that take hours: trainings and captions, resumed where they were left."""

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
from curation.jobs.lease_heartbeat import HOLDER, Stopped, announce_holder, lease_kept, stopping
from curation.jobs.model_cache import forget
from curation.ports import Report
from curation.progress import ProgressLines
from curation.runtime.context import AppContext, load

log = logging.getLogger("layerloop.jobs")


def train(context: AppContext, run: str, tell: Report | None = None) -> None:
    """Train what a run was ordered to, resuming where it was left, and register the checkpoint."""
    run_id = uuid.UUID(run)
    seconds = context.settings.lease_seconds
    announce_holder(context)
    with context.database.transaction() as tx:
        order = registry.claim_run(tx, run_id, HOLDER, seconds)
    if order is None:
        return

    def note(tx: Transaction, progress: Progress) -> None:
        registry.note_progress(tx, run_id, HOLDER, progress, seconds)

    def fail(tx: Transaction, error: str) -> None:
        registry.fail_run(tx, run_id, HOLDER, error)

    with _held(context, "train", run, fail):
        folder = context.settings.path(f"runs/{run}")
        made = load(context.settings.trainer)(
            order, context.store, folder, _reporting(context, note, tell)
        )
        with context.database.transaction() as tx:
            registry.finish_run(tx, run_id, HOLDER, made)


def caption(context: AppContext, run: str, tell: Report | None = None) -> None:
    """Let a model caption what a run was ordered for, going on where it was left."""
    run_id = uuid.UUID(run)
    seconds = context.settings.lease_seconds
    announce_holder(context)
    with context.database.transaction() as tx:
        order = captions.claim_run(tx, run_id, HOLDER, seconds)
    if order is None:
        return

    def held(tx: Transaction) -> None:
        captions.hold(tx, run_id, HOLDER, seconds)

    def note(tx: Transaction, progress: Progress) -> None:
        held(tx)
        captions.note_progress(tx, run_id, progress)

    def fail(tx: Transaction, error: str) -> None:
        held(tx)
        captions.end_run(tx, run_id, error)

    with _held(context, "caption", run, fail):
        forget()  # a checkpoint and this model would not fit on one card
        captioner = load(context.settings.captioner)(order.model)
        report = _reporting(context, note, tell)
        captions.caption_samples(context.database, context.store, captioner, order, held, report)
        with context.database.transaction() as tx:
            held(tx)
            captions.end_run(tx, run_id)


@contextmanager
def _held(
    context: AppContext, purpose: str, run: str, fail: Callable[[Transaction, str], None]
) -> Iterator[None]:
    """Hold a run while it is worked on: handed back when this process stops, left alone when another has it.

    What goes wrong otherwise is kept with the run by `fail`, and with it what can be done about it.
    """
    try:
        try:
            with lease_kept(context, purpose):
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
            leases.hand_back(tx, HOLDER)
        if not isinstance(stop, Stopped):  # Ctrl-C or SIGTERM to a command that works here and now
            raise
    except Conflict as conflict:
        log.warning("%s %s stops here: %s", purpose, run, conflict)


def _reporting(
    context: AppContext, note: Callable[[Transaction, Progress], None], tell: Report | None
) -> Report:
    """A report of progress that keeps it by `note`, passes it on, and stops the work where the worker should end.

    Where nobody listens, as in a worker, the progress goes to the log.
    """
    tell = tell or ProgressLines(log.info)

    def report(progress: Progress) -> None:
        if stopping.is_set():
            raise Stopped
        with context.database.transaction() as tx:
            note(tx, progress)
        tell(progress)

    return report
