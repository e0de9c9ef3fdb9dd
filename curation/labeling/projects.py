"""Projects: which candidates belong in Label Studio, and which process synchronizes them."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from curation.db.engine import Database, Transaction
from curation.domain import Kind
from curation.errors import Refused
from curation.labeling.port import Project
from curation.rounds.lifecycle import GOLD, find_round

HELD_SECONDS = 300
"""How long a process that was killed keeps others from a board; longer than its requests and rows between two signs."""

DESKS = ("pages", "label-studio")
"""What a round can be switched to."""

READ_AGAIN_SECONDS = 8
"""A board that was read within so many seconds is read again only where the desk says that something changed."""

NOT_BLIND = "several people decide each candidate of this round, and at Label Studio they can see what others said"


def rounds_to_serve(tx: Transaction, desk: str) -> list[int]:
    """Rounds where something is to be put up at a desk or taken down."""
    return [row.id for row in tx.execute(_TO_SERVE, {"desk": desk})]


def open_boards(tx: Transaction, desk: str, number: int | None = None) -> list[Project]:
    """The boards of a round, or of all rounds, on which somebody may still say something that counts."""
    return [_board(row) for row in tx.execute(_BOARDS, {"desk": desk, "round": number})]


def board_of(tx: Transaction, board: uuid.UUID) -> Project | None:
    """Return one board, whatever is on it; None where there is none or it is not made yet."""
    row = tx.execute(_BOARD, {"board": board}).one_or_none()
    return _board(row) if row is not None else None


def made_boards(tx: Transaction, desk: str, number: int | None = None) -> list[Project]:
    """Every board of a round, or of all rounds, that was made at a desk, also where nothing is on it."""
    return [_board(row) for row in tx.execute(_MADE_BOARDS, {"desk": desk, "round": number})]


def is_served(tx: Transaction, number: int) -> bool:
    """Return whether the candidates of a round are offered at Label Studio."""
    return bool(tx.execute(_IS_SERVED, {"round": number}).scalar())


def boards_to_read(tx: Transaction, desk: str) -> list[uuid.UUID]:
    """Boards to be read: those that are open, those to be read again whole, and one of the others in turn.

    A closed board is looked at now and then, since a desk that was put back to a backup shows it again.
    """
    return [row.id for row in tx.execute(_TO_READ, {"desk": desk, "seconds": READ_AGAIN_SECONDS})]


def reread_all(tx: Transaction, desk: str) -> None:
    """Read every board at a desk whole the next time, as after it was put back to a backup."""
    tx.execute(_REREAD_ALL, {"desk": desk})


def must_reread(tx: Transaction, board: Project) -> bool:
    """Return whether a board is to be read whole."""
    return bool(tx.execute(_MUST_REREAD, {"board": board.id}).scalar())


def note_mark(tx: Transaction, board: Project, mark: int) -> None:
    """Note the number that was written to the desk for a board."""
    tx.execute(_NOTE_MARK, {"board": board.id, "mark": mark})


def note_trouble(tx: Transaction, board: Project, trouble: str) -> None:
    """Note what the desk refuses on a board just now; an empty string for nothing."""
    tx.execute(_NOTE_TROUBLE, {"board": board.id, "trouble": trouble or None})


def leave_others(tx: Transaction, desk: str, number: int) -> None:
    """Forget what a round has at a desk with another address: the settings name one at a time."""
    tx.execute(_LEAVE, {"desk": desk, "round": number})


@contextmanager
def held(database: Database, board: Project, holder: str) -> Iterator[bool]:
    """Hold a board for one conversation with the desk; False where another process holds it."""
    with database.transaction() as tx:
        mine = (
            tx.execute(
                _HOLD, {"board": board.id, "holder": holder, "seconds": HELD_SECONDS}
            ).rowcount
            > 0
        )
    try:
        yield mine
    finally:
        if mine:
            with database.transaction() as tx:
                tx.execute(_LET_GO, {"board": board.id, "holder": holder})


def hold_on(database: Database, board: Project, holder: str) -> None:
    """Hold a board for as long again from now on, in the middle of a long conversation."""
    with database.transaction() as tx:
        tx.execute(_HOLD_ON, {"board": board.id, "holder": holder, "seconds": HELD_SECONDS})


def board_with_room(
    tx: Transaction, desk: str, number: int, most: int
) -> tuple[Project, int] | None:
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


def note_collected(
    tx: Transaction, board: Project, made_at: datetime | None, *, whole: bool
) -> None:
    """All that had changed there is taken in; next time is asked for what changed since."""
    tx.execute(_COLLECTED, {"board": board.id, "made_at": made_at, "whole": whole})


def read_until(tx: Transaction, board: Project) -> datetime | None:
    """The time, by the desk's clock, up to which everything is taken in."""
    found: datetime | None = tx.execute(_READ_UNTIL, {"board": board.id}).scalar()
    return found


