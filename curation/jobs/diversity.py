"""The job that measures the diversity of a round's candidates."""

from __future__ import annotations

from curation.db import leases
from curation.domain import content_id
from curation.jobs.lease_heartbeat import WORKER_ID, register_worker, renewing_leases
from curation.ports import Embedder
from curation.runtime.context import AppContext, load_embedder
from curation.selection import diversity_measurement, diversity_report


def measure_diversity(context: AppContext, round_id: int) -> None:
    """Measure the diversity of a round, unless a report is kept.

    One worker at a time measures a round; the job of another one ends at once.

    Args:
        context: The app context.
        round_id: Id of the round.
    """
    register_worker(context)
    embedder = load_embedder(context.settings)
    subject = content_id("measure diversity", round_id)
    with context.database.transaction() as tx:
        if _is_measured(diversity_report.read_kept(tx, [round_id]).get(round_id), embedder):
            return
        seconds = context.settings.lease_seconds
        if not leases.try_claim(tx, subject, "fit", WORKER_ID, seconds):
            return
    try:
        with renewing_leases(context, "fit"):
            _measure(context, embedder, round_id)
    finally:
        with context.database.transaction() as tx:
            leases.delete_leases(tx, [subject])


def _measure(context: AppContext, embedder: Embedder, round_id: int) -> None:
    """Measure a round, and again the first round if another embedder measured it."""
    measure = diversity_measurement.measure_diversity
    measure(context.database, context.store, embedder, round_id)
    with context.database.transaction() as tx:
        first = diversity_report.first_measured(tx, round_id)
        kept = diversity_report.read_kept(tx, [first]).get(first) if first else None
    if first is not None and not _is_measured(kept, embedder):
        measure(context.database, context.store, embedder, first)


def _is_measured(kept: dict[str, object] | None, embedder: Embedder) -> bool:
    return kept is not None and kept["embedder"] == embedder.source
