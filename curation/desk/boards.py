"""Boards: which candidates should be at a desk of other software, which are there, and who speaks with it just now."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from curation.database import Database, Transaction
from curation.desk.door import Board
from curation.domain import Kind
from curation.errors import Refused
from curation.rounds import find_round

HELD_SECONDS = 300
"""How long a process that was killed keeps others from a board; longer than its requests and rows between two signs."""

DESKS = ("pages", "label-studio")
"""What a round can be switched to."""


def rounds_to_serve(tx: Transaction, desk: str) -> list[int]:
    """Rounds where something is to be put up at a desk or taken down."""
    return [row.id for row in tx.execute(_TO_SERVE, {"desk": desk})]


def open_boards(tx: Transaction, desk: str, number: int | None = None) -> list[Board]:
    """The boards of a round, or of all rounds, on which somebody may still say something that counts."""
    return [_board(row) for row in tx.execute(_BOARDS, {"desk": desk, "round": number})]


def leave_others(tx: Transaction, desk: str, number: int) -> None:
    """Forget what a round has at a desk with another address: the settings name one at a time."""
    tx.execute(_LEAVE, {"desk": desk, "round": number})


@contextmanager
def held(database: Database, board: Board, holder: str) -> Iterator[bool]:
    """Hold a board for one conversation with the desk; False where another process holds it."""
    with database.transaction() as tx:
        mine = tx.execute(_HOLD, {"board": board.id, "holder": holder, "seconds": HELD_SECONDS}).rowcount > 0
    try:
        yield mine
    finally:
        if mine:
            with database.transaction() as tx:
                tx.execute(_LET_GO, {"board": board.id, "holder": holder})


def hold_on(database: Database, board: Board, holder: str) -> None:
    """Hold a board for as long again from now on, in the middle of a long conversation."""
    with database.transaction() as tx:
        tx.execute(_HOLD_ON, {"board": board.id, "holder": holder, "seconds": HELD_SECONDS})


def board_with_room(tx: Transaction, desk: str, number: int, most: int) -> tuple[Board, int] | None:
    """The board that takes a round's next candidates, and how many: a new one where the last is full; None for none."""
    wanted = tx.execute(WANTED, {"round": number, "count": 1}).first()
    last = tx.execute(_LAST, {"desk": desk, "round": number}).first()
    if wanted is None and (last is None or not last.sending):
        return None
    if last is not None and (last.postings < most or last.sending):
        return _board(last), most - last.postings
    part = last.part + 1 if last is not None else 1
    values = {"id": uuid.uuid4(), "desk": desk, "round": number, "part": part}
    tx.execute(_NEW_BOARD, values)
    return _board(tx.execute(_LAST, {"desk": desk, "round": number}).one()), most


def note_collected(tx: Transaction, board: Board) -> None:
    """All that had changed there is taken in; next time is asked for what changed since."""
    tx.execute(_COLLECTED, {"board": board.id})


def read_until(tx: Transaction, board: Board) -> datetime | None:
    """The time, by the desk's clock, up to which everything is taken in."""
    found: datetime | None = tx.execute(_READ_UNTIL, {"board": board.id}).scalar()
    return found


def switch(tx: Transaction, number: int, desk: str, actor: str) -> None:
    """Let a round be decided at another desk from now on. The pages serve every round that is open."""
    if desk not in DESKS:
        raise Refused(f"there is no desk {desk!r}", f"it is one of {', '.join(DESKS)}")
    find_round(tx, number)
    tx.execute(_SWITCH, {"round": number, "desk": desk})
    tx.log(actor, "desk switched", f"round {number}", desk=desk)
    tx.ask("put_up", number)


def list_boards(tx: Transaction) -> list[dict[str, Any]]:
    """Every board: how many postings are up, answered or on their way, and how their answers fare."""
    return [dict(row) for row in tx.execute(_LIST).mappings()]


def _board(row: sa.Row[Any]) -> Board:
    return Board(row.id, row.round_id, row.part, Kind(row.kind), row.number, row.overlap)


