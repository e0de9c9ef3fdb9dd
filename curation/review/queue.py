"""The review queue: candidates leased to one reviewer, so that nobody else is shown them."""

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
from curation.review.reviewers import ADJUDICATORS, PERSON, lease_holder_name
from curation.review.verdicts import IS_STANDING
from curation.rounds.lifecycle import GOLD_PURPOSE

MAX_CLAIMED = 64
"""The maximum number of candidates leased to one reviewer, so that nobody drains a round."""

SCAN_LIMIT = 256
"""The number of partly decided candidates scanned first.

Those beyond it are served once no undecided candidate is left.
"""


@dataclass(frozen=True)
class ReviewBatch:
    """Items to show next, and the ids that the page may no longer show."""

    items: tuple[ReviewItem, ...]
    lost: tuple[uuid.UUID, ...]


def claim_items(
    tx: Transaction,
    reviewer_id: int,
    round_id: int | None,
    count: int,
    holding: Collection[uuid.UUID],
    seconds: int,
) -> tuple[ReviewItem, ...]:
    """Return the items of `claim_batch`, for callers that cannot have lost any.

    Args:
        tx: The transaction of the request.
        reviewer_id: The reviewer.
        round_id: Only candidates of this round; None for all open rounds.
        count: The maximum number of new items.
        holding: The candidates that the caller already has.
        seconds: The duration of the leases.
    """
    return claim_batch(tx, reviewer_id, round_id, count, holding, seconds).items


def claim_batch(
    tx: Transaction,
    reviewer_id: int,
    round_id: int | None,
    count: int,
    held_ids: Collection[uuid.UUID],
    seconds: int,
    page: uuid.UUID | None = None,
    previous: uuid.UUID | None = None,
) -> ReviewBatch:
    """Lease up to `count` candidates to a reviewer, from one round or the oldest open ones.

    Candidates that already belong to the reviewer and that none of their pages uses come first (the
    page was reloaded, or has released them), then new ones by descending priority; where several
    reviewers decide, partly decided candidates come first. A lease is renewed only if the page is
    `held_ids` the candidate or is given it now. A candidate on the page whose lease has expired is
    leased again if nobody has taken it, and reported as lost otherwise. Two reviewers never get the
    same candidate.

    Args:
        tx: The transaction of the request.
        reviewer_id: The reviewer.
        round_id: Only candidates of this round; None for all open rounds.
        count: The maximum number of new items.
        held_ids: The candidates that the page shows or has prefetched, and its undelivered
            decisions.
        seconds: The duration of the leases without renewal.
        page: The page that makes the request, so that two pages of one reviewer share nothing; None
            takes over everything the reviewer holds.
        previous: The page that this one replaces: its leases, including late ones, are taken over.

    Returns:
        The new items, and those of `held_ids` that no longer belong to the reviewer.
    """
    holder = lease_holder_name(reviewer_id)
    params = {
        "reviewer": reviewer_id,
        "holder": holder,
        "page": page,
        "previous": previous,
        "round": round_id,
    }
    # Renew the leases of everything on the page; lease expired candidates again if still free.
    held = leases.renew_in_use(tx, holder, "review", seconds, held_ids, page)
    expired = [id_ for id_ in held_ids if id_ not in held]
    if expired:
        held |= _lease(tx, _CLAIM_THESE, params | {"ids": expired}, seconds)
    lost = tuple(id_ for id_ in held_ids if id_ not in held)
    if not count:
        return ReviewBatch((), lost)
    # Take over what this page had before a reload, or another page until its lease expired.
    leased_rows = tx.execute(_MINE, params | {"ids": list(held_ids)}).all()
    idle = [row for row in leased_rows if row.idle]
    ids = [row.id for row in idle if row.served][:count]
    if page is not None:
        leases.release_unused(tx, holder, [row.id for row in idle if not row.served])
    leases.renew_in_use(tx, holder, "review", seconds, ids, page)
    # Top up, first with candidates this reviewer was given earlier and has not decided.
    leased = sum(row.id is not None for row in leased_rows)
    free_slots = min(count - len(ids), MAX_CLAIMED - leased)
    if free_slots > 0 and leased_rows and leased_rows[0].unfinished > leased:
        ids += _lease(tx, _CLAIM_UNFINISHED, params | {"count": free_slots}, seconds)
        free_slots = min(count - len(ids), free_slots)
    if free_slots > 0:
        # Then with new candidates.
        ids += _claim_waiting(tx, params, free_slots, seconds)
    return ReviewBatch(read_items(tx, ids), lost)


