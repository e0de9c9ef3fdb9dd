"""Jobs of a round's candidates: drawn, measured, and chosen for people."""

from __future__ import annotations

import logging

import sqlalchemy as sa

from curation import drawing
from curation.domain import CandidateState, Kind, RoundState
from curation.house import House, load_embedder
from curation.jobs.holding import HOLDER, announce_holder, lease_kept
from curation.jobs.loaded import checkpoint_of, generator_of
from curation.jobs.sweeping import rounds_with
from curation.rounds import find_round
from curation.screening import refusals
from curation.selection import choosing, heads, seeing
from curation.tables import candidates

log = logging.getLogger("layerloop.jobs")

DRAW_AT_ONCE = 16
SCREEN_AT_ONCE = 64


def draw(house: House, number: int, chain: int = 0) -> None:
    """Draw one batch of a round and ask for the next; several chains let several workers share a round."""
    seconds = house.settings.lease_seconds
    announce_holder(house)
    with house.database.transaction() as tx:
        claimed = drawing.claim_requested(tx, number, HOLDER, DRAW_AT_ONCE, seconds)
        checkpoint = checkpoint_of(tx, number) if claimed else None
    if checkpoint is None:
        return
    try:
        with lease_kept(house, "draw"):
            kept = drawing.draw_claimed(house.database, house.store, generator_of(house, checkpoint), claimed, HOLDER)
        log.info("round %d: drew %d, kept %d", number, len(claimed), kept)
    except Exception as error:
        log.exception("round %d: drawing failed", number)
        with house.database.transaction() as tx:
            drawing.give_back(tx, claimed, HOLDER, f"{type(error).__name__}: {error}")
    with house.database.transaction() as tx:
        tx.ask("draw", number, chain)


def screen(house: House, number: int) -> None:
    """Measure a batch of drawn candidates, refuse or pass each, and put before people what the policy chooses."""
    with house.database.transaction() as tx:
        drawn = (candidates.c.round_id == number) & (candidates.c.state == CandidateState.drawn)
        picked = sa.select(candidates.c.id).where(drawn).order_by(candidates.c.id).limit(SCREEN_AT_ONCE)
        ids = [row.id for row in tx.execute(picked)]
        measured = refusals.measure_candidates(tx, house.store, ids, embedder := load_embedder(house.settings))
    with house.database.transaction() as tx:
        if refusals.keep_screenings(tx, measured):
            tx.ask("screen", number)
        choosing.select_candidates(tx, number, embedder.source)


def choose(house: House, number: int) -> None:
    """Put before people what a round's policy chooses of what was screened before."""
    with house.database.transaction() as tx:
        if find_round(tx, number)["state"] == RoundState.open:
            choosing.select_candidates(tx, number, load_embedder(house.settings).source)


def fit_head(house: House, kind: str) -> None:
    """Let the embedder see what it has not seen, fit an acceptance head to all decisions, and choose anew by it."""
    embedder, of = load_embedder(house.settings), Kind(kind)
    seeing.see_unseen(house.database, house.store, of, embedder)
    with house.database.transaction() as tx:
        if not heads.wants_fit(tx, of, embedder.source):
            return
        kept = heads.fit_head(tx, of, embedder.source)
        log.info(
            "head %s: %d decisions, AUC %.3f", kept.id[:12], kept.figures["decisions"], kept.figures["by_prompt"]["auc"]
        )
        for number in rounds_with(tx, CandidateState.screened):
            tx.ask("choose", number)
