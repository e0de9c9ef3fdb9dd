"""Spending of a loop from its budget: time of GPU workers, time of people, accepted samples."""

from __future__ import annotations

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
    own = sa.select(loop_turns.c.round_id).where(
        loop_turns.c.loop_id == loop.id, loop_turns.c.round_id.is_not(None)
    )
    round_ids = [int(row.round_id) for row in tx.execute(own)]
    generating = tx.scalar(
        sa.select(sa.func.coalesce(sa.func.sum(rounds.c.gpu_seconds), 0.0)).where(
            rounds.c.id.in_(round_ids)
        )
    )
    training = tx.scalar(sa.select(loops.c.training_seconds).where(loops.c.id == loop.id))
    states = counts.count_states(tx, round_ids)
    return Budget(
        gpu_seconds=float(training or 0) + float(generating),
        human_hours=review_hours(tx, round_ids),
        accepted=sum(found.get("accepted", 0) for found in states.values()),
    )


def review_hours(tx: Transaction, round_ids: list[int]) -> float:
    """Return the measured review time of people in rounds, in hours."""
    people = {str(row.id) for row in tx.execute(_PEOPLE)}
    measured = counts.read_counts(tx, round_ids, ["measured"])
    return sum(found.total for found in measured if found.key[0] in people) / 3_600_000


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
