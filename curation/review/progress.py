"""Progress: a reviewer's counts per round, from information that the reviewer may know.

All counts are the reviewer's own: other verdicts are never part of them, and gold counts like any
candidate, so that no change of a count reveals it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY

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
    tx: Transaction, reviewer_id: int, round_ids: Iterable[int] | None = None
) -> dict[int, ReviewProgress]:
    """Return a reviewer's progress by round; rounds without any progress are left out.

    In a paused or closed round only items that the reviewer holds count as waiting.

    Args:
        tx: The transaction.
        reviewer_id: The reviewer.
        round_ids: Only these rounds; None for all rounds.
    """
    wanted = None if round_ids is None else list(round_ids)
    return _progress(tx, reviewer_id, wanted, only_open=False)


def review_progress(tx: Transaction, reviewer_id: int, round_id: int | None) -> dict[str, int]:
    """Return a reviewer's progress as JSON data.

    Args:
        tx: The transaction.
        reviewer_id: The reviewer.
        round_id: The round; None for all open rounds together.
    """
    wanted = None if round_id is None else [round_id]
    found = _progress(tx, reviewer_id, wanted, only_open=round_id is None)
    # Sum over rounds field by field; without any round all counts are 0.
    columns: Iterable[tuple[int, ...]] = zip(*found.values(), strict=True)
    return ReviewProgress(*map(sum, columns))._asdict()


def _progress(
    tx: Transaction, reviewer_id: int, round_ids: list[int] | None, *, only_open: bool
) -> dict[int, ReviewProgress]:
    params = {
        "reviewer": reviewer_id,
        "holder": lease_holder_name(reviewer_id),
        "reviewer_key": str(reviewer_id),
        "rounds": round_ids,
        "only_open": only_open,
    }
    rounds = tx.execute(_COUNTED, params).all()
    # Few rows: what the reviewer has decided with others still to decide, and hidden gold.
    several = [row.id for row in rounds if row.open and row.overlap > 1]
    again = _count(tx, _AGAIN, {"reviewer": reviewer_id, "rounds": several}) if several else {}
    hiding = [row.id for row in rounds if row.open and row.hides]
    hidden = _count(tx, _HIDDEN, {"reviewer": reviewer_id, "rounds": hiding}) if hiding else {}
    found = {}
    for row in rounds:
        ordinary = int(row.held) + int(row.free) - again.get(row.id, 0)
        # Gold counts as waiting only beside other candidates, since it is never shown alone.
        waiting = ordinary + hidden.get(row.id, 0) if ordinary > 0 else ordinary
        if ordinary > 0 or row.mine > 0:
            found[row.id] = ReviewProgress(waiting, int(row.mine), int(row.accepted))
    return found


def _count(tx: Transaction, statement: sa.TextClause, params: dict[str, Any]) -> dict[int, int]:
    return {row.round_id: int(row.n) for row in tx.execute(statement, params)}


_WANTED = sa.bindparam("rounds", type_=ARRAY(sa.Integer))

# From the kept counts (curation.db.counts): candidates that are free for this reviewer, and the
# reviewer's verdicts. What the reviewer holds is few rows of the leases.
_COUNTED = sa.text(f"""
    with here as (
        select r.id, r.state = 'open' as open,
            coalesce((r.consensus ->> 'overlap')::int, 1) as overlap,
            coalesce((r.gold ->> 'share')::float, 0) > 0 as hides,
            me.role in ({ADJUDICATORS}) as adjudicates
        from rounds r join reviewers me on me.id = :reviewer
        where r.purpose <> '{GOLD_PURPOSE}' and (:rounds is null or r.id = any(:rounds))
            and (r.state = 'open' or not :only_open)),
    parts as (
        select here.id, c.name, c.key, c.n from here join round_counts c on c.round_id = here.id
        union all
        select here.id, c.name, c.key, c.n
        from here join round_count_deltas c on c.round_id = here.id),
    counted as (
        select id, sum(n) filter (where name = 'own') as mine,
            sum(n) filter (where name = 'own' and key[2] = 'accept') as accepted,
            sum(n) filter (where name = 'candidates' and here.open and (adjudicates
                or case name when 'candidates' then key[2]::int end < overlap)) as free
        from parts join here using (id)
        where name = 'own' and key[1] = :reviewer_key
            or name = 'candidates' and key[1] = 'waiting'
        group by id),
    held as (
        select coalesce(g.round_id, c.round_id) as id, count(*) as n
        from leases l join candidates c on c.id = l.subject and c.state = 'showing'
        left join gold g on g.candidate_id = c.id
        where l.holder = :holder and l.purpose = 'review' group by 1)
    select here.*, coalesce(held.n, 0) as held, coalesce(free, 0) as free,
        coalesce(mine, 0) as mine, coalesce(accepted, 0) as accepted
    from here left join counted using (id) left join held using (id)""").bindparams(_WANTED)

_AGAIN = sa.text(f"""
    select c.round_id, count(*) as n
    from candidates c join rounds r on r.id = c.round_id join reviewers me on me.id = :reviewer
    where c.round_id = any(:rounds) and c.state = 'waiting' and c.decided > 0
        and (c.decided < (r.consensus ->> 'overlap')::int or me.role in ({ADJUDICATORS}))
        and exists (select from decisions d where d.candidate_id = c.id
            and d.reviewer_id = me.id and {IS_STANDING})
    group by c.round_id""").bindparams(_WANTED)

# Gold is little, and is looked up piece by piece: "offset 0" keeps the planner from reading all
# waiting candidates.
_HIDDEN = sa.text(f"""
    select g.round_id, count(*) as n
    from gold g cross join lateral (
        select id from candidates where id = g.candidate_id and state = 'waiting' offset 0) c
    where g.round_id = any(:rounds) and not exists (
        select from decisions d where d.candidate_id = c.id and d.reviewer_id = :reviewer
            and {IS_STANDING})
    group by g.round_id""").bindparams(_WANTED)
