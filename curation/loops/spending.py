"""Spending of a loop from its budget: time of GPU workers, time of people, accepted samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import sqlalchemy as sa

from curation.db import counts
from curation.db.engine import Transaction
from curation.db.tables import loop_turns, loops, reviewers, rounds
from curation.loops.plan import Budget
from curation.loops.rows import Loop
from curation.review.reviewers import PERSON

MAX_COUNTED_SECONDS: Final = 60
"""Longest time between two checks that counts as training; in a longer one no worker ran."""


def add_training_time(tx: Transaction, loop: Loop) -> None:
    """Add the time of the loop's training since the last check, and record this check.

    The time is measured between checks, not by the run's dates, so that pauses do not count.
    """
    params = {"loop": loop.id, "run": loop.run, "most": MAX_COUNTED_SECONDS}
    tx.execute(_ADD_TRAINING if loop.run and loop.checkpoint is None else _CHECK, params)


def spent(tx: Transaction, loop: Loop) -> Budget:
    """Return the spending of a loop so far, in all its turns."""
    return spent_by_loop(tx, [loop.id])[loop.id]


def spent_by_loop(tx: Transaction, loop_ids: Sequence[int]) -> dict[int, Budget]:
    """Return the spending of loops so far, by their numbers, with a few queries for all of them."""
    training = {
        int(row.id): float(row.training_seconds)
        for row in tx.execute(
            sa.select(loops.c.id, loops.c.training_seconds).where(loops.c.id.in_(loop_ids))
        )
    }
    rounds_of: dict[int, list[int]] = {loop_id: [] for loop_id in loop_ids}
    generating: dict[int, float] = {}
    of_loops = (
        sa.select(loop_turns.c.loop_id, rounds.c.id, rounds.c.gpu_seconds)
        .join_from(loop_turns, rounds, rounds.c.id == loop_turns.c.round_id)
        .where(loop_turns.c.loop_id.in_(loop_ids))
    )
    for row in tx.execute(of_loops):
        rounds_of[row.loop_id].append(row.id)
        generating[row.id] = float(row.gpu_seconds)
    hours = _review_hours(tx, list(generating))
    states = counts.count_states(tx, list(generating))
    return {
        loop_id: Budget(
            gpu_seconds=training.get(loop_id, 0.0) + sum(generating[id_] for id_ in round_ids),
            human_hours=sum(hours.get(id_, 0.0) for id_ in round_ids),
            accepted=sum(states.get(id_, {}).get("accepted", 0) for id_ in round_ids),
        )
        for loop_id, round_ids in rounds_of.items()
    }


def _review_hours(tx: Transaction, round_ids: Sequence[int]) -> dict[int, float]:
    """Return the measured review time of people by round, in hours."""
    people = {str(row.id) for row in tx.execute(_PEOPLE)}
    hours: dict[int, float] = {}
    for found in counts.read_counts(tx, round_ids, ["measured"]):
        if found.key[0] in people:
            hours[found.round_id] = hours.get(found.round_id, 0.0) + found.total / 3_600_000
    return hours


def exceeded(budget: Budget, used: Budget) -> str | None:
    """Return a sentence on the spent limit of GPU or human time, or None."""
    if budget.gpu_seconds is not None and (used.gpu_seconds or 0) >= budget.gpu_seconds:
        return f"the budget of {budget.gpu_seconds:,.0f} GPU seconds is spent"
    if budget.human_hours is not None and (used.human_hours or 0) >= budget.human_hours:
        return f"the budget of {budget.human_hours:g} hours of review is spent"
    return None


_PEOPLE = sa.select(reviewers.c.id).where(reviewers.c.kind == PERSON)

_CHECK = sa.text("update loops set checked_at = now() where id = :loop")

_ADD_TRAINING = sa.text("""
    update loops l set checked_at = now(), training_seconds = l.training_seconds + coalesce((
        select r.machines * least(:most, greatest(0, extract(epoch from
            coalesce(r.finished_at, now()) - greatest(l.checked_at, r.started_at))))
        from training_runs r where r.id = :run and r.state in ('running', 'finished')), 0)
    where l.id = :loop""")
