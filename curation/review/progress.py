"""Progress: a reviewer's counts per round, from information that the reviewer may know.

All counts are the reviewer's own: other verdicts are never part of them, and gold counts like any
candidate, so that no change of a count reveals it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY

from curation.db.counts import read_counts
from curation.db.engine import Transaction
from curation.review.reviewers import ADJUDICATORS, lease_holder_name
from curation.review.verdicts import IS_STANDING
from curation.rounds.lifecycle import GOLD_PURPOSE


class ReviewProgress(NamedTuple):
    """One reviewer's counts for one round, or for several together.

    `waiting` counts items that may still be shown to them: leased to them, free, or gold hidden
    among these. `mine` counts their standing verdicts, `accepted` those that accept.
    """

    waiting: int = 0
    mine: int = 0
    accepted: int = 0


def progress_by_round(
    tx: Transaction, reviewer_id: int, numbers: Iterable[int] | None = None
) -> dict[int, ReviewProgress]:
    """Return a reviewer's progress by round; rounds without any progress are left out.

    In a paused or closed round only items that the reviewer holds count as waiting.

    Args:
        tx: The transaction.
        reviewer_id: The reviewer.
        numbers: Only these rounds; None for all rounds.
    """
    wanted = None if numbers is None else list(numbers)
    return _progress(tx, reviewer_id, wanted, only_open=False)


def review_progress(tx: Transaction, reviewer_id: int, number: int | None) -> dict[str, int]:
    """Return a reviewer's progress as JSON data.

    Args:
        tx: The transaction.
        reviewer_id: The reviewer.
        number: The round; None for all open rounds together.
    """
    wanted = None if number is None else [number]
    found = _progress(tx, reviewer_id, wanted, only_open=number is None)
    # Sum over rounds field by field; without any round all counts are 0.
    columns: Iterable[tuple[int, ...]] = zip(*found.values(), strict=True)
    return ReviewProgress(*map(sum, columns))._asdict()


def _progress(
    tx: Transaction, reviewer_id: int, numbers: list[int] | None, *, only_open: bool
) -> dict[int, ReviewProgress]:
    params = {"reviewer": reviewer_id, "rounds": numbers, "only_open": only_open}
    rounds = {row.id: row for row in tx.execute(_ROUNDS, params)}
    # Kept counts: candidates that are free for this reviewer, and the reviewer's verdicts.
    free: Counter[int] = Counter()
    mine: Counter[int] = Counter()
    accepted: Counter[int] = Counter()
    for count in read_counts(tx, rounds, ["own"], str(reviewer_id)):
        mine[count.round_id] += count.n
        accepted[count.round_id] += count.n if count.key[1] == "accept" else 0
    for count in read_counts(tx, rounds, ["candidates"], "waiting"):
        row = rounds[count.round_id]
        if row.open:
            may_decide = int(count.key[1]) < row.overlap or row.adjudicates
            free[row.id] += count.n if may_decide else 0
    # Few rows: what the reviewer holds, has decided with others still to decide, and hidden gold.
    held = _count(tx, _HELD, {"holder": lease_holder_name(reviewer_id)})
    several = [id_ for id_, row in rounds.items() if row.open and row.overlap > 1]
    again = _count(tx, _AGAIN, {"reviewer": reviewer_id, "rounds": several}) if several else {}
    hiding = [id_ for id_, row in rounds.items() if row.open and row.hides]
    hidden = _count(tx, _HIDDEN, {"reviewer": reviewer_id, "rounds": hiding}) if hiding else {}
    found = {}
    for id_ in rounds:
        plain = held.get(id_, 0) + free[id_] - again.get(id_, 0)
        # Gold counts as waiting only beside other candidates, since it is never shown alone.
        waiting = plain + hidden.get(id_, 0) if plain > 0 else plain
        if plain > 0 or mine[id_] > 0:
            found[id_] = ReviewProgress(waiting, mine[id_], accepted[id_])
    return found


def _count(tx: Transaction, statement: sa.TextClause, params: dict[str, Any]) -> dict[int, int]:
    return {row.round_id: int(row.n) for row in tx.execute(statement, params)}


_WANTED = sa.bindparam("rounds", type_=ARRAY(sa.Integer))

_ROUNDS = sa.text(f"""
    select r.id, r.state = 'open' as open, coalesce((r.consensus ->> 'overlap')::int, 1) as overlap,
        coalesce((r.gold ->> 'share')::float, 0) > 0 as hides,
        me.role in ({ADJUDICATORS}) as adjudicates
    from rounds r join reviewers me on me.id = :reviewer
    where r.purpose <> '{GOLD_PURPOSE}' and (:rounds is null or r.id = any(:rounds))
        and (r.state = 'open' or not :only_open)""").bindparams(_WANTED)

_HELD = sa.text("""
    select coalesce(g.round_id, c.round_id) as round_id, count(*) as n
    from leases l join candidates c on c.id = l.subject and c.state = 'showing'
    left join gold g on g.candidate_id = c.id
    where l.holder = :holder and l.purpose = 'review' group by 1""")

_AGAIN = sa.text(f"""
    select c.round_id, count(*) as n
    from candidates c join rounds r on r.id = c.round_id join reviewers me on me.id = :reviewer
    where c.round_id = any(:rounds) and c.state = 'waiting' and c.decided > 0
        and (c.decided < (r.consensus ->> 'overlap')::int or me.role in ({ADJUDICATORS}))
        and exists (select from decisions d where d.candidate_id = c.id
            and d.reviewer_id = me.id and {IS_STANDING})
    group by c.round_id""").bindparams(_WANTED)

_HIDDEN = sa.text(f"""
    select g.round_id, count(*) as n
    from gold g join candidates c on c.id = g.candidate_id
    where g.round_id = any(:rounds) and c.state = 'waiting' and not exists (
        select from decisions d where d.candidate_id = c.id and d.reviewer_id = :reviewer
            and {IS_STANDING})
    group by g.round_id""").bindparams(_WANTED)