def switch(tx: Transaction, number: int, desk: str, actor: str) -> str:
    """Let a round be decided at another desk from now on. The pages serve every round that is open.

    Returns:
        A warning where people there can see what others said, or an empty string.

    Raises:
        Refused: For an unknown desk.
        NotFound: For an unknown round.
    """
    if desk not in DESKS:
        raise Refused(f"there is no desk {desk!r}", f"it is one of {', '.join(DESKS)}")
    find_round(tx, number)
    tx.execute(_SWITCH, {"round": number, "desk": desk})
    tx.log(actor, "desk switched", f"round {number}", desk=desk)
    tx.ask("put_up", number)
    several = tx.execute(_SEVERAL, {"round": number}).scalar()
    return NOT_BLIND if several and desk != "pages" else ""


def list_kept_away(tx: Transaction) -> list[dict[str, Any]]:
    """Return open rounds that are not offered at Label Studio, each with the reason."""
    return [dict(row) for row in tx.execute(_KEPT_AWAY).mappings()]


def list_boards(tx: Transaction) -> list[dict[str, Any]]:
    """Every board: how many postings are up, answered or on their way, and how their answers fare."""
    return [dict(row) for row in tx.execute(_LIST).mappings()]


def _board(row: sa.Row[Any]) -> Project:
    return Project(
        row.id, row.round_id, row.part, Kind(row.kind), row.number, row.overlap, row.made_at, row.batches, row.mark,
        row.trouble or "",
    )  # fmt: skip


OVERLAP = "coalesce((r.consensus ->> 'overlap')::int, 1)"

# Of a round: it is open and not kept at the pages. Gold is not offered there, where it could be told from the rest, and
# what several people decide only where somebody has asked for it, since they see there what others said.
SERVED = f"""(r.state = 'open' and r.purpose <> '{GOLD}'
    and (r.desk = 'label-studio' or r.desk is null and {OVERLAP} <= 1))"""
LIVE = "select from desk_postings p where p.candidate_id = c.id and p.state in ('sending', 'up', 'refused')"
# What somebody is looking at here is taken from there, unless several people decide it.
NOT_WANTED = f"""(p.state = 'up' and not (
    {SERVED} and (c.state = 'waiting' or c.state = 'showing' and {OVERLAP} > 1)))"""
WAITS_FOR_LEASE = """exists (select from desk_answers a join desk_postings o on o.id = a.posting_id
    where o.board_id = b.id and a.decision_id is null and a.refused is null and not a.gone)"""

_TO_SERVE = sa.text(f"""
    select r.id from rounds r where {SERVED} and exists (
        select from candidates c where c.round_id = r.id and c.state = 'waiting' and not exists ({LIVE}))
    union select b.round_id from desk_boards b join desk_postings p on p.board_id = b.id
    join rounds r on r.id = b.round_id join candidates c on c.id = p.candidate_id
    where p.state in ('sending', 'up') and (b.desk <> :desk or p.state = 'sending' or {NOT_WANTED}) order by 1""")

_LEAVE = sa.text("""
    update desk_postings p set state = 'down' from desk_boards b
    where b.id = p.board_id and b.round_id = :round and b.desk <> :desk and p.state in ('sending', 'up', 'refused')""")

_COLUMNS = f"""b.id, b.round_id, b.part, b.number, b.made_at, b.mark, b.trouble, r.kind, {OVERLAP} as overlap,
    case when b.made_at is null then array(
        select p.batch from desk_postings p where p.board_id = b.id group by p.batch order by max(p.at) desc limit 3)
        else '{{}}' end as batches"""

_BOARD = sa.text(f"""
    select {_COLUMNS} from desk_boards b join rounds r on r.id = b.round_id
    where b.id = :board and b.number is not null""")

