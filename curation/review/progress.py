"""Progress: how far the rounds are for one reviewer, without telling what others said or which candidates are gold."""

from __future__ import annotations

import sqlalchemy as sa

from curation.database import Transaction
from curation.review.verdicts import STANDS
from curation.rounds import GOLD


def review_progress(tx: Transaction, reviewer_id: int, number: int | None) -> dict[str, int]:
    """Candidates waiting (or shown), decided and accepted in a round, or in all open ones; `mine` by this reviewer.

    Where several decide, and of gold, only this reviewer's own decisions count, and what they have decided does not
    wait: each decision moves the figures alike, whatever else is known of its candidate.
    """
    row = tx.execute(_PROGRESS, {"reviewer": reviewer_id, "round": number}).mappings().one()
    return {name: int(row[name]) for name in ("waiting", "decided", "accepted", "mine")}


_PROGRESS = sa.text(f"""
    with here as (
        select id, coalesce((consensus ->> 'overlap')::int, 1) > 1 as shared,
            coalesce((gold ->> 'share')::float, 0) > 0 as hides
        from rounds where purpose <> '{GOLD}'
            and case when cast(:round as integer) is null then state = 'open' else id = :round end),
    counted as (
        select c.state, here.shared, count(*) as n
        from candidates c join here on here.id = c.round_id group by c.state, here.shared),
    own as (
        select d.verdict, c.state, here.shared or g.candidate_id is not null as alone
        from decisions d
        join candidates c on c.id = d.candidate_id
        left join gold g on g.candidate_id = c.id
        join here on here.id = coalesce(g.round_id, c.round_id)
        where d.reviewer_id = :reviewer and {STANDS})
    select
        coalesce((select sum(n) from counted where state in ('waiting', 'showing')), 0)
            + (select count(*) from gold g join here on here.id = g.round_id where here.hides)
            - (select count(*) from own where state in ('waiting', 'showing')) as waiting,
        coalesce((select sum(n) from counted where not shared and state in ('accepted', 'rejected')), 0)
            + (select count(*) from own where alone) as decided,
        coalesce((select sum(n) from counted where not shared and state = 'accepted'), 0)
            + (select count(*) from own where alone and verdict = 'accept') as accepted,
        (select count(*) from own) as mine""")
