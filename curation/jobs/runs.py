"""Jobs that take hours: trainings and captions, resumed where they were left."""

from __future__ import annotations

import logging
import uuid

from curation import captions, checkpoints, leases
from curation.database import Transaction
from curation.domain import Progress
from curation.errors import Conflict, LayerloopError
from curation.house import House, load
from curation.jobs.holding import HOLDER, Stopped, lease_kept, stopping
from curation.jobs.loaded import forget
from curation.ports import Report

log = logging.getLogger("layerloop.jobs")


def train(house: House, run: str, tell: Report | None = None) -> None:
    """Train what a run was ordered to, resuming where it was left, and register the checkpoint."""
    run_id = uuid.UUID(run)
    seconds = house.settings.lease_seconds
    with house.database.transaction() as tx:
        order = checkpoints.claim_run(tx, run_id, HOLDER, seconds)
    if order is None:
        return

    def report(progress: Progress) -> None:
        if stopping.is_set():
            raise Stopped
        with house.database.transaction() as tx:
            checkpoints.note_progress(tx, run_id, HOLDER, progress, seconds)
        if tell is not None:
            tell(progress)

    try:
        folder = house.settings.path(f"runs/{run}")
        with lease_kept(house, "train"):
            made = load(house.settings.trainer)(order, house.store, folder, report)
        with house.database.transaction() as tx:
            checkpoints.finish_run(tx, run_id, HOLDER, made)
    except Stopped:
        with house.database.transaction() as tx:
            leases.hand_back(tx, HOLDER)
    except Conflict:
        log.warning("run %s was taken over by another worker", run)
    except Exception as error:
        log.exception("run %s failed", run)
        with house.database.transaction() as tx:
            hint = f" ({error.hint})" if isinstance(error, LayerloopError) and error.hint else ""
            checkpoints.fail_run(tx, run_id, HOLDER, f"{type(error).__name__}: {error}{hint}")


def caption(house: House, run: str, tell: Report | None = None) -> None:
    """Let a model caption what a run was ordered for, going on where it was left."""
    run_id = uuid.UUID(run)
    seconds = house.settings.lease_seconds
    with house.database.transaction() as tx:
        order = captions.claim_run(tx, run_id, HOLDER, seconds)
    if order is None:
        return

    def held(tx: Transaction) -> None:
        captions.hold(tx, run_id, HOLDER, seconds)

    def report(progress: Progress) -> None:
        if stopping.is_set():
            raise Stopped
        with house.database.transaction() as tx:
            held(tx)
            captions.note_progress(tx, run_id, progress)
        if tell is not None:
            tell(progress)

    try:
        with lease_kept(house, "caption"):
            forget()  # a checkpoint and this model would not fit on one card
            captioner = load(house.settings.captioner)(order.model)
            captions.caption_samples(house.database, house.store, captioner, order, held, report)
        with house.database.transaction() as tx:
            held(tx)
            captions.end_run(tx, run_id)
    except Stopped:
        with house.database.transaction() as tx:
            leases.hand_back(tx, HOLDER)
    except Conflict:
        log.warning("captions %s were taken over by another worker", run)
    except Exception as error:
        log.exception("captions %s failed", run)
        with house.database.transaction() as tx:
            captions.end_run(tx, run_id, f"{type(error).__name__}: {error}")
