"""Votes of reviewers: the next items with their sides mixed, votes that stay, and undos."""

from __future__ import annotations

import hashlib
import hmac
import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, UUID

from curation.comparison_values import ComparisonChoice, ComparisonSide, ComparisonVerdict
from curation.db import leases
from curation.db.engine import Transaction
from curation.domain import Kind, LayerRole, ReviewItemLayer
from curation.errors import Conflict, NotFound
from curation.review.reviewers import ReviewerPausedError, lease_holder_name

PURPOSE = "compare"

Layers = Mapping[LayerRole, ReviewItemLayer]


@dataclass(frozen=True)
class ComparisonItem:
    """An item as a reviewer sees it: two sets of layers without names."""

    id: uuid.UUID
    comparison: int
    kind: Kind
    prompt: str
    texts: Mapping[LayerRole, str]
    left: Layers
    right: Layers


@dataclass(frozen=True)
class ComparisonProgress:
    """What is left for a reviewer, and what they have done."""

    waiting: int
    mine: int


def claim_next(
    tx: Transaction,
    reviewer_id: int,
    number: int | None,
    count: int,
    holding: Collection[uuid.UUID],
    seconds: int,
) -> list[ComparisonItem]:
    """Lease the next items for a reviewer, and renew the leases of those that the page holds.

    Args:
        tx: The transaction.
        reviewer_id: The reviewer.
        number: Only items of this comparison; None for the oldest open ones.
        count: The largest number of further items.
        holding: The items that the page holds.
        seconds: The duration of the leases.

    Returns:
        The claimed items in their order.
    """
    holder = lease_holder_name(reviewer_id)
    leases.renew_in_use(tx, holder, PURPOSE, seconds, holding, None)
    if not count:
        return []
    # Items that this reviewer holds are given again, after a reload for example.
    params = {
        "reviewer": reviewer_id,
        "holder": holder,
        "number": number,
        "count": count,
        "holding": list(holding),
    }
    ids = list(tx.execute(_NEXT, params).scalars())
    leases.claim(tx, ids, PURPOSE, holder, seconds)
    return read_items(tx, reviewer_id, ids)


def vote(
    tx: Transaction,
    reviewer_id: int,
    item: uuid.UUID,
    choice: ComparisonChoice,
    *,
    key: uuid.UUID,
    dwell_ms: int | None = None,
) -> int:
    """Record a vote; a repeated key with the same content returns the first answer.

    Args:
        tx: The transaction.
        reviewer_id: The reviewer.
        item: The item.
        choice: The better side, or none.
        key: The idempotency key, unique for each vote.
        dwell_ms: The time of review in milliseconds; None if unknown.

    Returns:
        The number of the vote.

    Raises:
        NotFound: There is no such item.
        Conflict: The key was used otherwise, the reviewer voted already, or all votes are there.
        ReviewerPausedError: The reviewer is paused.
    """
    row = _lock_item(tx, item, reviewer_id)
    left = left_side(row.side_key, item, reviewer_id)
    verdict = _verdict(choice, left)
    earlier = tx.execute(_BY_KEY, {"key": key}).one_or_none()
    if earlier is not None:
        if (earlier.item_id, earlier.reviewer_id, earlier.verdict) != (item, reviewer_id, verdict):
            raise _used_key()
        return int(earlier.id)
    if row.paused is not None:
        raise ReviewerPausedError(row.paused)
    if row.mine:
        raise Conflict("you have already compared these", "undo your vote to vote again")
    if not row.waiting:
        # The same answer, whether others voted, the comparison was closed or an image is gone.
        raise Conflict("this comparison needs no more votes", "continue with the next one")
    values = {
        "comparison": row.comparison_id,
        "item": item,
        "reviewer": reviewer_id,
        "verdict": verdict,
        "left": left,
        "dwell_ms": dwell_ms,
        "key": key,
    }
    number = int(tx.execute(_VOTE, values).scalar_one())
    leases.release_held(tx, [item], PURPOSE, lease_holder_name(reviewer_id))
    return number