def release_claimed(
    tx: Transaction, reviewer_id: int, ids: Collection[uuid.UUID], page: uuid.UUID | None = None
) -> None:
    """Release candidates that a page no longer uses, so that others can get them at once.

    They stay claimed: this reviewer gets them first while they are free, and a decision that is
    still in transit is accepted. Leases of other pages stay.

    Args:
        tx: The transaction of the request.
        reviewer_id: The reviewer.
        ids: The candidates.
        page: The page that releases them; None for callers without pages.
    """
    leases.release_unused(tx, lease_holder_name(reviewer_id), ids, page)


def _claim_waiting(
    tx: Transaction, params: dict[str, Any], count: int, seconds: int
) -> list[uuid.UUID]:
    """Lease candidates, from the oldest open round on, until there are enough.

    Each item is gold with the round's gold probability, and this is drawn only for items that are
    then filled: the draw ends with the last available candidate. Gold thus keeps its share of a
    reviewer's items, however few candidates are left and however slowly they arrive.
    """
    claimed: list[uuid.UUID] = []
    for row in tx.execute(_SERVING, params).all():
        # Draw which of the free slots are gold.
        slots = count - len(claimed)
        is_gold = gold.sample_gold_flags(slots, row.gold_share)
        ordinary_count = slots - sum(is_gold)
        # Lease the other candidates first: gold takes its priorities from theirs.
        ordinary = _claim_of_round(tx, row, params, max(ordinary_count, 1), seconds)
        gold_count = gold.count_gold_before_end(is_gold, len(ordinary))
        gold_ids = gold.claim_gold(
            tx, row.id, params["reviewer"], ordinary, gold_count, seconds, params["page"]
        )
        if not ordinary_count:
            # This candidate was leased only to prove that gold would not be shown alone.
            leases.release_unused(tx, params["holder"], ordinary if gold_ids else ())
            ordinary = [] if gold_ids else ordinary
        elif len(ordinary) == ordinary_count and len(gold_ids) < gold_count:
            # The round has no more gold for this reviewer: fill up with candidates.
            ordinary += _claim_of_round(tx, row, params, gold_count - len(gold_ids), seconds)
        claimed += [*ordinary, *gold_ids]
        if len(claimed) < count and row.gold_share:
            claimed += gold.claim_skipped_gold(
                tx, row.id, params["reviewer"], count - len(claimed), seconds, params["page"]
            )
        if len(claimed) >= count:
            break
    return claimed


def _claim_of_round(
    tx: Transaction, row: sa.Row[Any], params: dict[str, Any], count: int, seconds: int
) -> list[uuid.UUID]:
    """Lease waiting candidates of one round, never one that this reviewer has decided.

    Candidates for an adjudicator come first, then partly decided ones, so that verdicts are
    completed early, then undecided ones, and last the partly decided ones beyond the first
    SCAN_LIMIT.
    """
    undecided = params | {"round": row.id, "level": 0}
    partly_decided = [undecided | {"level": level} for level in range(row.overlap - 1, 0, -1)]
    if row.overlap > 1 and row.adjudicates:
        partly_decided.insert(0, undecided | {"level": row.overlap})
    # Statements in order of preference, run until there are enough candidates.
    steps = [
        *((_CLAIM_BEGUN, step_params | {"most": SCAN_LIMIT}) for step_params in partly_decided),
        (_CLAIM_WAITING, undecided),
        *((_CLAIM_BEGUN, step_params | {"most": None}) for step_params in partly_decided),
    ]
    claimed: list[uuid.UUID] = []
    for claim, step_params in steps:
        if len(claimed) >= count:
            break
        claimed += _lease(tx, claim, step_params | {"count": count - len(claimed)}, seconds)
    return claimed


