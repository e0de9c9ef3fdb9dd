"""Label Studio tasks: which to push, which exist there, and which to remove."""

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
"""Tasks reserved per active user, more than are annotated between two reads; and for how long."""

PRESENT_SECONDS = 300
"""Seconds after an action in Label Studio during which a user counts as active."""

Address = Callable[[uuid.UUID, LayerRole], str]
"""Returns the URL of one layer of a task."""


def next_batch(
    tx: Transaction, board: Project, count: int, pause: int, few: int
) -> uuid.UUID | None:
    """Return the next batch to push: an interrupted one, or new tasks by decreasing priority.

    Every import slows Label Studio down for its users, so batches are pushed with pauses.

    Args:
        tx: The transaction.
        board: The project.
        count: Largest number of new tasks.
        pause: Seconds to wait after the last batch.
        few: Number of open tasks below which there is no pause.

    Returns:
        ID of the batch, or None if there is nothing to push now.
    """
    interrupted = tx.execute(_BEGUN, {"board": board.id}).scalar()
    if interrupted is not None:
        return uuid.UUID(str(interrupted))
    if not tx.execute(_MAY_SEND, {"board": board.id, "pause": pause, "few": few}).scalar():
        return None
    # The rows are stored first: after an interruption the same batch is pushed again.
    batch = uuid.uuid4()
    selected = tx.execute(WANTED, {"round": board.round, "count": count}).all()
    rows = [
        {"id": uuid.uuid4(), "board": board.id, "candidate": row.id, "batch": batch}
        for row in selected
    ]
    if rows:
        tx.execute(_NEW_POSTINGS, rows)
    return batch if rows else None


def read_batch(tx: Transaction, batch: uuid.UUID, address: Address) -> list[Task]:
    """Return the tasks of a batch that are not known to exist in Label Studio yet.

    Args:
        tx: The transaction.
        batch: ID of the batch.
        address: Returns the URL of a layer of a task.
    """
    return _read(tx, tx.execute(_BATCH, {"batch": batch}), address)


def read_up(
    tx: Transaction, ids: Collection[uuid.UUID], address: Address
) -> dict[int, tuple[uuid.UUID, Task]]:
    """Return the content of tasks that exist in Label Studio.

    Args:
        tx: The transaction.
        ids: IDs of tasks.
        address: Returns the URL of a layer of a task.

    Returns:
        By ID in Label Studio, the batch of each existing task and its content.
    """
    rows = {row.id: row for row in tx.execute(_UP, {"ids": list(ids)})} if ids else {}
    return {
        rows[task.id].number: (rows[task.id].batch, task)
        for task in _read(tx, rows.values(), address)
    }


def _read(tx: Transaction, found: Iterable[sa.Row[Any]], address: Address) -> list[Task]:
    rows = {row.candidate_id: row for row in found}
    return [
        Task(
            id=rows[item.id].id,
            candidate=item.id,
            prompt=item.prompt,
            texts=item.texts,
            layers={role: address(rows[item.id].id, role) for role in item.layers},
            score=float(rows[item.id].score),
            facts=_columns(rows[item.id], item, address),
            people=rows[item.id].people,
            note=_refusal_note(rows[item.id].refusals or ()),
        )
        for item in read_cards(tx, list(rows))
    ]


def _columns(row: sa.Row[Any], item: ReviewItem, address: Address) -> dict[str, str | float]:
    """Return further columns to show and sort by: thumbnail, round, checkpoint and signals."""
    main = next(
        (role for role in (LayerRole.blended, LayerRole.foreground) if role in item.layers), None
    )
    columns: dict[str, str | float] = {"round": row.round_id, "checkpoint": row.checkpoint or ""}
    if main is not None:
        url = address(row.id, main)
        columns["thumbnail"] = url
        # Preview URLs begin with the address of the front end.
        columns["link"] = f"{url.partition('/api/desk/')[0]}/rounds/{row.round_id}"
    columns |= {
        f"signal_{name}": round(value, 4)
        for name, value in item.signals.items()
        if value is not None
    }
    return columns


def _refusal_note(refusals: Sequence[str]) -> str:
    """Return the sentence shown in a task about annotations that were not counted."""
    return f"Not counted here: {'; '.join(refusals)}" if refusals else ""


