"""Jobs that take hours: trainings and captions, resumed where they were left."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from curation import captions, checkpoints, leases
from curation.database import Transaction
from curation.domain import Progress
from curation.errors import Conflict, LayerloopError
from curation.house import House, load
from curation.jobs.holding import HOLDER, Stopped, announce_holder, lease_kept, stopping
from curation.jobs.loaded import forget
from curation.ports import Report
from curation.progress import ProgressLines

log = logging.getLogger("layerloop.jobs")


def train(house: House, run: str, tell: Report | None = None) -> None:
    """Train what a run was ordered to, resuming where it was left, and register the checkpoint."""
    run_id = uuid.UUID(run)
    seconds = house.settings.lease_seconds
    announce_holder(house)
    with house.database.transaction() as tx:
        order = checkpoints.claim_run(tx, run_id, HOLDER, seconds)
    if order is None:
        return

    def note(tx: Transaction, progress: Progress) -> None:
        checkpoints.note_progress(tx, run_id, HOLDER, progress, seconds)

    def fail(tx: Transaction, error: str) -> None:
        checkpoints.fail_run(tx, run_id, HOLDER, error)

    with _held(house, "train", run, fail):
        folder = house.settings.path(f"runs/{run}")
        made = load(house.settings.trainer)(order, house.store, folder, _reporting(house, note, tell))
        with house.database.transaction() as tx:
            checkpoints.finish_run(tx, run_id, HOLDER, made)


def caption(house: House, run: str, tell: Report | None = None) -> None:
    """Let a model caption what a run was ordered for, going on where it was left."""
    run_id = uuid.UUID(run)
    seconds = house.settings.lease_seconds
    announce_holder(house)
    with house.database.transaction() as tx:
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

    with _held(house, "caption", run, fail):
        forget()  # a checkpoint and this model would not fit on one card
        captioner = load(house.settings.captioner)(order.model)
        report = _reporting(house, note, tell)
        captions.caption_samples(house.database, house.store, captioner, order, held, report)
        with house.database.transaction() as tx:
            held(tx)
            captions.end_run(tx, run_id)


@contextmanager
def _held(house: House, purpose: str, run: str, fail: Callable[[Transaction, str], None]) -> Iterator[None]:
    """Hold a run while it is worked on: handed back when this process stops, left alone when another has it.

    What goes wrong otherwise is kept with the run by `fail`, and with it what can be done about it.
    """
    try:
        try:
            with lease_kept(house, purpose):
                yield
        except (Stopped, Conflict):
            raise
        except Exception as error:
            log.exception("%s %s failed", purpose, run)
            hint = f" ({error.hint})" if isinstance(error, LayerloopError) and error.hint else ""
            with house.database.transaction() as tx:
                fail(tx, f"{type(error).__name__}: {error}{hint}")
    except (Stopped, KeyboardInterrupt, SystemExit) as stop:
        with house.database.transaction() as tx:
            leases.hand_back(tx, HOLDER)
        if not isinstance(stop, Stopped):  # Ctrl-C or SIGTERM to a command that works here and now
            raise
    except Conflict as conflict:
        log.warning("%s %s stops here: %s", purpose, run, conflict)


def _reporting(house: House, note: Callable[[Transaction, Progress], None], tell: Report | None) -> Report:
    """A report of progress that keeps it by `note`, passes it on, and stops the work where the worker should end.

    Where nobody listens, as in a worker, the progress goes to the log.
    """
    tell = tell or ProgressLines(log.info)

    def report(progress: Progress) -> None:
        if stopping.is_set():
            raise Stopped
        with house.database.transaction() as tx:
            note(tx, progress)
        tell(progress)

    return report