def undo_vote(
    tx: Transaction, reviewer_id: int, number: int | None, *, key: uuid.UUID, seconds: int
) -> tuple[int, ComparisonItem]:
    """Void a reviewer's vote by a row of its own, and lease its item to them again.

    Args:
        tx: The transaction.
        reviewer_id: The reviewer.
        number: The vote; None for their last one that stands.
        key: The idempotency key.
        seconds: The duration of the lease.

    Returns:
        The number of the undo, and the item.

    Raises:
        NotFound: There is no such vote of this reviewer.
        Conflict: The comparison is closed, an image is gone, or the key was used otherwise.
    """
    earlier = tx.execute(_BY_KEY, {"key": key}).one_or_none()
    if earlier is not None:
        own = earlier.reviewer_id == reviewer_id and earlier.verdict == ComparisonVerdict.undo
        if not own or number not in {None, earlier.undoes}:
            raise _used_key()
        return int(earlier.id), read_items(tx, reviewer_id, [earlier.item_id])[0]
    params = {"reviewer": reviewer_id, "number": number}
    target = tx.execute(_UNDOABLE, params).one_or_none()
    if target is None:
        raise NotFound(
            "you have no vote to undo",
            "a vote can be undone once, and only by the reviewer who gave it",
        )
    # The comparison first, so that it is not closed meanwhile.
    state = tx.execute(_SHARE_COMPARISON, {"number": target.comparison_id}).scalar_one()
    if state != "open":
        raise Conflict("this comparison is closed", "votes of a closed comparison are final")
    row = _lock_item(tx, target.item_id, reviewer_id)
    if not row.drawn:
        raise Conflict("an image of this comparison was taken down", "a takedown is final")
    values = {
        "comparison": target.comparison_id,
        "item": target.item_id,
        "reviewer": reviewer_id,
        "left": target.left_side,
        "undoes": target.id,
        "key": key,
    }
    undone = tx.execute(_UNDO, values).scalar()
    if undone is None:
        raise Conflict("this vote has just been undone", "reload the page")
    leases.try_claim(tx, target.item_id, PURPOSE, lease_holder_name(reviewer_id), seconds)
    return int(undone), read_items(tx, reviewer_id, [target.item_id])[0]


def read_items(tx: Transaction, reviewer_id: int, ids: Sequence[uuid.UUID]) -> list[ComparisonItem]:
    """Return items as a reviewer sees them, in the order of `ids`.

    Args:
        tx: The transaction.
        reviewer_id: The reviewer, on whom the sides depend.
        ids: Ids of items whose sides are drawn.
    """
    drawn: dict[uuid.UUID, dict[str, dict[LayerRole, ReviewItemLayer]]] = {id_: {} for id_ in ids}
    for row in tx.execute(_LAYERS, {"ids": list(ids)}):
        layers = drawn[row.item_id].setdefault(row.side, {})
        layers[LayerRole(row.role)] = ReviewItemLayer(row.sha256, row.width, row.height)
    found = {}
    for row in tx.execute(_ITEMS, {"ids": list(ids)}):
        left = left_side(row.side_key, row.id, reviewer_id)
        texts = {
            LayerRole.foreground: row.foreground or "",
            LayerRole.background: row.background or "",
        }
        found[row.id] = ComparisonItem(
            id=row.id,
            comparison=row.comparison_id,
            kind=Kind(row.kind),
            prompt=row.text,
            texts={role: text for role, text in texts.items() if text},
            left=drawn[row.id].get(left, {}),
            right=drawn[row.id].get(other_side(left), {}),
        )
    return [found[id_] for id_ in ids]


def progress(tx: Transaction, reviewer_id: int, number: int | None) -> ComparisonProgress:
    """Return how many items a reviewer may still get, and how many votes of theirs stand."""
    row = tx.execute(_PROGRESS, {"reviewer": reviewer_id, "number": number}).one()
    return ComparisonProgress(row.waiting, row.mine)


def left_side(side_key: bytes, item: uuid.UUID, reviewer_id: int) -> ComparisonSide:
    """Return the side on the left: random by item and reviewer, and always the same."""
    message = item.bytes + reviewer_id.to_bytes(8, "big")
    bit = hmac.digest(bytes(side_key), message, hashlib.sha256)[0] & 1
    return ComparisonSide.b if bit else ComparisonSide.a


def other_side(side: ComparisonSide) -> ComparisonSide:
    """Return the other side."""
    return ComparisonSide.a if side is ComparisonSide.b else ComparisonSide.b


def _verdict(choice: ComparisonChoice, left: ComparisonSide) -> ComparisonVerdict:
    if choice is ComparisonChoice.left:
        return ComparisonVerdict(left)
    if choice is ComparisonChoice.right:
        return ComparisonVerdict(other_side(left))
    return ComparisonVerdict(choice)


