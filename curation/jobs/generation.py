"""Jobs of a round's candidates: drawn, measured, and chosen for people."""

from __future__ import annotations

import logging

import sqlalchemy as sa

from curation.db.tables import candidates
from curation.domain import CandidateState, Kind, RoundState
from curation.jobs.lease_heartbeat import HOLDER, announce_holder, lease_kept
from curation.jobs.model_cache import checkpoint_of, generator_of
from curation.jobs.reconcile import rounds_with
from curation.rounds import generation
from curation.rounds.lifecycle import find_round
from curation.runtime.context import AppContext, load_embedder
from curation.screening import rules
from curation.selection import acceptance_model_store, embedding_backfill, select

log = logging.getLogger("layerloop.jobs")

DRAW_AT_ONCE = 16
SCREEN_AT_ONCE = 64


def draw(context: AppContext, number: int, chain: int = 0) -> None:
    """Draw one batch of a round and ask for the next; several chains let several workers share a round."""
    seconds = context.settings.lease_seconds
    announce_holder(context)
    with context.database.transaction() as tx:
        claimed = generation.claim_requested(tx, number, HOLDER, DRAW_AT_ONCE, seconds)
        checkpoint = checkpoint_of(tx, number) if claimed else None
    if checkpoint is None:
        return
    try:
        with lease_kept(context, "draw"):
            kept = generation.draw_claimed(
                context.database, context.store, generator_of(context, checkpoint), claimed, HOLDER
            )
        log.info("round %d: drew %d, kept %d", number, len(claimed), kept)
    except Exception as error:
        log.exception("round %d: drawing failed", number)
        with context.database.transaction() as tx:
            generation.give_back(tx, claimed, HOLDER, f"{type(error).__name__}: {error}")
    with context.database.transaction() as tx:
        tx.ask("draw", number, chain)


def screen(context: AppContext, number: int) -> None:
    """Measure a batch of drawn candidates, refuse or pass each, and put before people what the policy chooses."""
    with context.database.transaction() as tx:
        drawn = (candidates.c.round_id == number) & (candidates.c.state == CandidateState.drawn)
        picked = (
            sa.select(candidates.c.id).where(drawn).order_by(candidates.c.id).limit(SCREEN_AT_ONCE)
        )
        ids = [row.id for row in tx.execute(picked)]
        measured = rules.measure_candidates(
            tx, context.store, ids, embedder := load_embedder(context.settings)
        )
    with context.database.transaction() as tx:
        if rules.keep_screenings(tx, measured):
            tx.ask("screen", number)
        select.select_candidates(tx, number, embedder.source)


def choose(context: AppContext, number: int) -> None:
    """Put before people what a round's policy chooses of what was screened before."""
    with context.database.transaction() as tx:
        if find_round(tx, number)["state"] == RoundState.open:
            select.select_candidates(tx, number, load_embedder(context.settings).source)


def fit_head(context: AppContext, kind: str) -> None:
    """Let the embedder see what it has not seen, fit an acceptance head to all decisions, and choose anew by it."""
    embedder, of = load_embedder(context.settings), Kind(kind)
    embedding_backfill.see_unseen(context.database, context.store, of, embedder)
    with context.database.transaction() as tx:
        if not acceptance_model_store.wants_fit(tx, of, embedder.source):
            return
        kept = acceptance_model_store.fit_head(tx, of, embedder.source)
        log.info(
            "head %s: %d decisions, AUC %.3f",
            kept.id[:12],
            kept.figures["decisions"],
            kept.figures["by_prompt"]["auc"],
        )
        for number in rounds_with(tx, CandidateState.screened):
            tx.ask("choose", number)