_MADE_BOARDS = sa.text(f"""
    select {_COLUMNS} from desk_boards b join rounds r on r.id = b.round_id
    where b.desk = :desk and (cast(:round as integer) is null or r.id = :round) and b.number is not null
    order by r.id, b.part""")

_BOARDS = sa.text(f"""
    select {_COLUMNS} from desk_boards b join rounds r on r.id = b.round_id
    where b.desk = :desk and (cast(:round as integer) is null or r.id = :round) and b.number is not null
        and (exists (select from desk_postings p where p.board_id = b.id and (
            p.state in ('up', 'sending') or p.state = 'answered' and (r.state <> 'closed' or r.id = :round)))
            or {WAITS_FOR_LEASE})
    order by r.id, b.part""")

_TO_READ = sa.text(f"""
    with known as (
        select b.id, b.reread, b.collected_at, (exists (select from desk_postings p where p.board_id = b.id and (
            p.state in ('up', 'sending') or p.state = 'answered' and r.state <> 'closed')) or {WAITS_FOR_LEASE}) as open
        from desk_boards b join rounds r on r.id = b.round_id where b.desk = :desk and b.number is not null),
    turn as (select id from known where not open order by collected_at nulls first limit 1)
    select id from known where reread or (open or id in (select id from turn))
        and coalesce(collected_at < now() - make_interval(secs => :seconds), true)
    order by collected_at nulls first""")

_IS_SERVED = sa.text(f"select {SERVED} from rounds r where r.id = :round")

_REREAD_ALL = sa.text(
    "update desk_boards set reread = true where desk = :desk and number is not null"
)

_MUST_REREAD = sa.text("select reread from desk_boards where id = :board")

_NOTE_MARK = sa.text("update desk_boards set mark = :mark where id = :board")

_NOTE_TROUBLE = sa.text("""
    update desk_boards set trouble = :trouble where id = :board and trouble is distinct from :trouble""")

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

_LET_GO = sa.text(
    "update desk_boards set holder = null, held_until = null where id = :board and holder = :holder"
)

WANTED = sa.text(f"""
    select c.id from candidates c join rounds r on r.id = c.round_id
    where r.id = :round and {SERVED} and c.state = 'waiting' and not exists ({LIVE})
    order by c.priority desc, c.id limit :count""")

_COLLECTED = sa.text("""
    update desk_boards set collected_at = now(), made_at = coalesce(made_at, :made_at),
        reread = reread and not :whole, read_until = greatest(read_until, (
        select max(p.seen_at) from desk_postings p where p.board_id = :board)) where id = :board""")

_READ_UNTIL = sa.text("select read_until from desk_boards where id = :board")

_SWITCH = sa.text("update rounds set desk = :desk where id = :round")

_SEVERAL = sa.text(f"select {OVERLAP} > 1 from rounds r where id = :round")

_KEPT_AWAY = sa.text(f"""
    select r.id as round, case when r.desk = 'pages' then 'switched to the pages'
        else 'several people decide each candidate, who could see there what others said; switch it there to allow it'
        end as why
    from rounds r where r.state = 'open' and r.purpose <> '{GOLD}' and not {SERVED} order by r.id""")

_LIST = sa.text(f"""
    select b.round_id as round, b.part, b.desk, b.number, b.collected_at, {SERVED} as serving, b.trouble,
        count(*) filter (where p.state = 'sending') as sending, count(*) filter (where p.state = 'up') as up,
        count(*) filter (where p.state = 'answered') as answered,
        count(*) filter (where p.state = 'refused') as not_taken,
        coalesce(sum(a.kept), 0)::int as decisions, coalesce(sum(a.waits), 0)::int as pending,
        coalesce(sum(a.refused), 0)::int as refused
    from desk_boards b join rounds r on r.id = b.round_id left join desk_postings p on p.board_id = b.id
    left join lateral (
        select count(*) filter (where a.decision_id is not null and not a.gone) as kept,
            count(*) filter (where a.decision_id is null and a.refused is null and not a.gone) as waits,
            count(*) filter (where a.refused is not null and not a.gone) as refused
        from desk_answers a where a.posting_id = p.id) a on true
    group by b.id, r.id order by r.id, b.part""")