def _lock_item(tx: Transaction, item: uuid.UUID, reviewer_id: int) -> sa.Row[Any]:
    """Lock an item, then read it with what this reviewer did. Raises NotFound."""
    tx.execute(_LOCK_ITEM, {"item": item})
    row: sa.Row[Any] | None = tx.execute(
        _ITEM, {"item": item, "reviewer": reviewer_id}
    ).one_or_none()
    if row is None:
        raise NotFound("there is no such comparison", "reload the page")
    return row


def _used_key() -> Conflict:
    return Conflict("this key was used for another vote", "make a new key for every vote")


STANDING = """v.verdict <> 'undo' and not exists (
    select from comparison_votes u where u.undoes = v.id)"""
"""The condition that a vote `v` is not undone."""

_IDS = sa.bindparam("ids", type_=ARRAY(UUID))

_MINE = f"""exists (
    select from comparison_votes v
    where v.item_id = i.id and v.reviewer_id = :reviewer and {STANDING})"""

_NEXT = sa.text(f"""
    select i.id from comparison_items i
    where i.waiting and (cast(:number as integer) is null or i.comparison_id = :number)
        and i.id <> all(:holding) and not {_MINE}
        and not exists (
            select from leases l where l.subject = i.id and l.holder <> :holder)
    order by i.comparison_id, i.position limit :count for update skip locked""").bindparams(
    sa.bindparam("holding", type_=ARRAY(UUID))
)

_LOCK_ITEM = sa.text("select id from comparison_items where id = :item for update")

_ITEM = sa.text(f"""
    select i.comparison_id, i.waiting, c.side_key, me.paused, {_MINE} as mine,
        2 = (select count(*) from comparison_drawings d
            where d.item_id = i.id and d.state = 'generated') as drawn
    from comparison_items i join comparisons c on c.id = i.comparison_id
    left join reviewers me on me.id = :reviewer
    where i.id = :item""")

_BY_KEY = sa.text(
    "select id, item_id, reviewer_id, verdict, undoes from comparison_votes where key = :key"
)

_VOTE = sa.text("""
    with kept as (
        insert into comparison_votes
            (comparison_id, item_id, reviewer_id, verdict, left_side, dwell_ms, key)
        values (:comparison, :item, :reviewer, :verdict, :left, :dwell_ms, :key) returning id),
    counted as (
        update comparison_items i set voted = i.voted + 1, waiting = i.voted + 1 < c.votes
        from comparisons c where c.id = i.comparison_id and i.id = :item)
    select id from kept""")

_UNDOABLE = sa.text(f"""
    select v.id, v.comparison_id, v.item_id, v.left_side from comparison_votes v
    where v.reviewer_id = :reviewer and {STANDING}
        and (cast(:number as bigint) is null or v.id = :number)
    order by v.id desc limit 1""")

_SHARE_COMPARISON = sa.text("select state from comparisons where id = :number for share")

_UNDO = sa.text("""
    with kept as (
        insert into comparison_votes
            (comparison_id, item_id, reviewer_id, verdict, left_side, key, undoes)
        values (:comparison, :item, :reviewer, 'undo', :left, :key, :undoes)
        on conflict do nothing returning id),
    counted as (
        update comparison_items i set voted = i.voted - 1, waiting = true
        from kept where i.id = :item)
    select id from kept""")

_LAYERS = sa.text("""
    select d.item_id, d.side, n.role, n.sha256, l.width, l.height
    from comparison_drawings d join comparison_layers n on n.drawing_id = d.id
    join layers l on l.sha256 = n.sha256 where d.item_id = any(:ids)""").bindparams(_IDS)

_ITEMS = sa.text("""
    select i.id, i.comparison_id, c.kind, c.side_key, p.text, p.foreground, p.background
    from comparison_items i join comparisons c on c.id = i.comparison_id
    join prompts p on p.id = i.prompt_id where i.id = any(:ids)""").bindparams(_IDS)

_PROGRESS = sa.text(f"""
    select (
        select count(*) from comparison_items i
        where i.waiting and (cast(:number as integer) is null or i.comparison_id = :number)
            and not {_MINE}) as waiting,
        (select count(*) from comparison_votes v join comparisons c on c.id = v.comparison_id
        where v.reviewer_id = :reviewer and {STANDING}
            and case when cast(:number as integer) is null then c.state = 'open'
                else v.comparison_id = :number end) as mine""")
