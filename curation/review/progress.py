"""Progress: a reviewer's counts per round, from information that the reviewer may know.

All counts are the reviewer's own: other verdicts are never part of them, and gold counts like any
candidate, so that no change of a count reveals it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import sqlalchemy as sa

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
    tx: Transaction, reviewer_id: int, number: int | None = None
) -> dict[int, ReviewProgress]:
    """Return a reviewer's progress by round; rounds without any progress are left out.

    In a paused or closed round only items that the reviewer holds count as waiting.

    Args:
        tx: The transaction.
        reviewer_id: The reviewer.
        number: Only this round; None for all rounds.
    """
    return _progress(tx, reviewer_id, number, only_open=False)


def review_progress(tx: Transaction, reviewer_id: int, number: int | None) -> dict[str, int]:
    """Return a reviewer's progress as JSON data.

    Args:
        tx: The transaction.
        reviewer_id: The reviewer.
        number: The round; None for all open rounds together.
    """
    found = _progress(tx, reviewer_id, number, only_open=number is None)
    # Sum over rounds field by field; without any round all counts are 0.
    columns: Iterable[tuple[int, ...]] = zip(*found.values(), strict=True)
    return ReviewProgress(*map(sum, columns))._asdict()


def _progress(
    tx: Transaction, reviewer_id: int, number: int | None, *, only_open: bool
) -> dict[int, ReviewProgress]:
    params = {
        "reviewer": reviewer_id,
        "holder": lease_holder_name(reviewer_id),
        "round": number,
        "only_open": only_open,
    }
    return {
        row.id: ReviewProgress(int(row.waiting), int(row.mine), int(row.accepted))
        for row in tx.execute(_PROGRESS, params)
    }


# Gold counts as waiting only beside other candidates, since it is never shown alone.
_PROGRESS = sa.text(f"""
    with here as (
        select r.id, r.state = 'open' as open,
            coalesce((r.consensus ->> 'overlap')::int, 1) as overlap,
            coalesce((r.gold ->> 'share')::float, 0) > 0 as hides,
                me.role in ({ADJUDICATORS}) as adjudicates
        from rounds r join reviewers me on me.id = :reviewer
        where r.purpose <> '{GOLD_PURPOSE}' and (cast(:round as integer) is null or r.id = :round)
            and (r.state = 'open' or not :only_open)),
    own as (
        select here.id as round_id, d.verdict, not here.open or g.candidate_id is not null as apart,
            c.state = 'waiting' and (c.decided < here.overlap or here.adjudicates) as waits
        from decisions d
        join candidates c on c.id = d.candidate_id
        left join gold g on g.candidate_id = c.id
        join here on here.id = coalesce(g.round_id, c.round_id)
        where d.reviewer_id = :reviewer and {IS_STANDING}),
    decided as (
        select round_id, count(*) as mine, count(*) filter (where verdict = 'accept') as accepted,
            count(*) filter (where waits and not apart) as again
        from own group by round_id),
    held as (
        select here.id as round_id, count(*) as n
        from leases l join candidates c on c.id = l.subject and c.state = 'showing'
        left join gold g on g.candidate_id = c.id
        join here on here.id = coalesce(g.round_id, c.round_id)
        where l.holder = :holder and l.purpose = 'review' group by here.id),
    free as (
        select here.id as round_id, count(*) as n
        from candidates c join here on here.id = c.round_id
        where here.open and c.state = 'waiting' and (c.decided < here.overlap or here.adjudicates)
        group by here.id),
    hidden as (
        select here.id as round_id, count(*) as n
        from gold g join here on here.id = g.round_id join candidates c on c.id = g.candidate_id
        where here.open and here.hides and c.state = 'waiting' and not exists (
            select from decisions d where d.candidate_id = c.id and d.reviewer_id = :reviewer
                and {IS_STANDING})
        group by here.id),
    summed as (
        select here.id, coalesce(held.n, 0) + coalesce(free.n, 0) - coalesce(decided.again,
            0) as plain,
            coalesce(hidden.n, 0) as hidden, coalesce(decided.mine, 0) as mine,
            coalesce(decided.accepted, 0) as accepted
        from here
        left join held on held.round_id = here.id left join free on free.round_id = here.id
        left join hidden on hidden.round_id = here.id
        left join decided on decided.round_id = here.id)
    select id, plain + case when plain > 0 then hidden else 0 end as waiting, mine, accepted
    from summed where plain > 0 or mine > 0""")