def _lease(
    tx: Transaction, claim: sa.TextClause, params: dict[str, Any], seconds: int
) -> frozenset[uuid.UUID]:
    return frozenset(row.subject for row in tx.execute(claim, params | {"seconds": seconds}))


def read_items(tx: Transaction, ids: Sequence[uuid.UUID]) -> tuple[ReviewItem, ...]:
    """Return review items by descending priority, read by one statement."""
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
        for row in (tx.execute(_ITEMS, {"ids": list(ids)}) if ids else ())
    )


def _sql(text: str) -> sa.TextClause:
    statement = sa.text(text)
    return (
        statement.bindparams(sa.bindparam("ids", type_=ARRAY(UUID)))
        if ":ids" in text
        else statement
    )


# The lateral join with a limit forces one probe of the partial index per open round, whatever
# table sizes the planner assumes.
_SERVING = _sql(f"""
    select r.id, coalesce((r.consensus ->> 'overlap')::int, 1) as overlap,
        me.role in ({ADJUDICATORS}) as adjudicates,
        case when me.kind = '{PERSON}' then coalesce((r.gold ->> 'share')::float, 0)
            else 0 end as gold_share
    from rounds r
    join reviewers me on me.id = :reviewer and me.paused is null
    left join lateral (select true as there from candidates c where c.round_id = r.id
        and c.state = 'waiting' limit 1)
        one on true
    where (one.there or exists (
        select from gold g cross join lateral (
            select from claims k where k.candidate_id = g.candidate_id and k.reviewer_id = me.id
                and not k.unfinished limit 1) claimed
        where g.round_id = r.id and not exists (
            select from decisions d where d.candidate_id = g.candidate_id and d.reviewer_id = me.id
                and {IS_STANDING})))
        and r.state = 'open' and r.purpose <> '{GOLD_PURPOSE}'
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

# Excludes candidates that Label Studio has reserved for an annotator.
_FREE = """not exists (
    select from labeling_tasks t where t.candidate_id = candidates.id and t.state = 'open'
        and t.reserved_until > now())"""

# Materialized: if inlined, the limit could be applied once per row of the update.
_CLAIM_WAITING = _sql(f"""
    with picked as materialized (
        select id from candidates where round_id = :round and state = 'waiting' and decided = :level
            and {_FREE}
        order by priority desc, id limit :count for update skip locked),
    {_CLAIM_PICKED}""")

_DECIDED_BY_ME = f"""exists (
    select from decisions d where d.candidate_id = c.id and d.reviewer_id = :reviewer
        and {IS_STANDING})"""

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

# The round of gold is the round it is hidden in, so that the two look the same.
_CLAIMED_BY_ME = f"""
    claims k join candidates c on c.id = k.candidate_id
    left join gold g on g.candidate_id = c.id
    join rounds r on r.id = coalesce(g.round_id, c.round_id) and r.state = 'open'
    join reviewers me on me.id = k.reviewer_id and me.paused is null
    where k.reviewer_id = :reviewer and c.state = 'waiting' and not {_DECIDED_BY_ME}
        and (c.decided < coalesce((r.consensus ->> 'overlap')::int, 1)
            or me.role in ({ADJUDICATORS}))"""

_CLAIM_THESE = _sql(f"""
    with picked as materialized (
        select c.id from {_CLAIMED_BY_ME} and k.candidate_id = any(:ids)
        for update of c skip locked),
    {_CLAIM_PICKED}""")

# Given but undecided candidates come first, gold or not: otherwise the ones that change after a
# reload would be the gold.
_CLAIM_UNFINISHED = _sql(f"""
    with picked as materialized (
        select c.id from {_CLAIMED_BY_ME} and k.unfinished
            and (cast(:round as integer) is null or r.id = :round)
        order by r.id, c.priority desc, c.id limit :count for update of c skip locked),
    {_CLAIM_PICKED}""")

# All leases of a reviewer, at least one row; `idle` means that no other page of theirs uses it.
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

_ITEMS = _sql("""
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
