"""The sweep: whatever the queue lost is found in the records, and asked for again."""

from __future__ import annotations

import sqlalchemy as sa

from curation.db.engine import Transaction
from curation.db.tables import candidates, caption_runs, rounds, training_runs
from curation.domain import CandidateState, Kind, RoundState, RunState
from curation.jobs.lease_heartbeat import release_lost_in
from curation.labeling import projects
from curation.review import consensus
from curation.runtime.context import AppContext
from curation.selection import acceptance_model_store


def sweep(context: AppContext) -> None:
    """Hand back what lost its lease, and ask again for all that waits: whatever the queue lost is found here."""
    with context.database.transaction() as tx:
        release_lost_in(tx, context)
        for number in rounds_with(tx, CandidateState.requested, but_no=CandidateState.drawing):
            tx.ask("draw", number)
        for number in rounds_with(tx, CandidateState.drawn):
            tx.ask("screen", number)
        for number in rounds_with(tx, CandidateState.screened):
            tx.ask("choose", number)
        for kind in _kinds_with_heads(tx):
            if acceptance_model_store.may_fit(tx, kind):
                tx.ask("fit_head", kind)
        for number in consensus.rounds_to_learn(tx):
            tx.ask("aggregate", number)
        for row in tx.execute(
            sa.select(training_runs.c.id).where(training_runs.c.state == RunState.requested)
        ):
            tx.ask("train", str(row.id))
        for row in tx.execute(
            sa.select(caption_runs.c.id).where(caption_runs.c.state == RunState.requested)
        ):
            tx.ask("caption", str(row.id))
        if context.settings.other_desk is not None:
            _ask_for_desk(tx, context.settings.other_desk)


def _ask_for_desk(tx: Transaction, desk: str) -> None:
    """Ask for what is to go up and down there, and for what may have been said there since the last time."""
    for number in projects.rounds_to_serve(tx, desk):
        tx.ask("put_up", number)
    for board in projects.boards_to_read(tx, desk):
        tx.ask("collect", str(board))


def rounds_with(
    tx: Transaction, state: CandidateState, but_no: CandidateState | None = None
) -> list[int]:
    """Open rounds with a candidate in one state, and none in another: a round that moves needs no nudge."""

    def some(one: CandidateState) -> sa.ColumnElement[bool]:
        return sa.exists().where(candidates.c.round_id == rounds.c.id, candidates.c.state == one)

    standing = sa.select(rounds.c.id).where(rounds.c.state == RoundState.open, some(state))
    if but_no is not None:
        standing = standing.where(~some(but_no))
    return [row.id for row in tx.execute(standing)]


def _kinds_with_heads(tx: Transaction) -> list[Kind]:
    """The kinds of open rounds whose policy asks an acceptance head."""
    mixed = (rounds.c.state == RoundState.open) & (rounds.c.policy["kind"].astext == "mixed")
    return [Kind(row.kind) for row in tx.execute(sa.select(rounds.c.kind).where(mixed).distinct())]
