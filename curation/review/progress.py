"""Progress: how far the rounds are for one reviewer, from what they may know and from nothing else.

Every figure is the reviewer's own. What others said is never part of it, and gold counts like any
candidate: each decision moves the figures alike.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import sqlalchemy as sa

from curation.db.engine import Transaction
from curation.review.reviewers import ADJUDICATORS, holder_of
from curation.review.verdicts import STANDS
from curation.rounds.lifecycle import GOLD


class Progress(NamedTuple):
    """One reviewer's figures of one round, or of several together.

    `waiting` counts what may still be shown to them: what they hold, what is free, and the gold
    that may be hidden among it. `mine` counts their verdicts that stand, `accepted` those of them
    that accept.
    """

    waiting: int = 0
    mine: int = 0
    accepted: int = 0


def progress_by_round(
    tx: Transaction, reviewer_id: int, number: int | None = None
) -> dict[int, Progress]:
    """Return a reviewer's figures of every round, or of one; rounds without any are left out.

    Nothing but what the reviewer holds waits in a round that is paused or closed.
    """
    return _progress(tx, reviewer_id, number, only_open=False)


def review_progress(tx: Transaction, reviewer_id: int, number: int | None) -> dict[str, int]:
    """Return a reviewer's figures of one round, or of all open ones together."""
    found = _progress(tx, reviewer_id, number, only_open=number is None)
    columns: Iterable[tuple[int, ...]] = zip(*found.values(), strict=True)
    return Progress(*map(sum, columns))._asdict()


def _progress(
    tx: Transaction, reviewer_id: int, number: int | None, *, only_open: bool
) -> dict[int, Progress]:
    asked = {
        "reviewer": reviewer_id,
        "holder": holder_of(reviewer_id),
        "round": number,
        "only_open": only_open,
    }
    return {
        row.id: Progress(int(row.waiting), int(row.mine), int(row.accepted))
        for row in tx.execute(_PROGRESS, asked)
    }


# Gold waits only beside candidates that are not gold: it is never shown alone.
_PROGRESS = sa.text(f"""
    with here as (
        select r.id, r.state = 'open' as open,
            coalesce((r.consensus ->> 'overlap')::int, 1) as overlap,
            coalesce((r.gold ->> 'share')::float, 0) > 0 as hides,
                me.access in ({ADJUDICATORS}) as adjudicates
        from rounds r join reviewers me on me.id = :reviewer
        where r.purpose <> '{GOLD}' and (cast(:round as integer) is null or r.id = :round)
            and (r.state = 'open' or not :only_open)),
    own as (
        select here.id as round_id, d.verdict, not here.open or g.candidate_id is not null as apart,
            c.state = 'waiting' and (c.decided < here.overlap or here.adjudicates) as waits
        from decisions d
        join candidates c on c.id = d.candidate_id
        left join gold g on g.candidate_id = c.id
        join here on here.id = coalesce(g.round_id, c.round_id)
        where d.reviewer_id = :reviewer and {STANDS}),
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
                and {STANDS})
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
