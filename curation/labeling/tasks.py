"""Tasks: which candidates are to be pushed, which exist in Label Studio, and which should not."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, UUID

from curation.db.engine import Transaction
from curation.domain import LayerRole, ReviewItem
from curation.labeling.port import Placed, Project, RemoteTask, Task
from curation.labeling.projects import LIVE, NOT_WANTED, OVERLAP, SERVED, WANTED
from curation.review.queue import read_cards

RESERVED_EACH, RESERVED_SECONDS = 8, 60
"""Postings that are left to each person at a desk: more than they answer between two readings; and for how long."""

PRESENT_SECONDS = 300
"""Who did something at a desk within so many seconds is at it."""

Address = Callable[[uuid.UUID, LayerRole], str]
"""Makes the address of one layer of a posting."""


def next_batch(
    tx: Transaction, board: Project, count: int, pause: int, few: int
) -> uuid.UUID | None:
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
    rows = [
        {"id": uuid.uuid4(), "board": board.id, "candidate": row.id, "batch": batch}
        for row in picked
    ]
    if rows:
        tx.execute(_NEW_POSTINGS, rows)
    return batch if rows else None


def read_batch(tx: Transaction, batch: uuid.UUID, address: Address) -> list[Task]:
    """The postings of a batch that were not seen there yet, with addresses of their layers."""
    return _read(tx, tx.execute(_BATCH, {"batch": batch}), address)


def read_up(
    tx: Transaction, ids: Collection[uuid.UUID], address: Address
) -> dict[int, tuple[uuid.UUID, Task]]:
    """Return those of some postings that are there, by the desk's numbers, each with the batch it was sent in."""
    rows = {row.id: row for row in tx.execute(_UP, {"ids": list(ids)})} if ids else {}
    return {
        rows[one.id].number: (rows[one.id].batch, one) for one in _read(tx, rows.values(), address)
    }


def _read(tx: Transaction, found: Iterable[sa.Row[Any]], address: Address) -> list[Task]:
    rows = {row.candidate_id: row for row in found}
    return [
        Task(
            id=rows[card.id].id,
            candidate=card.id,
            prompt=card.prompt,
            texts=card.texts,
            layers={role: address(rows[card.id].id, role) for role in card.layers},
            score=float(rows[card.id].score),
            facts=_facts(rows[card.id], card, address),
            people=rows[card.id].people,
            note=_note(rows[card.id].refusals or ()),
        )
        for card in read_cards(tx, list(rows))
    ]


def _facts(row: sa.Row[Any], card: ReviewItem, address: Address) -> dict[str, str | float]:
    """Columns that people there can sort by: a small picture, the checkpoint, signals."""
    first = next(
        (role for role in (LayerRole.blended, LayerRole.foreground) if role in card.layers), None
    )
    facts: dict[str, str | float] = {"round": row.round_id, "checkpoint": row.checkpoint or ""}
    if first is not None:
        shown = address(row.id, first)
        facts["thumbnail"] = shown
        facts["link"] = f"{shown.partition('/api/desk/')[0]}/rounds/{row.round_id}"
    facts |= {
        f"signal_{name}": round(value, 4)
        for name, value in card.signals.items()
        if value is not None
    }
    return facts


def _note(refusals: Sequence[str]) -> str:
    """What whoever opens a posting there is told of answers to it that were not counted."""
    return f"Not counted here: {'; '.join(refusals)}" if refusals else ""


def note_placed(tx: Transaction, board: Project, placed: Placed) -> None:
    """Note what identifies the board there, the numbers of postings that are there, and those that are refused."""
    made = {"board": board.id, "number": placed.board, "made_at": placed.made_at}
    tx.execute(_MADE, made | {"trouble": placed.trouble or None})
    if placed.postings:
        tx.execute(
            _PLACED, [{"posting": posting, "number": at} for posting, at in placed.postings.items()]
        )
    if placed.refused:
        tx.execute(
            _REFUSED, [{"posting": posting, "why": why} for posting, why in placed.refused.items()]
        )


def unwanted(tx: Transaction, board: Project) -> dict[uuid.UUID, tuple[int, datetime | None]]:
    """Return postings that are up and should not be, each with its number and when it was last read.

    They were decided elsewhere, are looked at here, were withdrawn, or belong to a round that is paused or moved.
    """
    return {row.id: (row.number, row.seen_at) for row in tx.execute(_UNWANTED, {"board": board.id})}