def note_placed(tx: Transaction, board: Project, placed: Placed) -> None:
    """Record the result of pushing tasks: IDs in Label Studio, and refused tasks.

    Args:
        tx: The transaction.
        board: The project.
        placed: The result.
    """
    values = {"board": board.id, "number": placed.board, "made_at": placed.made_at}
    tx.execute(_MADE, values | {"trouble": placed.trouble or None})
    if placed.postings:
        pushed = [{"posting": id_, "number": number} for id_, number in placed.postings.items()]
        tx.execute(_PLACED, pushed)
    if placed.refused:
        refused = [{"posting": id_, "why": reason} for id_, reason in placed.refused.items()]
        tx.execute(_REFUSED, refused)


def unwanted(tx: Transaction, board: Project) -> dict[uuid.UUID, tuple[int, datetime | None]]:
    """Return the tasks of a project that have to be removed.

    Their candidates were decided elsewhere, are claimed on the review page, were withdrawn, or
    belong to a round that is paused or switched to the review page.

    Returns:
        By task, its ID in Label Studio and when it was last read.
    """
    return {row.id: (row.number, row.seen_at) for row in tx.execute(_UNWANTED, {"board": board.id})}


def forgotten(tx: Transaction, board: Project) -> dict[uuid.UUID, list[int]]:
    """Return tasks that a restored backup set back, so that they must not be annotated again.

    Their annotations or later edits were lost, or deleted annotations exist again.

    Returns:
        By task, its IDs in Label Studio.
    """
    return {row.id: [row.number] for row in tx.execute(_FORGOTTEN, {"board": board.id})}


def refusals_to_show(tx: Transaction, board: Project, count: int) -> list[uuid.UUID]:
    """Return up to `count` tasks with a refused annotation that they do not show as refused yet."""
    return [row.id for row in tx.execute(_TO_SHOW, {"board": board.id, "count": count})]


def note_shown(tx: Transaction, ids: Collection[uuid.UUID]) -> None:
    """Record that tasks show their refused annotations."""
    tx.execute(_SHOWN, {"ids": list(ids)})


def list_refusals(tx: Transaction, number: int | None = None) -> list[dict[str, Any]]:
    """Return refused annotations, latest first, with the IDs of task and annotation.

    Args:
        tx: The transaction.
        number: The round; None for all rounds.
    """
    return [dict(row) for row in tx.execute(_LIST_REFUSALS, {"round": number}).mappings()]


def reserve(tx: Transaction, board: Project, people: int) -> None:
    """Reserve the next tasks for the active users: the review page skips them for a while.

    Args:
        tx: The transaction.
        board: The project.
        people: Number of active users.
    """
    count = people * RESERVED_EACH
    tx.execute(_RESERVE, {"board": board.id, "count": count, "seconds": RESERVED_SECONDS})


def said_lately(tx: Transaction, board: Project) -> set[str]:
    """Return the users who annotated tasks of a project within the last minutes."""
    return {
        row.person
        for row in tx.execute(_SAID_LATELY, {"board": board.id, "seconds": PRESENT_SECONDS})
    }


def note_down(tx: Transaction, postings: Collection[uuid.UUID]) -> None:
    """Record that tasks were removed."""
    if postings:
        tx.execute(_DOWN, {"ids": list(postings)})


def note_lost(tx: Transaction, board: Project, found: Collection[uuid.UUID]) -> list[uuid.UUID]:
    """Record that all tasks of a project except some no longer exist; they may be pushed again.

    Args:
        tx: The transaction.
        board: The project.
        found: IDs of the tasks that exist.

    Returns:
        IDs of the lost tasks.
    """
    lost = [row.id for row in tx.execute(_LOST, {"board": board.id, "ids": list(found)})]
    note_down(tx, lost)
    return lost


def forget(tx: Transaction, board: Project) -> None:
    """Record that a project was deleted, so that it is created again with its tasks."""
    note_lost(tx, board, ())
    tx.execute(_FORGET, {"board": board.id})


def count_placed(tx: Transaction, board: Project) -> int:
    """Return how many tasks of a project should exist in Label Studio."""
    return int(tx.execute(_COUNT_PLACED, {"board": board.id}).scalar_one())


def unanswered(
    tx: Transaction, board: Project, count: int
) -> dict[uuid.UUID, tuple[uuid.UUID, int]]:
    """Return open tasks without annotations.

    Args:
        tx: The transaction.
        board: The project.
        count: Largest number of tasks.

    Returns:
        By candidate, the ID of its task here and in Label Studio.
    """
    rows = tx.execute(_UNANSWERED, {"board": board.id, "count": count})
    return {row.candidate_id: (row.id, row.number) for row in rows}


def silent(tx: Transaction, ids: Collection[uuid.UUID]) -> dict[uuid.UUID, list[int]]:
    """Return the open tasks among `ids` that never had an annotation, with their remote IDs."""
    return {row.id: [row.number] for row in tx.execute(_SILENT_ONES, {"ids": list(ids)})}


