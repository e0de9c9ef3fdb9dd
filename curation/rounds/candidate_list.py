"""The list of candidates with their prompts and layers, in pages."""

from __future__ import annotations

import uuid
from typing import Any

import sqlalchemy as sa

from curation.db.engine import Transaction
from curation.db.paging import find_place, read_page
from curation.db.tables import candidate_layers, candidates, prompts, rounds
from curation.domain import CandidateState
from curation.rounds.lifecycle import find_round


def list_candidates(
    tx: Transaction,
    round_id: int | None = None,
    state: CandidateState | None = None,
    limit: int = 0,
    after: uuid.UUID | None = None,
) -> list[dict[str, Any]]:
    """Return candidates by round and id.

    Args:
        tx: The transaction.
        round_id: Only this round; None for all rounds.
        state: Only this state; None for all states.
        limit: The largest number; 0 for no limit.
        after: The last candidate of the page before; None for the first page.

    Raises:
        NotFound: There is no such round, or no candidate `after`.
    """
    place = find_place(tx, [candidates.c.round_id, candidates.c.id], after)
    first = 0 if place is None else int(place[0])
    if round_id is not None:
        find_round(tx, round_id)
        numbers = [round_id]
    else:
        numbers = list(tx.execute(sa.select(rounds.c.id).order_by(rounds.c.id)).scalars())
    found: list[dict[str, Any]] = []
    # Round by round, by the index of a round's candidates: no statement sorts all of them.
    for one in numbers:
        if one >= first and (not limit or len(found) < limit):
            left = limit - len(found) if limit else 0
            found += _candidates_of(tx, one, state, left, after if one == first else None)
    return found


def _candidates_of(
    tx: Transaction,
    round_id: int,
    state: CandidateState | None,
    limit: int,
    after: uuid.UUID | None,
) -> list[dict[str, Any]]:
    # A subquery aggregates the layers, so that each candidate is one row.
    layers = sa.func.jsonb_object_agg(candidate_layers.c.role, candidate_layers.c.sha256)
    is_own = candidate_layers.c.candidate_id == candidates.c.id
    listed = sa.select(
        candidates.c.id,
        candidates.c.round_id.label("round"),
        candidates.c.state,
        candidates.c.seed,
        prompts.c.text.label("prompt"),
        prompts.c.foreground,
        prompts.c.background,
        candidates.c.flags,
        candidates.c.slice,
        candidates.c.note,
        candidates.c.changed_at,
        sa.select(layers).where(is_own).scalar_subquery().label("layers"),
    ).join(prompts, prompts.c.id == candidates.c.prompt_id)
    listed = listed.where(candidates.c.round_id == round_id)
    if state is not None:
        listed = listed.where(candidates.c.state == state)
    key = [candidates.c.id]
    place = None if after is None else [after]
    return read_page(tx, listed, key, limit=limit, after=place, descending=False)