# Of a round: it is open and not kept at the pages. What is being looked at there stays up, but is not put up anew.
SERVED = "r.state = 'open' and coalesce(r.desk, '') <> 'pages'"
LIVE = "select from desk_postings p where p.candidate_id = c.id and p.state in ('sending', 'up')"
NOT_WANTED = f"p.state = 'up' and not ({SERVED} and c.state in ('waiting', 'showing'))"

_TO_SERVE = sa.text(f"""
    select r.id from rounds r where {SERVED} and exists (
        select from candidates c where c.round_id = r.id and c.state = 'waiting' and not exists ({LIVE}))
    union select b.round_id from desk_boards b join desk_postings p on p.board_id = b.id
    join rounds r on r.id = b.round_id join candidates c on c.id = p.candidate_id
    where p.state in ('sending', 'up') and (b.desk <> :desk or p.state = 'sending' or {NOT_WANTED}) order by 1""")

_LEAVE = sa.text("""
    update desk_postings p set state = 'down' from desk_boards b
    where b.id = p.board_id and b.round_id = :round and b.desk <> :desk and p.state in ('sending', 'up')""")

_COLUMNS = "b.id, b.round_id, b.part, b.number, r.kind, coalesce((r.consensus ->> 'overlap')::int, 1) as overlap"

_BOARDS = sa.text(f"""
    select {_COLUMNS} from desk_boards b join rounds r on r.id = b.round_id
    where b.desk = :desk and (cast(:round as integer) is null or r.id = :round) and b.number is not null
        and exists (select from desk_postings p where p.board_id = b.id and (
            p.state in ('up', 'sending') or p.state = 'answered' and (r.state <> 'closed' or r.id = :round)))
    order by r.id, b.part""")

_LAST = sa.text(f"""
    select {_COLUMNS},
        (select count(*) from desk_postings p where p.board_id = b.id and p.state <> 'down') as postings,
        exists (select from desk_postings p where p.board_id = b.id and p.state = 'sending') as sending
    from desk_boards b join rounds r on r.id = b.round_id
    where b.desk = :desk and b.round_id = :round order by sending desc, b.part desc limit 1""")

_NEW_BOARD = sa.text("""
    insert into desk_boards (id, desk, round_id, part) values (:id, :desk, :round, :part) on conflict do nothing""")

_HOLD = sa.text("""
    update desk_boards set holder = :holder, held_until = clock_timestamp() + make_interval(secs => :seconds)
    where id = :board and (held_until is null or held_until < clock_timestamp())""")

_HOLD_ON = sa.text("""
    update desk_boards set held_until = clock_timestamp() + make_interval(secs => :seconds)
    where id = :board and holder = :holder""")

_LET_GO = sa.text("update desk_boards set holder = null, held_until = null where id = :board and holder = :holder")

WANTED = sa.text(f"""
    select c.id from candidates c join rounds r on r.id = c.round_id
    where r.id = :round and {SERVED} and c.state = 'waiting' and not exists ({LIVE})
    order by c.priority desc, c.id limit :count""")

_COLLECTED = sa.text("""
    update desk_boards set collected_at = now(), read_until = greatest(read_until, (
        select max(p.seen_at) from desk_postings p where p.board_id = :board)) where id = :board""")

_READ_UNTIL = sa.text("select read_until from desk_boards where id = :board")

_SWITCH = sa.text("update rounds set desk = :desk where id = :round")

_LIST = sa.text("""
    select b.round_id as round, b.part, b.desk, b.number, b.collected_at, coalesce(r.desk, '') <> 'pages' as serving,
        count(*) filter (where p.state = 'sending') as sending, count(*) filter (where p.state = 'up') as up,
        count(*) filter (where p.state = 'answered') as answered,
        coalesce(sum(a.kept), 0)::int as decisions, coalesce(sum(a.waits), 0)::int as pending,
        coalesce(sum(a.refused), 0)::int as refused
    from desk_boards b join rounds r on r.id = b.round_id left join desk_postings p on p.board_id = b.id
    left join lateral (
        select count(*) filter (where a.decision_id is not null and not a.gone) as kept,
            count(*) filter (where a.decision_id is null and a.refused is null and not a.gone) as waits,
            count(*) filter (where a.refused is not null and not a.gone) as refused
        from desk_answers a where a.posting_id = p.id) a on true
    group by b.id, r.id order by r.id, b.part""")
