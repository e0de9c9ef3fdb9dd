"""Kept counts of candidates and decisions by round, which triggers in the database maintain.

A full count of a round takes seconds at a million candidates. Therefore each statement that changes
candidates, screenings or decisions appends the changes of the counts to `round_count_deltas` (an
insert, so that no transaction waits for another), and `fold_deltas` adds them to `round_counts`. A
count is the sum over both tables, read by one statement, and exact at any time.

Counts and their keys:

    candidates: state, verdicts, slice, propensity, settled by, generated (of ended ones)
    screenings: refused by, shows the color, shows the shape
        (both with the source of the prompt at the end, in steered rounds)
    looks, measured: reviewer, slice; `total` of measured is the review time in milliseconds
    verdicts: reviewer, verdict; without undone ones
    reasons: reviewer, reason, layer; of verdicts that are not undone
    own: reviewer, verdict; without undone ones, with gold, by the round in which they were shown
    shown: no key; candidates that a person or the rule reviewer has seen
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY

from curation.db.advisory_locks import AdvisoryLock, try_lock
from curation.db.engine import Transaction

FOLD_BATCH_SIZE: Final = 50_000
"""Largest number of changes that are folded at once."""


class RoundCount(NamedTuple):
    """One count of a round: its name, its key, the number of rows, and a sum over them."""

    round_id: int
    name: str
    key: tuple[str, ...]
    n: int
    total: int


def read_counts(
    tx: Transaction, rounds: Collection[int], names: Collection[str]
) -> list[RoundCount]:
    """Return the counts of rounds that are not zero.

    Args:
        tx: The transaction.
        rounds: The ids of the rounds.
        names: The names of the counts.
    """
    rows = tx.execute(_READ, {"rounds": list(rounds), "names": list(names)})
    return [
        RoundCount(row.round_id, row.name, tuple(row.key), int(row.n), int(row.total))
        for row in rows
    ]


def count_states(tx: Transaction, rounds: Collection[int]) -> dict[int, dict[str, int]]:
    """Return the number of candidates by round and state; states without candidates are left out.

    Args:
        tx: The transaction.
        rounds: The ids of the rounds.
    """
    counts: dict[int, dict[str, int]] = {}
    for row in tx.execute(_COUNT_STATES, {"rounds": list(rounds)}):
        counts.setdefault(row.round_id, {})[row.state] = int(row.n)
    return counts


def fold_deltas(tx: Transaction) -> int:
    """Add a batch of changes to the counts; a second process that tries it at once does nothing.

    Returns:
        The number of changes that were folded.
    """
    if not try_lock(tx, AdvisoryLock.fold_counts):
        return 0
    return int(tx.execute(_FOLD, {"limit": FOLD_BATCH_SIZE}).scalar_one())


_READ = sa.text("""
    select round_id, name, key, sum(n) as n, sum(total) as total from (
        select round_id, name, key, n, total from round_counts
        where round_id = any(:rounds) and name = any(:names)
        union all
        select round_id, name, key, n, total from round_count_deltas
        where round_id = any(:rounds) and name = any(:names)) parts
    group by round_id, name, key having sum(n) <> 0 or sum(total) <> 0
    order by round_id, name, key""").bindparams(
    sa.bindparam("rounds", type_=ARRAY(sa.Integer)), sa.bindparam("names", type_=ARRAY(sa.Text))
)

# A state has a count for each reviewer who settled candidates, so that they are summed here.
_COUNT_STATES = sa.text("""
    select round_id, key[1] as state, sum(n) as n from (
        select round_id, key, n from round_counts
        where round_id = any(:rounds) and name = 'candidates'
        union all
        select round_id, key, n from round_count_deltas
        where round_id = any(:rounds) and name = 'candidates') parts
    group by 1, 2 having sum(n) <> 0 order by 1, 2""").bindparams(
    sa.bindparam("rounds", type_=ARRAY(sa.Integer))
)

# The rows are deleted and counted by one statement, so that every reader sees each change once.
_FOLD = sa.text("""
    with gone as (
        delete from round_count_deltas
        where id in (select id from round_count_deltas order by id limit :limit)
        returning round_id, name, key, n, total),
    folded as (
        insert into round_counts (round_id, name, key, n, total)
        select round_id, name, key, sum(n), sum(total) from gone group by round_id, name, key
        on conflict (round_id, name, key) do update
        set n = round_counts.n + excluded.n, total = round_counts.total + excluded.total)
    select count(*) from gone""")