def open_first(tx: Transaction, ids: Collection[uuid.UUID], answered: int) -> list[uuid.UUID]:
    """Return the open tasks among `ids`, and up to `answered` of the annotated ones."""
    return [row.id for row in tx.execute(_OPEN_FIRST, {"ids": list(ids), "answered": answered})]


def waiting_answers(tx: Transaction, board: Project) -> list[uuid.UUID]:
    """Return tasks with an annotation that waits until a reviewer's lease ends."""
    return [row.posting_id for row in tx.execute(_WAITING_ANSWERS, {"board": board.id})]


def sort_seen(
    tx: Transaction, part: Sequence[RemoteTask]
) -> tuple[list[RemoteTask], dict[uuid.UUID, list[int]]]:
    """Sort tasks that were read into those with changes and those to remove.

    Removed are second copies without annotations, and tasks that exist again after they were
    removed, as after a restored backup. For an unchanged task without annotations only the time of
    its last change is recorded.

    Args:
        tx: The transaction.
        part: Tasks as read from Label Studio.

    Returns:
        The tasks that may have new annotations, and by task the remote IDs to remove.
    """
    ids = [task.posting for task in part if task.posting is not None]
    known = {row.id: row for row in tx.execute(_KNOWN, {"ids": ids})} if ids else {}
    changed: list[RemoteTask] = []
    to_remove: dict[uuid.UUID, list[int]] = {}
    silent: list[dict[str, Any]] = []
    for task in part:
        row = known.get(task.posting)
        # Tasks that this instance did not create are ignored.
        if row is None:
            continue
        # Removed before, and there again.
        if row.state == "down":
            to_remove.setdefault(row.id, []).append(task.number)
            if task.answers:
                changed.append(task)
        # Unchanged since the last read.
        elif row.number == task.number and row.seen_at == task.at:
            continue
        elif task.answers or (row.answered and row.number == task.number):
            changed.append(task)
        # A second copy without annotations.
        elif row.number not in {None, task.number}:
            to_remove.setdefault(row.id, []).append(task.number)
            if row.answered:
                changed.append(task)
        else:
            silent.append({"posting": row.id, "at": task.at, "number": task.number})
    if silent:
        tx.execute(_SILENT, silent)
    return changed, to_remove


def count_not_up(tx: Transaction, number: int | None) -> dict[int, int]:
    """Return the number of waiting candidates without a task, by round.

    Args:
        tx: The transaction.
        number: The round; None for all rounds.
    """
    return {row.id: row.number for row in tx.execute(_NOT_UP, {"round": number})}


def _sql(text: str) -> sa.TextClause:
    statement = sa.text(text)
    return (
        statement.bindparams(sa.bindparam("ids", type_=ARRAY(UUID)))
        if ":ids" in text
        else statement
    )


# Label Studio shows tasks with low scores first: the most uncertain ones, if there is a probability
# of acceptance, else by priority as on the review page.
_SCORE = "coalesce(abs(2 * cast(s.signals ->> 'acceptance' as real) - 1), 1 - c.priority)"

_BEGUN = _sql(
    "select batch from desk_postings where board_id = :board and state = 'sending' limit 1"
)

# The pause since the last import is over, or few tasks are open.
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

# An annotation that does not count requires an additional user.
_SCORED = f"""
    select p.id, p.candidate_id, p.batch, p.number, c.round_id,
        left(r.checkpoint_id, 8) as checkpoint,
        coalesce(p.score, {_SCORE}) as score, said.refusals,
        case when said.unread > 0 and c.state in ('waiting', 'showing')
            then {OVERLAP} + said.unread end as people
    from desk_postings p join candidates c on c.id = p.candidate_id
    join rounds r on r.id = c.round_id
    left join screenings s on s.candidate_id = c.id
    cross join lateral (
        select array_agg(a.person || ': ' || a.refused order by a.said_at) as refusals,
            count(*) filter (where a.decision_id is null) as unread
        from desk_answers a
        where a.posting_id = p.id and a.refused is not null and not a.gone) said"""

_BATCH = _sql(f"{_SCORED} where p.batch = :batch and p.state = 'sending'")

_UP = _sql(f"{_SCORED} where p.id = any(:ids) and p.state in ('up', 'answered')")

_MADE = _sql("""
    update desk_boards
    set number = :number, made_at = :made_at, trouble = :trouble, put_up_at = now()
    where id = :board""")