def forgotten(tx: Transaction, board: Project) -> dict[uuid.UUID, list[int]]:
    """Return postings that show less there than what was said here: nobody is to be asked again, or not by this task.

    Their answers, or edits of them, were lost by a restored backup; or answers that were deleted are there again.
    """
    return {row.id: [row.number] for row in tx.execute(_FORGOTTEN, {"board": board.id})}


def refusals_to_show(tx: Transaction, board: Project, count: int) -> list[uuid.UUID]:
    """Return up to `count` postings with an answer that was refused, of which their tasks do not say so yet."""
    return [row.id for row in tx.execute(_TO_SHOW, {"board": board.id, "count": count})]


def note_shown(tx: Transaction, ids: Collection[uuid.UUID]) -> None:
    """The tasks of some postings say what was refused."""
    tx.execute(_SHOWN, {"ids": list(ids)})


def list_refusals(tx: Transaction, number: int | None = None) -> list[dict[str, Any]]:
    """Answers that did not count, the latest first, with the desk's numbers of task and annotation."""
    return [dict(row) for row in tx.execute(_LIST_REFUSALS, {"round": number}).mappings()]


def reserve(tx: Transaction, board: Project, people: int) -> None:
    """Leave to the people at the desk what it gives them next: the pages give it to nobody for a while."""
    count = people * RESERVED_EACH
    tx.execute(_RESERVE, {"board": board.id, "count": count, "seconds": RESERVED_SECONDS})


def said_lately(tx: Transaction, board: Project) -> set[str]:
    """Return who has said something at a board within the last minutes."""
    return {
        row.person
        for row in tx.execute(_SAID_LATELY, {"board": board.id, "seconds": PRESENT_SECONDS})
    }


def note_down(tx: Transaction, postings: Collection[uuid.UUID]) -> None:
    """Postings that are there no longer."""
    if postings:
        tx.execute(_DOWN, {"ids": list(postings)})


def note_lost(tx: Transaction, board: Project, found: Collection[uuid.UUID]) -> list[uuid.UUID]:
    """All postings but those `found` are there no longer; what is still wanted of them is put up again."""
    lost = [row.id for row in tx.execute(_LOST, {"board": board.id, "ids": list(found)})]
    note_down(tx, lost)
    return lost


def forget(tx: Transaction, board: Project) -> None:
    """The board itself is there no longer: it is made again, and its postings with it."""
    note_lost(tx, board, ())
    tx.execute(_FORGET, {"board": board.id})


def count_placed(tx: Transaction, board: Project) -> int:
    """How many postings should be there."""
    return int(tx.execute(_COUNT_PLACED, {"board": board.id}).scalar_one())


def unanswered(
    tx: Transaction, board: Project, count: int
) -> dict[uuid.UUID, tuple[uuid.UUID, int]]:
    """Up to `count` candidates that are up and of which nothing was said yet: each one's posting and its number."""
    rows = tx.execute(_UNANSWERED, {"board": board.id, "count": count})
    return {row.candidate_id: (row.id, row.number) for row in rows}


def silent(tx: Transaction, ids: Collection[uuid.UUID]) -> dict[uuid.UUID, list[int]]:
    """Those of some postings that are up and of which nothing was ever said, with their numbers."""
    return {row.id: [row.number] for row in tx.execute(_SILENT_ONES, {"ids": list(ids)})}


def open_first(tx: Transaction, ids: Collection[uuid.UUID], answered: int) -> list[uuid.UUID]:
    """Return those of some postings that are up, and up to so many of those that are answered."""
    return [row.id for row in tx.execute(_OPEN_FIRST, {"ids": list(ids), "answered": answered})]


def waiting_answers(tx: Transaction, board: Project) -> list[uuid.UUID]:
    """Postings with an answer that could not be decided yet, since somebody was looking at the candidate here."""
    return [row.posting_id for row in tx.execute(_WAITING_ANSWERS, {"board": board.id})]


