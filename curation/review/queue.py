"""Trays: the candidates that one reviewer holds and sees next, leased so that nobody else is shown them."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, UUID

from curation.db import leases
from curation.db.engine import Transaction
from curation.domain import Kind, LayerRole, Prompt, ReviewItem, ReviewItemLayer
from curation.review import gold
from curation.review.reviewers import ADJUDICATORS, PERSON, holder_of
from curation.review.verdicts import STANDS
from curation.rounds.lifecycle import GOLD

MOST_HELD = 64
"""Candidates one reviewer may hold at once, so that nobody keeps a round from the others."""

LOOK_AT = 256
"""Candidates begun by others that are looked at first; those beyond are served when nothing fresh is left."""


@dataclass(frozen=True)
class ReviewBatch:
    """Cards to be shown next, and those of the page's own that are no longer its reviewer's."""

    cards: tuple[ReviewItem, ...]
    lost: tuple[uuid.UUID, ...]


def claim_items(
    tx: Transaction,
    reviewer_id: int,
    round_id: int | None,
    count: int,
    holding: Collection[uuid.UUID],
    seconds: int,
) -> tuple[ReviewItem, ...]:
    """The cards of `claim_batch`, for whoever cannot have lost any."""
    return claim_batch(tx, reviewer_id, round_id, count, holding, seconds).cards


def claim_batch(
    tx: Transaction,
    reviewer_id: int,
    round_id: int | None,
    count: int,
    holding: Collection[uuid.UUID],
    seconds: int,
    page: uuid.UUID | None = None,
    previous: uuid.UUID | None = None,
) -> ReviewBatch:
    """Lease up to `count` candidates to a reviewer, of one round or of the oldest open ones.

    First those that are the reviewer's and that no page of theirs uses (it was reloaded, or has
    returned them), then new ones by falling priority; where several decide, those begun by others
    first. Leases are renewed by use: only of what the page is `holding`, and of what it is given.
    A candidate on the page whose lease was swept is leased again if nobody has taken it, and
    reported as lost otherwise. Two reviewers never get the same candidate.

    Args:
        tx: The transaction of the request.
        reviewer_id: Who asks.
        round_id: Only candidates of this round; None for all open rounds.
        count: How many more the page wants.
        holding: The candidates that the page shows or has ready, and its undelivered decisions.
        seconds: How long the leases last without a sign of use.
        page: The page that asks, so that two pages of one reviewer share nothing; None takes
            over whatever the reviewer holds.
        previous: The page that this one has replaced: what it held, or was given too late, is
            taken over.

    Returns:
        The new cards, and those of `holding` that are no longer the reviewer's.
    """
    holder = holder_of(reviewer_id)
    who = {
        "reviewer": reviewer_id,
        "holder": holder,
        "page": page,
        "previous": previous,
        "round": round_id,
    }
    held = leases.renew_used(tx, holder, "review", seconds, holding, page)
    swept = [one for one in holding if one not in held]
    if swept:
        held |= _lease(tx, _CLAIM_THESE, who | {"ids": swept}, seconds)
    lost = tuple(one for one in holding if one not in held)
    if not count:
        return ReviewBatch((), lost)
    # What this page had before it was reloaded, or another page until its lease ran out.
    mine = tx.execute(_MINE, who | {"ids": list(holding)}).all()
    idle = [row for row in mine if row.idle]
    ids = [row.id for row in idle if row.served][:count]
    if page is not None:
        leases.hand_back_used(tx, holder, [row.id for row in idle if not row.served])
    leases.renew_used(tx, holder, "review", seconds, ids, page)
    leased = sum(row.id is not None for row in mine)
    room = min(count - len(ids), MOST_HELD - leased)
    if room > 0 and mine and mine[0].unfinished > leased:
        ids += _lease(tx, _CLAIM_UNFINISHED, who | {"count": room}, seconds)
        room = min(count - len(ids), room)
    if room > 0:
        ids += _claim_waiting(tx, who, room, seconds)
    return ReviewBatch(read_cards(tx, ids), lost)


def hand_back(
    tx: Transaction, reviewer_id: int, ids: Collection[uuid.UUID], page: uuid.UUID | None = None
) -> None:
    """Return candidates that a page no longer uses, so that others get them at once.

    They stay claimed: whoever returned them gets them first if they are still free, and a
    decision on one that is still on its way is taken. Another page's leases stay.
    """
    leases.hand_back_used(tx, holder_of(reviewer_id), ids, page)


def _claim_waiting(
    tx: Transaction, who: dict[str, Any], count: int, seconds: int
) -> list[uuid.UUID]:
    """Lease candidates, round by round from the oldest open one, until there are enough or no more.

    Each place is gold by a coin, and a coin is thrown only for a place that is then filled: the
    coins end with the last candidate there is. So gold keeps its share of what a reviewer is
    given, however few candidates are left and however slowly they come.
    """
    claimed: list[uuid.UUID] = []
    for row in tx.execute(_SERVING, who).all():
        room = count - len(claimed)
        coins = gold.throw_coins(room, row.gold_share)
        wanted = room - sum(coins)
        shown = _claim_of_round(tx, row, who, max(wanted, 1), seconds)
        hidden = gold.places_among(coins, len(shown))
        kept = gold.claim_gold(tx, row.id, who["reviewer"], shown, hidden, seconds, who["page"])
        if not wanted:  # the candidate was taken only to know that one is there to hide gold before
            leases.hand_back_used(tx, who["holder"], shown if kept else ())
            shown = [] if kept else shown
        elif len(shown) == wanted and len(kept) < hidden:  # there is no more gold
            shown += _claim_of_round(tx, row, who, hidden - len(kept), seconds)
        claimed += [*shown, *kept]
        if len(claimed) < count and row.gold_share:
            claimed += gold.claim_skipped(
                tx, row.id, who["reviewer"], count - len(claimed), seconds, who["page"]
            )
        if len(claimed) >= count:
            break
    return claimed


def _claim_of_round(
    tx: Transaction, row: sa.Row[Any], who: dict[str, Any], count: int, seconds: int
) -> list[uuid.UUID]:
    """Lease waiting candidates of one round; those that several decide are never shown twice to one of them.

    First what adjudicators settle, then what others have begun, so that verdicts come soon, then fresh ones; last,
    whatever of those begun lies beyond the first LOOK_AT.
    """
    fresh = who | {"round": row.id, "level": 0}
    begun = [fresh | {"level": level} for level in range(row.overlap - 1, 0, -1)]
    if row.overlap > 1 and row.adjudicates:
        begun.insert(0, fresh | {"level": row.overlap})
    tries = [
        *((_CLAIM_BEGUN, which | {"most": LOOK_AT}) for which in begun),
        (_CLAIM_WAITING, fresh),
        *((_CLAIM_BEGUN, which | {"most": None}) for which in begun),
    ]
    claimed: list[uuid.UUID] = []
    for claim, which in tries:
        if len(claimed) >= count:
            break
        claimed += _lease(tx, claim, which | {"count": count - len(claimed)}, seconds)
    return claimed


def _lease(
    tx: Transaction, claim: sa.TextClause, which: dict[str, Any], seconds: int
) -> frozenset[uuid.UUID]:
    return frozenset(row.subject for row in tx.execute(claim, which | {"seconds": seconds}))


def read_cards(tx: Transaction, ids: Sequence[uuid.UUID]) -> tuple[ReviewItem, ...]:
    """Cards by falling priority, all read by one statement."""
    return tuple(
        ReviewItem(
            id=row.id,
            round=row.round_id,
            kind=Kind(row.kind),
            prompt=row.text,
            flags=tuple(row.flags),
            layers={
                role: ReviewItemLayer(*row.layers[role]) for role in LayerRole if role in row.layers
            },
            signals=row.signals or {},
            texts=Prompt(row.text, row.foreground, row.background).texts,
        )
        for row in (tx.execute(_CARDS, {"ids": list(ids)}) if ids else ())
    )


def _sql(text: str) -> sa.TextClause:
    statement = sa.text(text)
    return (
        statement.bindparams(sa.bindparam("ids", type_=ARRAY(UUID)))
        if ":ids" in text
        else statement
    )


# A lateral with a limit: one look into the partial index per open round, whatever the planner believes of their sizes.
_SERVING = _sql(f"""
    select r.id, coalesce((r.consensus ->> 'overlap')::int, 1) as overlap,
        me.access in ({ADJUDICATORS}) as adjudicates,
        case when me.kind = '{PERSON}' then coalesce((r.gold ->> 'share')::float, 0)
            else 0 end as gold_share
    from rounds r
    join reviewers me on me.id = :reviewer and me.paused is null
    left join lateral (select true as there from candidates c where c.round_id = r.id
        and c.state = 'waiting' limit 1)
        one on true
    where (one.there or exists (
        select from gold g join claims k on k.candidate_id = g.candidate_id
            and k.reviewer_id = me.id
        where g.round_id = r.id and not k.unfinished and not exists (
            select from decisions d where d.candidate_id = g.candidate_id and d.reviewer_id = me.id
                and {STANDS})))
        and r.state = 'open' and r.purpose <> '{GOLD}'
            and (cast(:round as integer) is null or r.id = :round)
    order by r.id""")

_CLAIM_PICKED = """
    shown as (update candidates c set state = 'showing' from picked where c.id = picked.id
        returning c.id),
    noted as (
        insert into claims (reviewer_id, candidate_id) select :reviewer, id from shown
        on conflict (candidate_id, reviewer_id) do update set unfinished = true)
    insert into leases (subject, purpose, holder, expires_at, page)
    select id, 'review', :holder, now() + make_interval(secs => :seconds), cast(:page as uuid)
    from shown
    on conflict (subject) do update
    set purpose = excluded.purpose, holder = excluded.holder, expires_at = excluded.expires_at,
        page = excluded.page
    returning subject"""

# At Label Studio somebody gets it next, or looks at it already.
_FREE = """not exists (
    select from desk_postings t where t.candidate_id = candidates.id and t.state = 'up'
        and t.reserved_until > now())"""

# Materialized: inlined, the limit could be applied once per row of the update.
_CLAIM_WAITING = _sql(f"""
    with picked as materialized (
        select id from candidates where round_id = :round and state = 'waiting' and decided = :level
            and {_FREE}
        order by priority desc, id limit :count for update skip locked),
    {_CLAIM_PICKED}""")

_DECIDED_BY_ME = f"""exists (
    select from decisions d where d.candidate_id = c.id and d.reviewer_id = :reviewer
        and {STANDS})"""

_CLAIM_BEGUN = _sql(f"""
    with near as materialized (
        select id from candidates where round_id = :round and state = 'waiting' and decided = :level
        order by priority desc, id limit :most),
    picked as materialized (
        select c.id from near join candidates c on c.id = near.id
        where c.state = 'waiting' and c.decided = :level and not {_DECIDED_BY_ME}
            and {_FREE.replace("candidates.id", "c.id")}
        order by c.priority desc, c.id limit :count for update of c skip locked),
    {_CLAIM_PICKED}""")

# A round that hides a piece of gold is its round here: nothing may tell the two apart.
_CLAIMED_BY_ME = f"""
    claims k join candidates c on c.id = k.candidate_id
    left join gold g on g.candidate_id = c.id
    join rounds r on r.id = coalesce(g.round_id, c.round_id) and r.state = 'open'
    join reviewers me on me.id = k.reviewer_id and me.paused is null
    where k.reviewer_id = :reviewer and c.state = 'waiting' and not {_DECIDED_BY_ME}
        and (c.decided < coalesce((r.consensus ->> 'overlap')::int, 1) or me.access in ({ADJUDICATORS}))"""

_CLAIM_THESE = _sql(f"""
    with picked as materialized (
        select c.id from {_CLAIMED_BY_ME} and k.candidate_id = any(:ids)
        for update of c skip locked),
    {_CLAIM_PICKED}""")

# What a reviewer was given and has not decided comes first, gold and others alike: otherwise those
# that differ after a reload would be the gold.
_CLAIM_UNFINISHED = _sql(f"""
    with picked as materialized (
        select c.id from {_CLAIMED_BY_ME} and k.unfinished
            and (cast(:round as integer) is null or r.id = :round)
        order by r.id, c.priority desc, c.id limit :count for update of c skip locked),
    {_CLAIM_PICKED}""")

# All that a reviewer has leased, one row at least; `idle` is what no other page of theirs uses.
_MINE = _sql("""
    select (select count(*) from claims k where k.reviewer_id = me.id
        and k.unfinished) as unfinished,
        c.id, l.subject <> all(:ids) and (cast(:page as uuid) is null or l.page is null
            or l.page in (cast(:page as uuid), cast(:previous as uuid))
                or l.expires_at < now()) as idle,
        c.state = 'showing' and r.state = 'open' and me.paused is null
            and (cast(:round as integer) is null or r.id = :round) as served
    from reviewers me
    left join (leases l join candidates c on c.id = l.subject
        left join gold g on g.candidate_id = c.id
        join rounds r on r.id = coalesce(g.round_id,
            c.round_id)) on l.holder = :holder and l.purpose = 'review'
    where me.id = :reviewer
    order by r.id, c.priority desc, c.id""")

_CARDS = _sql("""
    select c.id, r.id as round_id, r.kind, p.text, p.foreground, p.background, c.flags, s.signals,
        l.layers
    from candidates c
    left join gold g on g.candidate_id = c.id
    join rounds r on r.id = coalesce(g.round_id, c.round_id)
    join prompts p on p.id = c.prompt_id
    left join screenings s on s.candidate_id = c.id
    cross join lateral (
        select coalesce(jsonb_object_agg(cl.role, jsonb_build_array(l.sha256, l.width, l.height)),
            '{}') as layers
        from candidate_layers cl join layers l on l.sha256 = cl.sha256
        where cl.candidate_id = c.id) l
    where c.id = any(:ids) order by r.id, c.priority desc, c.id""")
