"""The job that advances a loop, under a lease of its own."""

from __future__ import annotations

import logging

import sqlalchemy as sa

from curation.db import leases
from curation.domain import JobName
from curation.errors import LayerloopError
from curation.jobs.lease_heartbeat import (
    WORKER_ID,
    register_worker,
    renewing_leases,
    stop_requested,
)
from curation.jobs.trouble import is_instance_trouble
from curation.loops import advance, rows
from curation.loops.plan import LoopState
from curation.runtime.context import AppContext

log = logging.getLogger("layerloop.jobs")

SERIALIZATION_FAILURE = "40001"
"""PostgreSQL's code of a transaction that another one overtook."""


def advance_loop(context: AppContext, loop_id: int) -> None:
    """Take the steps of a loop that can be taken now; a loop that waits is left alone.

    Args:
        context: The app context.
        loop_id: Number of the loop.
    """
    register_worker(context)
    with context.database.transaction() as tx:
        loop = rows.find_loop(tx, loop_id)
        seconds = context.settings.lease_seconds
        if not leases.try_claim(tx, loop.lease_id, "loop", WORKER_ID, seconds):
            return
    moved = False
    try:
        with renewing_leases(context, "loop"):
            while _advance(context, loop_id):
                moved = True
                if stop_requested.is_set():
                    break
    finally:
        with context.database.transaction() as tx:
            leases.delete_leases(tx, [loop.lease_id])
            if moved:
                tx.enqueue(JobName.advance_loop, loop_id)


def _advance(context: AppContext, loop_id: int) -> bool:
    """Take one step; a step that cannot be taken stops the loop with its reason."""
    try:
        return advance.advance(context.database, context.store, loop_id)
    except sa.exc.DBAPIError as error:
        # Somebody changed the loop meanwhile: look again later.
        if getattr(error.orig, "pgcode", None) == SERIALIZATION_FAILURE:
            return False
        raise
    except LayerloopError as error:
        if is_instance_trouble(error):
            raise
        reason = f"{error.message}; {error.hint}" if error.hint else error.message
        log.error("loop %d stops: %s", loop_id, reason)  # noqa: TRY400 - it is for people
        with context.database.transaction() as tx:
            rows.end_loop(tx, loop_id, LoopState.failed, reason[:2_000])
            tx.log(advance.ACTOR, "loop failed", f"loop {loop_id}", reason=reason[:500])
        return False