def sort_seen(
    tx: Transaction, part: Sequence[RemoteTask]
) -> tuple[list[RemoteTask], dict[uuid.UUID, list[int]]]:
    """Of what was seen there: what may say something new, and what is to be taken down, by posting.

    Taken down are silent second copies, and what had been taken down and is there again, as after a restored backup.
    Where nothing was said, only the time of its last change is noted.
    """
    ids = [seen.posting for seen in part if seen.posting is not None]
    known = {row.id: row for row in tx.execute(_KNOWN, {"ids": ids})} if ids else {}
    changed: list[RemoteTask] = []
    down: dict[uuid.UUID, list[int]] = {}
    silent: list[dict[str, Any]] = []
    for seen in part:
        row = known.get(seen.posting)
        if row is None:
            continue
        if row.state == "down":
            down.setdefault(row.id, []).append(seen.number)
            if seen.answers:
                changed.append(seen)
        elif row.number == seen.number and row.seen_at == seen.at:
            continue
        elif seen.answers or (row.answered and row.number == seen.number):
            changed.append(seen)
        elif row.number not in {None, seen.number}:
            down.setdefault(row.id, []).append(seen.number)
            if row.answered:
                changed.append(seen)
        else:
            silent.append({"posting": row.id, "at": seen.at, "number": seen.number})
    if silent:
        tx.execute(_SILENT, silent)
    return changed, down


def count_not_up(tx: Transaction, number: int | None) -> dict[int, int]:
    """How many candidates of a round, or of each, wait and are not put up."""
    return {row.id: row.number for row in tx.execute(_NOT_UP, {"round": number})}


def _sql(text: str) -> sa.TextClause:
    statement = sa.text(text)
    return (
        statement.bindparams(sa.bindparam("ids", type_=ARRAY(UUID)))
        if ":ids" in text
        else statement
    )


# Desks show the lowest score first: the least certain, where a chance of acceptance is known, or else as a tray would.
_SCORE = "coalesce(abs(2 * cast(s.signals ->> 'acceptance' as real) - 1), 1 - c.priority)"

_BEGUN = _sql(
    "select batch from desk_postings where board_id = :board and state = 'sending' limit 1"
)

_MAY_SEND = _sql("""
    select put_up_at is null or put_up_at < now() - make_interval(secs => :pause)
        or (select count(*) from desk_postings p where p.board_id = b.id and p.state = 'up') < :few
    from desk_boards b where id = :board""")

_NEW_POSTINGS = _sql(f"""
    insert into desk_postings (id, board_id, candidate_id, state, batch, score)
    select :id, :board, c.id, 'sending', :batch, {_SCORE}
    from candidates c left join screenings s on s.candidate_id = c.id where c.id = :candidate""")

_NOT_UP = _sql(f"""
    select r.id, count(*) as number from candidates c join rounds r on r.id = c.round_id
    where {SERVED} and c.state = 'waiting' and not exists ({LIVE})
        and (cast(:round as integer) is null or r.id = :round) group by r.id order by r.id""")

# An answer that cannot be read does not count here, so one more person is asked there.
_SCORED = f"""
    select p.id, p.candidate_id, p.batch, p.number, c.round_id, left(r.checkpoint_id, 8) as checkpoint,
        coalesce(p.score, {_SCORE}) as score, said.refusals,
        case when said.unread > 0 and c.state in ('waiting', 'showing') then {OVERLAP} + said.unread end as people
    from desk_postings p join candidates c on c.id = p.candidate_id join rounds r on r.id = c.round_id
    left join screenings s on s.candidate_id = c.id
    cross join lateral (
        select array_agg(a.person || ': ' || a.refused order by a.said_at) as refusals,
            count(*) filter (where a.decision_id is null) as unread
        from desk_answers a where a.posting_id = p.id and a.refused is not null and not a.gone) said"""

_BATCH = _sql(f"{_SCORED} where p.batch = :batch and p.state = 'sending'")

_UP = _sql(f"{_SCORED} where p.id = any(:ids) and p.state in ('up', 'answered')")

_MADE = _sql("""
    update desk_boards set number = :number, made_at = :made_at, trouble = :trouble, put_up_at = now()
    where id = :board""")

_REFUSED = _sql(
    "update desk_postings set state = 'refused', refused = :why where id = :posting and state = 'sending'"
)

_PLACED = _sql(
    "update desk_postings set state = 'up', number = :number where id = :posting and state = 'sending'"
)

