"""Label Studio tasks: which to push, which exist there, and which to remove."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, UUID

from curation.db.engine import Transaction
from curation.domain import LayerRole, ReviewItem
from curation.labeling.port import Project, PushResult, Task
from curation.labeling.projects import CANDIDATES_TO_PUSH, OVERLAP_SQL
from curation.review.queue import read_items

RESERVED_PER_USER, RESERVED_SECONDS = 8, 60
"""Tasks reserved per active user, more than are annotated between two reads; and for how long."""

ACTIVE_USER_SECONDS = 300
"""Seconds after an action in Label Studio during which a user counts as active."""

LayerUrl = Callable[[uuid.UUID, LayerRole], str]
"""Returns the URL of one layer of a task."""


def next_batch(
    tx: Transaction, project: Project, count: int, pause: int, min_open_tasks: int
) -> uuid.UUID | None:
    """Return the next batch to push: an interrupted one, or new tasks by decreasing priority.

    Every import slows Label Studio down for its users, so batches are pushed with pauses.

    Args:
        tx: The transaction.
        project: The project.
        count: Largest number of new tasks.
        pause: Seconds to wait after the last batch.
        min_open_tasks: Number of open tasks below which there is no pause.

    Returns:
        ID of the batch, or None if there is nothing to push now.
    """
    interrupted = tx.execute(_BEGUN, {"board": project.id}).scalar()
    if interrupted is not None:
        return uuid.UUID(str(interrupted))
    if not tx.execute(
        _MAY_SEND, {"board": project.id, "pause": pause, "few": min_open_tasks}
    ).scalar():
        return None
    # The rows are stored first: after an interruption the same batch is pushed again.
    batch = uuid.uuid4()
    selected = tx.execute(CANDIDATES_TO_PUSH, {"round": project.round, "count": count}).all()
    rows = [
        {"id": uuid.uuid4(), "board": project.id, "candidate": row.id, "batch": batch}
        for row in selected
    ]
    if rows:
        tx.execute(_NEW_POSTINGS, rows)
    return batch if rows else None


def read_batch(tx: Transaction, batch: uuid.UUID, layer_url: LayerUrl) -> list[Task]:
    """Return the tasks of a batch that are not known to exist in Label Studio yet.

    Args:
        tx: The transaction.
        batch: ID of the batch.
        layer_url: Returns the URL of a layer of a task.
    """
    return _read(tx, tx.execute(_BATCH, {"batch": batch}), layer_url)


def read_existing(
    tx: Transaction, ids: Collection[uuid.UUID], layer_url: LayerUrl
) -> dict[int, tuple[uuid.UUID, Task]]:
    """Return the content of tasks that exist in Label Studio.

    Args:
        tx: The transaction.
        ids: IDs of tasks.
        layer_url: Returns the URL of a layer of a task.

    Returns:
        By ID in Label Studio, the batch of each existing task and its content.
    """
    rows = {row.id: row for row in tx.execute(_UP, {"ids": list(ids)})} if ids else {}
    return {
        rows[task.id].number: (rows[task.id].batch, task)
        for task in _read(tx, rows.values(), layer_url)
    }


def _read(tx: Transaction, found: Iterable[sa.Row[Any]], address: LayerUrl) -> list[Task]:
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
        for item in read_items(tx, list(rows))
    ]


def _columns(row: sa.Row[Any], item: ReviewItem, address: LayerUrl) -> dict[str, str | float]:
    """Return further columns to show and sort by: thumbnail, round, checkpoint and signals."""
    main = next(
        (role for role in (LayerRole.blended, LayerRole.foreground) if role in item.layers), None
    )
    columns: dict[str, str | float] = {"round": row.round_id, "checkpoint": row.checkpoint or ""}
    if main is not None:
        url = address(row.id, main)
        columns["thumbnail"] = url
        # Preview URLs begin with the address of the front end.
        columns["link"] = f"{url.partition('/api/labeling/')[0]}/rounds/{row.round_id}"
    columns |= {
        f"signal_{name}": round(value, 4)
        for name, value in item.signals.items()
        if value is not None
    }
    return columns


def _refusal_note(refusals: Sequence[str]) -> str:
    """Return the sentence shown in a task about annotations that were not counted."""
    return f"Not counted here: {'; '.join(refusals)}" if refusals else ""


def record_pushed(tx: Transaction, project: Project, result: PushResult) -> None:
    """Record the result of pushing tasks: IDs in Label Studio, and refused tasks.

    Args:
        tx: The transaction.
        project: The project.
        result: The result.
    """
    values = {"board": project.id, "number": result.board, "made_at": result.made_at}
    tx.execute(_MADE, values | {"trouble": result.trouble or None})
    if result.postings:
        pushed = [{"posting": id_, "number": number} for id_, number in result.postings.items()]
        tx.execute(_PLACED, pushed)
    if result.refused:
        refused = [{"posting": id_, "why": reason} for id_, reason in result.refused.items()]
        tx.execute(_REFUSED, refused)


def refusals_to_show(tx: Transaction, project: Project, count: int) -> list[uuid.UUID]:
    """Return up to `count` tasks with a refused annotation that they do not show as refused yet."""
    return [row.id for row in tx.execute(_TO_SHOW, {"board": project.id, "count": count})]


def record_refusals_shown(tx: Transaction, ids: Collection[uuid.UUID]) -> None:
    """Record that tasks show their refused annotations."""
    tx.execute(_SHOWN, {"ids": list(ids)})


def list_refusals(tx: Transaction, round_id: int | None = None) -> list[dict[str, Any]]:
    """Return refused annotations, latest first, with the IDs of task and annotation.

    Args:
        tx: The transaction.
        round_id: The round; None for all rounds.
    """
    return [dict(row) for row in tx.execute(_LIST_REFUSALS, {"round": round_id}).mappings()]


def reserve_for_users(tx: Transaction, project: Project, user_count: int) -> None:
    """Reserve the next tasks for the active users: the review page skips them for a while.

    Args:
        tx: The transaction.
        project: The project.
        user_count: Number of active users.
    """
    count = user_count * RESERVED_PER_USER
    tx.execute(_RESERVE, {"board": project.id, "count": count, "seconds": RESERVED_SECONDS})


def recent_annotators(tx: Transaction, project: Project) -> set[str]:
    """Return the users who annotated tasks of a project within the last minutes."""
    return {
        row.person
        for row in tx.execute(_SAID_LATELY, {"board": project.id, "seconds": ACTIVE_USER_SECONDS})
    }


def sql_with_ids(text: str) -> sa.TextClause:
    """Return a statement whose parameter `ids`, if it has one, is an array of UUIDs."""
    statement = sa.text(text)
    return (
        statement.bindparams(sa.bindparam("ids", type_=ARRAY(UUID)))
        if ":ids" in text
        else statement
    )


# Label Studio shows tasks with low scores first: the most uncertain ones, if there is a probability
# of acceptance, else by priority as on the review page.
_SCORE = "coalesce(abs(2 * cast(s.signals ->> 'acceptance' as real) - 1), 1 - c.priority)"

_BEGUN = sql_with_ids(
    "select batch from labeling_tasks where project_id = :board and state = 'sending' limit 1"
)

# The pause since the last import is over, or few tasks are open.
_MAY_SEND = sql_with_ids("""
    select put_up_at is null or put_up_at < now() - make_interval(secs => :pause)
        or (select count(*) from labeling_tasks p where p.project_id = b.id and p.state = 'up') < :few
    from labeling_projects b where id = :board""")

_NEW_POSTINGS = sql_with_ids(f"""
    insert into labeling_tasks (id, project_id, candidate_id, state, batch, score)
    select :id, :board, c.id, 'sending', :batch, {_SCORE}
    from candidates c left join screenings s on s.candidate_id = c.id where c.id = :candidate""")


# An annotation that does not count requires an additional user.
_SCORED = f"""
    select p.id, p.candidate_id, p.batch, p.number, c.round_id,
        left(r.checkpoint_id, 8) as checkpoint,
        coalesce(p.score, {_SCORE}) as score, said.refusals,
        case when said.unread > 0 and c.state in ('waiting', 'showing')
            then {OVERLAP_SQL} + said.unread end as people
    from labeling_tasks p join candidates c on c.id = p.candidate_id
    join rounds r on r.id = c.round_id
    left join screenings s on s.candidate_id = c.id
    cross join lateral (
        select array_agg(a.person || ': ' || a.refused order by a.said_at) as refusals,
            count(*) filter (where a.decision_id is null) as unread
        from labeling_annotations a
        where a.task_id = p.id and a.refused is not null and not a.gone) said"""

_BATCH = sql_with_ids(f"{_SCORED} where p.batch = :batch and p.state = 'sending'")

_UP = sql_with_ids(f"{_SCORED} where p.id = any(:ids) and p.state in ('up', 'answered')")

_MADE = sql_with_ids("""
    update labeling_projects
    set number = :number, made_at = :made_at, trouble = :trouble, put_up_at = now()
    where id = :board""")

_REFUSED = sql_with_ids(
    "update labeling_tasks set state = 'refused', refused = :why where id = :posting and state = 'sending'"
)

_PLACED = sql_with_ids(
    "update labeling_tasks set state = 'up', number = :number where id = :posting and state = 'sending'"
)


_TO_SHOW = sql_with_ids("""
    select p.id from labeling_tasks p
    where p.project_id = :board and p.state in ('up', 'answered') and exists (
        select from labeling_annotations a
        where a.task_id = p.id and a.refused is not null and not a.gone and not a.shown)
    limit :count""")

_SHOWN = sql_with_ids(
    "update labeling_annotations set shown = true where task_id = any(:ids) and refused is not null"
)

_LIST_REFUSALS = sql_with_ids("""
    select c.round_id as round, b.number as project, p.number as task, a.number as annotation,
        a.person, a.said ->> 'verdict' as verdict, a.refused as why, a.said_at as at
    from labeling_annotations a join labeling_tasks p on p.id = a.task_id
    join labeling_projects b on b.id = p.project_id
    join candidates c on c.id = p.candidate_id
    where a.refused is not null and not a.gone
        and (cast(:round as integer) is null or c.round_id = :round)
    order by a.said_at desc, a.id desc""")

# At most half of the open tasks, so that the review page has candidates until the end of a round.
_RESERVE = sql_with_ids("""
    with open as materialized (
        select p.id, row_number() over (order by p.score nulls last, p.number) as rank,
            count(*) over () as number
        from labeling_tasks p join candidates c on c.id = p.candidate_id
        where p.project_id = :board and p.state = 'up' and c.state = 'waiting')
    update labeling_tasks set reserved_until = now() + make_interval(secs => :seconds)
    from open where open.id = labeling_tasks.id and open.rank <= least(:count, open.number / 2)""")

_SAID_LATELY = sql_with_ids("""
    select distinct a.person from labeling_annotations a join labeling_tasks p on p.id = a.task_id
    where p.project_id = :board and a.created_at > now() - make_interval(secs => :seconds)
        and a.person <> ''""")
