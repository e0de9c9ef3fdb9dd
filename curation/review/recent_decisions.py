"""Recent decisions of a reviewer that can be undone, also after a reload."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from curation.db.engine import Transaction
from curation.domain import LayerRole, RejectReason, ReviewItem, Verdict
from curation.review.queue import read_items


@dataclass(frozen=True)
class RecentDecision:
    """A decision that is not undone: its id, its content and its candidate."""

    decision: int
    verdict: Verdict
    reasons: tuple[RejectReason, ...]
    layers: tuple[LayerRole, ...]
    comment: str
    item: ReviewItem


def recent_decisions(tx: Transaction, reviewer_id: int, count: int) -> list[RecentDecision]:
    """Return up to `count` decisions that can be undone, newest first.

    Their rounds are not closed, and their candidates have not changed their state since. A skip
    counts while its candidate still waits. Of two decisions on one candidate only the later can be
    undone. For gold, and where several reviewers decide, the outcome is not revealed.
    """
    rows = tx.execute(_LATEST, {"reviewer": reviewer_id, "count": count}).all()
    items = {item.id: item for item in read_items(tx, [row.candidate_id for row in rows])}
    return [
        RecentDecision(
            decision=row.id,
            verdict=Verdict(row.verdict),
            reasons=tuple(RejectReason(reason) for reason in row.reasons),
            layers=tuple(LayerRole(role) for role in row.layers),
            comment=row.comment,
            item=items[row.candidate_id],
        )
        for row in rows
    ]


# The index by reviewer yields the newest first; eight times `count` rows are scanned, so that
# enough are left after undone ones are dropped.
_LATEST = sa.text("""
    select d.id, d.candidate_id, d.verdict, d.reasons, d.layers, d.comment
    from (select * from decisions where reviewer_id = :reviewer order by id desc limit 8 * :count) d
    join candidates c on c.id = d.candidate_id
    left join gold g on g.candidate_id = c.id
    join rounds r on r.id = coalesce(g.round_id, c.round_id)
    where r.state <> 'closed'
        and ((d.verdict, c.state) in (('accept', 'accepted'), ('reject', 'rejected'),
            ('skip', 'waiting'))
            or d.verdict in ('accept', 'reject') and (c.decided > 0 or g.candidate_id is not null))
        and not exists (
            select from decisions later
            where later.candidate_id = d.candidate_id and later.reviewer_id = d.reviewer_id
                and later.id > d.id)
    order by d.id desc limit :count""")