_UNWANTED = _sql(f"""
    select p.id, p.number, p.seen_at from desk_postings p
    join desk_boards b on b.id = p.board_id join rounds r on r.id = b.round_id
    join candidates c on c.id = p.candidate_id
    where p.board_id = :board and {NOT_WANTED}""")

_DOWN = _sql("update desk_postings set state = 'down' where id = any(:ids)")

_LOST = _sql("""
    select id from desk_postings where board_id = :board and state in ('up', 'answered') and not id = any(:ids)""")

_FORGET = _sql("""
    update desk_boards set number = null, made_at = null, read_until = null, mark = 0, trouble = null
    where id = :board""")

_FORGOTTEN = _sql("""
    select p.id, p.number from desk_postings p join candidates c on c.id = p.candidate_id
    where p.board_id = :board and exists (select from desk_answers a where a.posting_id = p.id and a.forgotten and (
        p.state = 'answered' and c.state in ('accepted', 'rejected') and not a.gone
        or p.state = 'up' and c.state = 'waiting' and a.gone))""")

_TO_SHOW = _sql("""
    select p.id from desk_postings p where p.board_id = :board and p.state in ('up', 'answered') and exists (
        select from desk_answers a where a.posting_id = p.id and a.refused is not null and not a.gone and not a.shown)
    limit :count""")

_SHOWN = _sql(
    "update desk_answers set shown = true where posting_id = any(:ids) and refused is not null"
)

_LIST_REFUSALS = _sql("""
    select c.round_id as round, b.number as project, p.number as task, a.number as annotation, a.person,
        a.said ->> 'verdict' as verdict, a.refused as why, a.said_at as at
    from desk_answers a join desk_postings p on p.id = a.posting_id join desk_boards b on b.id = p.board_id
    join candidates c on c.id = p.candidate_id
    where a.refused is not null and not a.gone and (cast(:round as integer) is null or c.round_id = :round)
    order by a.said_at desc, a.id desc""")

# Half of what is open at most, so that the pages go on until the end of a round.
_RESERVE = _sql("""
    with open as materialized (
        select p.id, row_number() over (order by p.score nulls last, p.number) as place, count(*) over () as number
        from desk_postings p join candidates c on c.id = p.candidate_id
        where p.board_id = :board and p.state = 'up' and c.state = 'waiting')
    update desk_postings set reserved_until = now() + make_interval(secs => :seconds)
    from open where open.id = desk_postings.id and open.place <= least(:count, open.number / 2)""")

_SAID_LATELY = _sql("""
    select distinct a.person from desk_answers a join desk_postings p on p.id = a.posting_id
    where p.board_id = :board and a.at > now() - make_interval(secs => :seconds) and a.person <> ''""")

_COUNT_PLACED = _sql("""
    select count(*) from desk_postings where board_id = :board and state in ('up', 'answered')""")

_WAITING_ANSWERS = _sql("""
    select distinct a.posting_id from desk_answers a join desk_postings p on p.id = a.posting_id
    where p.board_id = :board and a.decision_id is null and a.refused is null and not a.gone""")

_UNANSWERED = _sql("""
    select p.id, p.candidate_id, p.number from desk_postings p where p.board_id = :board and p.state = 'up'
        and not exists (select from desk_answers a where a.posting_id = p.id and not a.gone)
    order by p.number limit :count""")

_OPEN_FIRST = _sql("""
    (select id from desk_postings where id = any(:ids) and state = 'up')
    union all (select id from desk_postings where id = any(:ids) and state = 'answered' limit :answered)""")

_SILENT_ONES = _sql("""
    select p.id, p.number from desk_postings p where p.id = any(:ids) and p.state = 'up'
        and not exists (select from desk_answers a where a.posting_id = p.id)""")

_KNOWN = _sql("""
    select p.id, p.number, p.seen_at, p.state,
        exists (select from desk_answers a where a.posting_id = p.id) as answered
    from desk_postings p where p.id = any(:ids)""")

# A posting that was sent, and whose number was lost on the way home, is known by its own id.
_SILENT = _sql("""
    update desk_postings set seen_at = greatest(seen_at, :at), number = :number,
        state = case when state = 'sending' then 'up' else state end where id = :posting""")
