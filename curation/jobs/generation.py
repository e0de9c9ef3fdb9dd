"""Jobs that generate, measure and select a round's candidates."""

from __future__ import annotations

import logging

import sqlalchemy as sa

from curation.db.tables import candidates
from curation.domain import CandidateState, JobName, Kind, RoundState
from curation.jobs.lease_heartbeat import WORKER_ID, register_worker, renewing_leases
from curation.jobs.model_cache import get_generator, get_round_checkpoint
from curation.jobs.reconcile import open_rounds_with
from curation.rounds import generation
from curation.rounds.lifecycle import find_round
from curation.runtime.context import AppContext, load_embedder
from curation.screening import rules
from curation.selection import acceptance_model_store, embedding_backfill
from curation.selection.select import select_candidates

log = logging.getLogger("layerloop.jobs")

GENERATE_BATCH_SIZE = 16
SCREEN_BATCH_SIZE = 64


def generate(context: AppContext, round_id: int, chain: int = 0) -> None:
    """Generate one batch of a round, and enqueue the next.

    Args:
        context: The app context.
        round_id: Id of the round.
        chain: Number of the chain of jobs; several chains let several workers share a round.
    """
    # Claim a batch; without one the chain ends.
    seconds = context.settings.lease_seconds
    register_worker(context)
    with context.database.transaction() as tx:
        claimed = generation.claim_candidates(tx, round_id, WORKER_ID, GENERATE_BATCH_SIZE, seconds)
        checkpoint = get_round_checkpoint(tx, round_id) if claimed else None
    if checkpoint is None:
        return
    # Generate it without an open transaction; a failed batch is released for another attempt.
    try:
        with renewing_leases(context, "generate"):
            kept = generation.generate_claimed(
                context.database,
                context.store,
                get_generator(context, checkpoint),
                claimed,
                WORKER_ID,
            )
        log.info("round %d: generated %d, kept %d", round_id, len(claimed), kept)
    except Exception as error:
        log.exception("round %d: generation failed", round_id)
        with context.database.transaction() as tx:
            generation.release_failed(tx, claimed, WORKER_ID, f"{type(error).__name__}: {error}")
    with context.database.transaction() as tx:
        tx.enqueue(JobName.generate, round_id, chain)


def screen(context: AppContext, round_id: int) -> None:
    """Measure a batch of candidates, apply the screening rules, and select for review.

    Args:
        context: The app context.
        round_id: Id of the round.
    """
    # Measure the next batch.
    with context.database.transaction() as tx:
        drawn = (candidates.c.round_id == round_id) & (
            candidates.c.state == CandidateState.generated
        )
        batch = (
            sa.select(candidates.c.id)
            .where(drawn)
            .order_by(candidates.c.id)
            .limit(SCREEN_BATCH_SIZE)
        )
        ids = [row.id for row in tx.execute(batch)]
        measured = rules.measure_candidates(
            tx, context.store, ids, embedder := load_embedder(context.settings)
        )
    # Store the results, and enqueue the next batch only if another worker was not faster.
    with context.database.transaction() as tx:
        if rules.store_screenings(tx, measured):
            tx.enqueue(JobName.screen, round_id)
        select_candidates(tx, round_id, embedder.source)


def select(context: AppContext, round_id: int) -> None:
    """Select candidates for review from those that were screened before, by the round's policy."""
    with context.database.transaction() as tx:
        if find_round(tx, round_id)["state"] == RoundState.open:
            select_candidates(tx, round_id, load_embedder(context.settings).source)


def fit_acceptance_model(context: AppContext, kind: str) -> None:
    """Fit an acceptance model to all decisions, and select again by its scores.

    Args:
        context: The app context.
        kind: Value of the Kind that the model is for.
    """
    # Embed the candidates that have no embedding yet.
    embedder = load_embedder(context.settings)
    model_kind = Kind(kind)
    embedding_backfill.backfill_embeddings(context.database, context.store, model_kind, embedder)
    # Fit the model, unless an equal job was faster.
    with context.database.transaction() as tx:
        if not acceptance_model_store.needs_fit(tx, model_kind, embedder.source):
            return
        kept = acceptance_model_store.fit_and_store(tx, model_kind, embedder.source)
        log.info(
            "acceptance model %s: %d decisions, AUC %.3f",
            kept.id[:12],
            kept.metrics["decisions"],
            kept.metrics["by_prompt"]["auc"],
        )
        for number in open_rounds_with(tx, CandidateState.screened):
            tx.enqueue(JobName.select, number)