_REFUSED = _sql(
    "update desk_postings set state = 'refused', refused = :why"
    " where id = :posting and state = 'sending'"
)

_PLACED = _sql(
    "update desk_postings set state = 'up', number = :number"
    " where id = :posting and state = 'sending'"
)

_UNWANTED = _sql(f"""
    select p.id, p.number, p.seen_at from desk_postings p
    join desk_boards b on b.id = p.board_id join rounds r on r.id = b.round_id
    join candidates c on c.id = p.candidate_id
    where p.board_id = :board and {NOT_WANTED}""")

_DOWN = _sql("update desk_postings set state = 'down' where id = any(:ids)")

_LOST = _sql("""
    select id from desk_postings
    where board_id = :board and state in ('up', 'answered') and not id = any(:ids)""")

_FORGET = _sql("""
    update desk_boards
    set number = null, made_at = null, read_until = null, mark = 0, trouble = null
    where id = :board""")

# Decided tasks whose annotation was lost, and open ones whose deleted annotation exists again.
_FORGOTTEN = _sql("""
    select p.id, p.number from desk_postings p join candidates c on c.id = p.candidate_id
    where p.board_id = :board and exists (
        select from desk_answers a where a.posting_id = p.id and a.forgotten and (
            p.state = 'answered' and c.state in ('accepted', 'rejected') and not a.gone
            or p.state = 'up' and c.state = 'waiting' and a.gone))""")

_TO_SHOW = _sql("""
    select p.id from desk_postings p
    where p.board_id = :board and p.state in ('up', 'answered') and exists (
        select from desk_answers a
        where a.posting_id = p.id and a.refused is not null and not a.gone and not a.shown)
    limit :count""")

_SHOWN = _sql(
    "update desk_answers set shown = true where posting_id = any(:ids) and refused is not null"
)

_LIST_REFUSALS = _sql("""
    select c.round_id as round, b.number as project, p.number as task, a.number as annotation,
        a.person, a.said ->> 'verdict' as verdict, a.refused as why, a.said_at as at
    from desk_answers a join desk_postings p on p.id = a.posting_id
    join desk_boards b on b.id = p.board_id
    join candidates c on c.id = p.candidate_id
    where a.refused is not null and not a.gone
        and (cast(:round as integer) is null or c.round_id = :round)
    order by a.said_at desc, a.id desc""")

# At most half of the open tasks, so that the review page has candidates until the end of a round.
_RESERVE = _sql("""
    with open as materialized (
        select p.id, row_number() over (order by p.score nulls last, p.number) as rank,
            count(*) over () as number
        from desk_postings p join candidates c on c.id = p.candidate_id
        where p.board_id = :board and p.state = 'up' and c.state = 'waiting')
    update desk_postings set reserved_until = now() + make_interval(secs => :seconds)
    from open where open.id = desk_postings.id and open.rank <= least(:count, open.number / 2)""")

_SAID_LATELY = _sql("""
    select distinct a.person from desk_answers a join desk_postings p on p.id = a.posting_id
    where p.board_id = :board and a.at > now() - make_interval(secs => :seconds)
        and a.person <> ''""")

_COUNT_PLACED = _sql("""
    select count(*) from desk_postings where board_id = :board and state in ('up', 'answered')""")

_WAITING_ANSWERS = _sql("""
    select distinct a.posting_id from desk_answers a join desk_postings p on p.id = a.posting_id
    where p.board_id = :board and a.decision_id is null and a.refused is null and not a.gone""")

_UNANSWERED = _sql("""
    select p.id, p.candidate_id, p.number from desk_postings p
    where p.board_id = :board and p.state = 'up'
        and not exists (select from desk_answers a where a.posting_id = p.id and not a.gone)
    order by p.number limit :count""")

_OPEN_FIRST = _sql("""
    (select id from desk_postings where id = any(:ids) and state = 'up')
    union all (
        select id from desk_postings
        where id = any(:ids) and state = 'answered' limit :answered)""")

_SILENT_ONES = _sql("""
    select p.id, p.number from desk_postings p where p.id = any(:ids) and p.state = 'up'
        and not exists (select from desk_answers a where a.posting_id = p.id)""")

_KNOWN = _sql("""
    select p.id, p.number, p.seen_at, p.state,
        exists (select from desk_answers a where a.posting_id = p.id) as answered
    from desk_postings p where p.id = any(:ids)""")

# A task whose response was lost after it was created is recognized by its own ID.
_SILENT = _sql("""
    update desk_postings set seen_at = greatest(seen_at, :at), number = :number,
        state = case when state = 'sending' then 'up' else state end where id = :posting""")
