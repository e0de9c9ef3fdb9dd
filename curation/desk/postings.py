"""Postings: candidates at a desk of other software, which are to go up, which are there and which should not be."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, UUID

from curation.database import Transaction
from curation.desk.boards import LIVE, NOT_WANTED, SERVED, WANTED
from curation.desk.door import Board, Posting, Seen
from curation.domain import LayerRole
from curation.review.trays import read_cards

Address = Callable[[uuid.UUID, LayerRole], str]
"""Makes the address of one layer of a posting."""


def next_batch(tx: Transaction, board: Board, count: int, pause: int, few: int) -> uuid.UUID | None:
    """The batch to send next: one that was begun, or up to `count` new postings by falling priority.

    New ones wait until `pause` seconds after the last ones, unless there are fewer than `few` on the board: every
    import makes a desk slow for those who work at it.
    """
    begun = tx.execute(_BEGUN, {"board": board.id}).scalar()
    if begun is not None:
        return uuid.UUID(str(begun))
    if not tx.execute(_MAY_SEND, {"board": board.id, "pause": pause, "few": few}).scalar():
        return None
    batch = uuid.uuid4()
    picked = tx.execute(WANTED, {"round": board.round, "count": count}).all()
    rows = [{"id": uuid.uuid4(), "board": board.id, "candidate": row.id, "batch": batch} for row in picked]
    if rows:
        tx.execute(_NEW_POSTINGS, rows)
    return batch if rows else None


def read_batch(tx: Transaction, batch: uuid.UUID, address: Address) -> list[Posting]:
    """The postings of a batch that were not seen there yet, with addresses of their layers."""
    return _read(tx, tx.execute(_BATCH, {"batch": batch}), address)


def read_batches(tx: Transaction, ids: Collection[uuid.UUID], address: Address) -> dict[uuid.UUID, list[Posting]]:
    """Those of some postings that are up, by the batches that they were sent in."""
    batches: dict[uuid.UUID, list[sa.Row[Any]]] = {}
    for row in tx.execute(_UP, {"ids": list(ids)}) if ids else ():
        batches.setdefault(row.batch, []).append(row)
    return {batch: _read(tx, rows, address) for batch, rows in batches.items()}


def _read(tx: Transaction, found: Iterable[sa.Row[Any]], address: Address) -> list[Posting]:
    rows = {row.candidate_id: row for row in found}
    return [
        Posting(
            id=rows[card.id].id,
            candidate=card.id,
            prompt=card.prompt,
            texts=card.texts,
            layers={role: address(rows[card.id].id, role) for role in card.layers},
            score=float(rows[card.id].score),
        )
        for card in read_cards(tx, list(rows))
    ]


def note_placed(tx: Transaction, board: Board, number: int, placed: Mapping[uuid.UUID, int]) -> None:
    """Note the board's number and those of postings that are there."""
    tx.execute(_MADE, {"board": board.id, "number": number})
    if placed:
        tx.execute(_PLACED, [{"posting": posting, "number": at} for posting, at in placed.items()])


def unwanted(tx: Transaction, board: Board) -> dict[uuid.UUID, list[int]]:
    """Postings that are up and should not be: decided elsewhere, withdrawn, of a round that is paused or moved."""
    return {row.id: [row.number] for row in tx.execute(_UNWANTED, {"board": board.id})}


def note_down(tx: Transaction, postings: Collection[uuid.UUID]) -> None:
    """Postings that are there no longer."""
    if postings:
        tx.execute(_DOWN, {"ids": list(postings)})


def note_lost(tx: Transaction, board: Board, found: Collection[uuid.UUID]) -> list[uuid.UUID]:
    """All postings but those `found` are there no longer; what is still wanted of them is put up again."""
    lost = [row.id for row in tx.execute(_LOST, {"board": board.id, "ids": list(found)})]
    note_down(tx, lost)
    return lost


def forget(tx: Transaction, board: Board) -> None:
    """The board itself is there no longer: it is made again, and its postings with it."""
    note_lost(tx, board, ())
    tx.execute(_FORGET, {"board": board.id})


def count_placed(tx: Transaction, board: Board) -> int:
    """How many postings should be there."""
    return int(tx.execute(_COUNT_PLACED, {"board": board.id}).scalar_one())


def unanswered(tx: Transaction, board: Board, count: int) -> dict[uuid.UUID, tuple[uuid.UUID, int]]:
    """Up to `count` candidates that are up and of which nothing was said yet: each one's posting and its number."""
    rows = tx.execute(_UNANSWERED, {"board": board.id, "count": count})
    return {row.candidate_id: (row.id, row.number) for row in rows}


def silent(tx: Transaction, ids: Collection[uuid.UUID]) -> dict[uuid.UUID, list[int]]:
    """Those of some postings that are up and of which nothing was ever said, with their numbers."""
    return {row.id: [row.number] for row in tx.execute(_SILENT_ONES, {"ids": list(ids)})}


def waiting_answers(tx: Transaction, board: Board) -> list[uuid.UUID]:
    """Postings with an answer that could not be decided yet, since somebody was looking at the candidate here."""
    return [row.posting_id for row in tx.execute(_WAITING_ANSWERS, {"board": board.id})]


