"""Trays: the candidates that one reviewer holds and sees next, leased so that nobody else is shown them."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, UUID

from curation import leases
from curation.database import Transaction
from curation.domain import Kind, LayerRole, Prompt
from curation.review import gold
from curation.review.reviewers import ADJUDICATORS, PERSON, holder_of
from curation.review.verdicts import STANDS
from curation.rounds import GOLD

MOST_HELD = 64
"""Candidates one reviewer may hold at once, so that nobody keeps a round from the others."""

LOOK_AT = 256
"""Candidates begun by others that are looked at first; those beyond are served when nothing fresh is left."""


class CardLayer(NamedTuple):
    """One stored layer as it is shown: its name in the object store and its size in pixels."""

    sha256: str
    width: int
    height: int


@dataclass(frozen=True)
class Card:
    """What a reviewer sees of a candidate; `texts` are those of single layers, where its prompt has some."""

    id: uuid.UUID
    round: int
    kind: Kind
    prompt: str
    flags: tuple[str, ...]
    layers: Mapping[LayerRole, CardLayer]
    signals: Mapping[str, float | None]
    texts: Mapping[LayerRole, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Tray:
    """Cards to be shown next, and those of the page's own that are no longer its reviewer's."""

    cards: tuple[Card, ...]
    lost: tuple[uuid.UUID, ...]


def take_tray(
    tx: Transaction, reviewer_id: int, round_id: int | None, count: int, holding: Collection[uuid.UUID], seconds: int
) -> tuple[Card, ...]:
    """The cards of `fill_tray`, for whoever cannot have lost any."""
    return fill_tray(tx, reviewer_id, round_id, count, holding, seconds).cards


def fill_tray(
    tx: Transaction, reviewer_id: int, round_id: int | None, count: int, holding: Collection[uuid.UUID], seconds: int
) -> Tray:
    """Up to `count` candidates leased to this reviewer for `seconds`, of one round or of the oldest open ones.

    First those that are the reviewer's already and that the page is not `holding` (it was reloaded), then new ones by
    falling priority; where several decide, those begun by others first. The leases of all that is held are renewed; a
    candidate on the page whose lease was swept away is leased again if nobody has taken it, and told as lost otherwise.
    Two reviewers never get the same candidate: a claim locks rows and skips locked ones.
    """
    holder = holder_of(reviewer_id)
    held = leases.renew(tx, holder, "review", seconds)
    swept = [one for one in holding if one not in held]
    if swept:
        held |= _lease(tx, _CLAIM_THESE, holder, seconds, {"ids": swept, "reviewer": reviewer_id})
    known = [one for one in held if one not in set(holding)]
    ids = (
        [row.id for row in tx.execute(_STILL_SERVED, {"ids": known, "round": round_id, "count": count})]
        if known
        else []
    )
    room = min(count - len(ids), MOST_HELD - len(held))
    if room > 0:
        ids += _claim_waiting(tx, reviewer_id, round_id, room, seconds)
    return Tray(read_cards(tx, ids), tuple(one for one in holding if one not in held))


def _claim_waiting(
    tx: Transaction, reviewer_id: int, round_id: int | None, count: int, seconds: int
) -> list[uuid.UUID]:
    """Lease candidates, round by round from the oldest open one, until there are enough or no more.

    A place that the coin gives to gold is filled with gold, unless nothing else is left to hide it among.
    """
    claimed: list[uuid.UUID] = []
    for row in tx.execute(_SERVING, {"round": round_id, "reviewer": reviewer_id}).all():
        room = count - len(claimed)
        hidden = gold.draw_places(room, row.gold_share)
        shown = _claim_of_round(tx, row, reviewer_id, room - hidden, seconds)
        if shown or room == hidden:
            shown += gold.claim_gold(tx, row.id, reviewer_id, shown, hidden, seconds)
        claimed += shown
        if len(claimed) >= count:
            break
    return claimed


def _claim_of_round(tx: Transaction, row: sa.Row[Any], reviewer_id: int, count: int, seconds: int) -> list[uuid.UUID]:
    """Lease waiting candidates of one round; those that several decide are never shown twice to one of them.

    First what adjudicators settle, then what others have begun, so that verdicts come soon, then fresh ones; last,
    whatever of those begun lies beyond the first LOOK_AT.
    """
    holder = holder_of(reviewer_id)
    fresh = {"round": row.id, "level": 0}
    begun = [{"round": row.id, "level": level, "reviewer": reviewer_id} for level in range(row.overlap - 1, 0, -1)]
    if row.overlap > 1 and row.adjudicates:
        begun.insert(0, {"round": row.id, "level": row.overlap, "reviewer": reviewer_id})
    tries = [
        *((_CLAIM_BEGUN, which | {"most": LOOK_AT}) for which in begun),
        (_CLAIM_WAITING, fresh),
        *((_CLAIM_BEGUN, which | {"most": None}) for which in begun),
    ]
    claimed: list[uuid.UUID] = []
    for claim, which in tries:
        if len(claimed) >= count:
            break
        claimed += _lease(tx, claim, holder, seconds, which | {"count": count - len(claimed)})
    return claimed


def _lease(
    tx: Transaction, claim: sa.TextClause, holder: str, seconds: int, which: dict[str, Any]
) -> frozenset[uuid.UUID]:
    return frozenset(row.subject for row in tx.execute(claim, which | {"holder": holder, "seconds": seconds}))


def read_cards(tx: Transaction, ids: Sequence[uuid.UUID]) -> tuple[Card, ...]:
    """Cards by falling priority, all read by one statement."""
    return tuple(
        Card(
            id=row.id,
            round=row.round_id,
            kind=Kind(row.kind),
            prompt=row.text,
            flags=tuple(row.flags),
            layers={role: CardLayer(*row.layers[role]) for role in LayerRole if role in row.layers},
            signals=row.signals or {},
            texts=Prompt(row.text, row.foreground, row.background).texts,
        )
        for row in (tx.execute(_CARDS, {"ids": list(ids)}) if ids else ())
    )


def _sql(text: str) -> sa.TextClause:
    statement = sa.text(text)
    return statement.bindparams(sa.bindparam("ids", type_=ARRAY(UUID))) if ":ids" in text else statement


# A lateral with a limit: one look into the partial index per open round, whatever the planner believes of their sizes.
_SERVING = _sql(f"""
    select r.id, coalesce((r.consensus ->> 'overlap')::int, 1) as overlap, me.access in ({ADJUDICATORS}) as adjudicates,
        case when me.kind = '{PERSON}' then coalesce((r.gold ->> 'share')::float, 0) else 0 end as gold_share
    from rounds r
    join reviewers me on me.id = :reviewer and me.paused is null
    cross join lateral (select from candidates c where c.round_id = r.id and c.state = 'waiting' limit 1) one
    where r.state = 'open' and r.purpose <> '{GOLD}' and (cast(:round as integer) is null or r.id = :round)
    order by r.id""")

_CLAIM_PICKED = """
    shown as (update candidates c set state = 'showing' from picked where c.id = picked.id returning c.id)
    insert into leases (subject, purpose, holder, expires_at)
    select id, 'review', :holder, now() + make_interval(secs => :seconds) from shown
    on conflict (subject) do update
    set purpose = excluded.purpose, holder = excluded.holder, expires_at = excluded.expires_at
    returning subject"""

# At a desk of other software somebody gets it next, or looks at it already.
_FREE = """not exists (
    select from desk_postings t where t.candidate_id = candidates.id and t.state = 'up' and t.reserved_until > now())"""

# Materialized: inlined, the limit could be applied once per row of the update.
_CLAIM_WAITING = _sql(f"""
    with picked as materialized (
        select id from candidates where round_id = :round and state = 'waiting' and decided = :level and {_FREE}
        order by priority desc, id limit :count for update skip locked),
    {_CLAIM_PICKED}""")

_DECIDED_BY_ME = f"""exists (
    select from decisions d where d.candidate_id = c.id and d.reviewer_id = :reviewer and {STANDS})"""

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

_CLAIM_THESE = _sql(f"""
    with picked as materialized (
        select c.id from candidates c join rounds r on r.id = c.round_id
        where c.id = any(:ids) and c.state = 'waiting' and not {_DECIDED_BY_ME}
            and (c.decided < coalesce((r.consensus ->> 'overlap')::int, 1)
                or (select access in ({ADJUDICATORS}) from reviewers where id = :reviewer))
        for update of c skip locked),
    {_CLAIM_PICKED}""")

_STILL_SERVED = _sql("""
    select c.id from candidates c left join gold g on g.candidate_id = c.id
    join rounds r on r.id = coalesce(g.round_id, c.round_id)
    where c.id = any(:ids) and c.state = 'showing' and r.state = 'open'
        and (cast(:round as integer) is null or r.id = :round)
    order by c.priority desc, c.id limit :count""")

_CARDS = _sql("""
    select c.id, r.id as round_id, r.kind, p.text, p.foreground, p.background, c.flags, s.signals, l.layers
    from candidates c
    left join gold g on g.candidate_id = c.id
    join rounds r on r.id = coalesce(g.round_id, c.round_id)
    join prompts p on p.id = c.prompt_id
    left join screenings s on s.candidate_id = c.id
    cross join lateral (
        select coalesce(jsonb_object_agg(cl.role, jsonb_build_array(l.sha256, l.width, l.height)), '{}') as layers
        from candidate_layers cl join layers l on l.sha256 = cl.sha256 where cl.candidate_id = c.id) l
    where c.id = any(:ids) order by r.id, c.priority desc, c.id""")