def sort_seen(tx: Transaction, part: Sequence[Seen]) -> tuple[list[Seen], dict[uuid.UUID, list[int]]]:
    """Of what was seen there: what may say something new, and silent second copies, by posting, to be taken down.

    Where nothing was said, only the time of its last change is noted.
    """
    ids = [seen.posting for seen in part if seen.posting is not None]
    known = {row.id: row for row in tx.execute(_KNOWN, {"ids": ids})}
    changed: list[Seen] = []
    copies: dict[uuid.UUID, list[int]] = {}
    silent: list[dict[str, Any]] = []
    for seen in part:
        row = known.get(seen.posting)
        if row is None or (row.number == seen.number and row.seen_at == seen.at):
            continue
        if seen.answers or (row.answered and row.number == seen.number):
            changed.append(seen)
        elif row.number not in {None, seen.number}:
            copies.setdefault(row.id, []).append(seen.number)
        else:
            silent.append({"posting": row.id, "at": seen.at, "number": seen.number})
    if silent:
        tx.execute(_SILENT, silent)
    return changed, copies


def count_not_up(tx: Transaction, number: int | None) -> dict[int, int]:
    """How many candidates of a round, or of each, wait and are not put up."""
    return {row.id: row.number for row in tx.execute(_NOT_UP, {"round": number})}


def _sql(text: str) -> sa.TextClause:
    statement = sa.text(text)
    return statement.bindparams(sa.bindparam("ids", type_=ARRAY(UUID))) if ":ids" in text else statement


# Desks show the lowest score first: the least certain, where a chance of acceptance is known, or else as a tray would.
_SCORE = "coalesce(abs(2 * cast(s.signals ->> 'acceptance' as real) - 1), 1 - c.priority)"

_BEGUN = _sql("select batch from desk_postings where board_id = :board and state = 'sending' limit 1")

_MAY_SEND = _sql("""
    select put_up_at is null or put_up_at < now() - make_interval(secs => :pause)
        or (select count(*) from desk_postings p where p.board_id = b.id and p.state = 'up') < :few
    from desk_boards b where id = :board""")

_NEW_POSTINGS = _sql("""
    insert into desk_postings (id, board_id, candidate_id, state, batch)
    values (:id, :board, :candidate, 'sending', :batch)""")

_NOT_UP = _sql(f"""
    select r.id, count(*) as number from candidates c join rounds r on r.id = c.round_id
    where {SERVED} and c.state = 'waiting' and not exists ({LIVE})
        and (cast(:round as integer) is null or r.id = :round) group by r.id order by r.id""")

_SCORED = f"""
    select p.id, p.candidate_id, p.batch, {_SCORE} as score from desk_postings p
    join candidates c on c.id = p.candidate_id left join screenings s on s.candidate_id = c.id"""

_BATCH = _sql(f"{_SCORED} where p.batch = :batch and p.state = 'sending'")

_UP = _sql(f"{_SCORED} where p.id = any(:ids) and p.state = 'up' and c.state in ('waiting', 'showing')")

_MADE = _sql("update desk_boards set number = :number, put_up_at = now() where id = :board")

_PLACED = _sql("update desk_postings set state = 'up', number = :number where id = :posting and state = 'sending'")

_UNWANTED = _sql(f"""
    select p.id, p.number from desk_postings p
    join desk_boards b on b.id = p.board_id join rounds r on r.id = b.round_id
    join candidates c on c.id = p.candidate_id
    where p.board_id = :board and {NOT_WANTED}""")

_DOWN = _sql("update desk_postings set state = 'down' where id = any(:ids)")

_LOST = _sql("""
    select id from desk_postings where board_id = :board and state in ('up', 'answered') and not id = any(:ids)""")

_FORGET = _sql("update desk_boards set number = null, read_until = null where id = :board")

_COUNT_PLACED = _sql("""
    select count(*) from desk_postings where board_id = :board and state in ('up', 'answered')""")

_WAITING_ANSWERS = _sql("""
    select distinct a.posting_id from desk_answers a join desk_postings p on p.id = a.posting_id
    where p.board_id = :board and a.decision_id is null and a.refused is null and not a.gone""")

_UNANSWERED = _sql("""
    select p.id, p.candidate_id, p.number from desk_postings p where p.board_id = :board and p.state = 'up'
        and not exists (select from desk_answers a where a.posting_id = p.id and not a.gone)
    order by p.number limit :count""")

_SILENT_ONES = _sql("""
    select p.id, p.number from desk_postings p where p.id = any(:ids) and p.state = 'up'
        and not exists (select from desk_answers a where a.posting_id = p.id)""")

_KNOWN = _sql("""
    select p.id, p.number, p.seen_at, exists (select from desk_answers a where a.posting_id = p.id) as answered
    from desk_postings p where p.id = any(:ids)""")

# A posting that was sent, and whose number was lost on the way home, is known by its own id.
_SILENT = _sql("""
    update desk_postings set seen_at = greatest(seen_at, :at), number = :number,
        state = case when state = 'sending' then 'up' else state end where id = :posting""")
