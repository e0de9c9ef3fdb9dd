"""Label Studio tasks: which to push, which exist there, and what they show."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, UUID

from curation.db.engine import Transaction
from curation.domain import LayerRole, ReviewItem
from curation.labeling.conditions import CANDIDATES_TO_PUSH, OVERLAP_SQL
from curation.labeling.port import Project, PushResult, Task
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
    interrupted = tx.execute(_INTERRUPTED, {"project": project.id}).scalar()
    if interrupted is not None:
        return uuid.UUID(str(interrupted))
    if not tx.execute(
        _MAY_PUSH, {"project": project.id, "pause": pause, "min_open_tasks": min_open_tasks}
    ).scalar():
        return None
    # The rows are stored first: after an interruption the same batch is pushed again.
    batch = uuid.uuid4()
    selected = tx.execute(CANDIDATES_TO_PUSH, {"round": project.round, "count": count}).all()
    rows = [
        {"id": uuid.uuid4(), "project": project.id, "candidate": row.id, "batch": batch}
        for row in selected
    ]
    if rows:
        tx.execute(_NEW_TASKS, rows)
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
    rows = {row.id: row for row in tx.execute(_EXISTING, {"ids": list(ids)})} if ids else {}
    return {
        rows[task.id].remote_id: (rows[task.id].batch, task)
        for task in _read(tx, rows.values(), layer_url)
    }


def _read(tx: Transaction, found: Iterable[sa.Row[Any]], layer_url: LayerUrl) -> list[Task]:
    rows = {row.candidate_id: row for row in found}
    return [
        Task(
            id=rows[item.id].id,
            candidate=item.id,
            prompt=item.prompt,
            texts=item.texts,
            layers={role: layer_url(rows[item.id].id, role) for role in item.layers},
            score=float(rows[item.id].score),
            columns=_columns(rows[item.id], item, layer_url),
            overlap=rows[item.id].overlap,
            note=_refusal_note(rows[item.id].refusals or ()),
        )
        for item in read_items(tx, list(rows))
    ]


def _columns(row: sa.Row[Any], item: ReviewItem, layer_url: LayerUrl) -> dict[str, str | float]:
    """Return further columns to show and sort by: thumbnail, round, checkpoint and signals."""
    main = next(
        (role for role in (LayerRole.blended, LayerRole.foreground) if role in item.layers), None
    )
    columns: dict[str, str | float] = {"round": row.round_id, "checkpoint": row.checkpoint or ""}
    if main is not None:
        url = layer_url(row.id, main)
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
    values = {
        "project": project.id,
        "remote_id": result.project_remote_id,
        "remote_created_at": result.created_at,
        "error": result.error or None,
    }
    tx.execute(_RECORD_PUSHED, values)
    if result.task_remote_ids:
        pushed = [
            {"task": id_, "remote_id": remote_id}
            for id_, remote_id in result.task_remote_ids.items()
        ]
        tx.execute(_RECORD_OPEN, pushed)
    if result.refused:
        refused = [{"task": id_, "reason": reason} for id_, reason in result.refused.items()]
        tx.execute(_RECORD_REFUSED, refused)


def refusals_to_show(tx: Transaction, project: Project, count: int) -> list[uuid.UUID]:
    """Return up to `count` tasks with a refused annotation that they do not show as refused yet."""
    return [
        row.id for row in tx.execute(_REFUSALS_TO_SHOW, {"project": project.id, "count": count})
    ]


def record_refusals_shown(tx: Transaction, ids: Collection[uuid.UUID]) -> None:
    """Record that tasks show their refused annotations."""
    tx.execute(_RECORD_REFUSALS_SHOWN, {"ids": list(ids)})


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
    tx.execute(_RESERVE, {"project": project.id, "count": count, "seconds": RESERVED_SECONDS})


def recent_annotators(tx: Transaction, project: Project) -> set[str]:
    """Return the users who annotated tasks of a project within the last minutes."""
    return {
        row.email
        for row in tx.execute(
            _RECENT_ANNOTATORS, {"project": project.id, "seconds": ACTIVE_USER_SECONDS}
        )
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

_INTERRUPTED = sql_with_ids(
    "select batch from labeling_tasks where project_id = :project and state = 'sending' limit 1"
)

# The pause since the last import is over, or few tasks are open.
_MAY_PUSH = sql_with_ids("""
    select pushed_at is null or pushed_at < now() - make_interval(secs => :pause)
        or (select count(*) from labeling_tasks t
            where t.project_id = p.id and t.state = 'open') < :min_open_tasks
    from labeling_projects p where id = :project""")

_NEW_TASKS = sql_with_ids(f"""
    insert into labeling_tasks (id, project_id, candidate_id, state, batch, score)
    select :id, :project, c.id, 'sending', :batch, {_SCORE}
    from candidates c left join screenings s on s.candidate_id = c.id where c.id = :candidate""")


# An annotation that does not count requires an additional user.
_TASK_CONTENT = f"""
    select t.id, t.candidate_id, t.batch, t.remote_id, c.round_id,
        left(r.checkpoint_id, 8) as checkpoint,
        coalesce(t.score, {_SCORE}) as score, refusals.messages as refusals,
        case when refusals.undecided > 0 and c.state in ('waiting', 'showing')
            then {OVERLAP_SQL} + refusals.undecided end as overlap
    from labeling_tasks t join candidates c on c.id = t.candidate_id
    join rounds r on r.id = c.round_id
    left join screenings s on s.candidate_id = c.id
    cross join lateral (
        select array_agg(a.email || ': ' || a.refused order by a.content_updated_at) as messages,
            count(*) filter (where a.decision_id is null) as undecided
        from labeling_annotations a
        where a.task_id = t.id and a.refused is not null and not a.deleted) refusals"""

_BATCH = sql_with_ids(f"{_TASK_CONTENT} where t.batch = :batch and t.state = 'sending'")

_EXISTING = sql_with_ids(
    f"{_TASK_CONTENT} where t.id = any(:ids) and t.state in ('open', 'annotated')"
)

_RECORD_PUSHED = sql_with_ids("""
    update labeling_projects
    set remote_id = :remote_id, remote_created_at = :remote_created_at, error = :error,
        pushed_at = now()
    where id = :project""")

_RECORD_REFUSED = sql_with_ids("""
    update labeling_tasks set state = 'refused', refused = :reason
    where id = :task and state = 'sending'""")

_RECORD_OPEN = sql_with_ids("""
    update labeling_tasks set state = 'open', remote_id = :remote_id
    where id = :task and state = 'sending'""")


_REFUSALS_TO_SHOW = sql_with_ids("""
    select t.id from labeling_tasks t
    where t.project_id = :project and t.state in ('open', 'annotated') and exists (
        select from labeling_annotations a
        where a.task_id = t.id and a.refused is not null and not a.deleted and not a.refusal_shown)
    limit :count""")

_RECORD_REFUSALS_SHOWN = sql_with_ids("""
    update labeling_annotations set refusal_shown = true
    where task_id = any(:ids) and refused is not null""")

_LIST_REFUSALS = sql_with_ids("""
    select c.round_id as round, p.remote_id as project, t.remote_id as task,
        a.remote_id as annotation, a.email as user, a.content ->> 'verdict' as verdict,
        a.refused as reason, a.content_updated_at as updated_at
    from labeling_annotations a join labeling_tasks t on t.id = a.task_id
    join labeling_projects p on p.id = t.project_id
    join candidates c on c.id = t.candidate_id
    where a.refused is not null and not a.deleted
        and (cast(:round as integer) is null or c.round_id = :round)
    order by a.content_updated_at desc, a.id desc""")

# At most half of the open tasks, so that the review page has candidates until the end of a round.
_RESERVE = sql_with_ids("""
    with open as materialized (
        select t.id, row_number() over (order by t.score nulls last, t.remote_id) as rank,
            count(*) over () as total
        from labeling_tasks t join candidates c on c.id = t.candidate_id
        where t.project_id = :project and t.state = 'open' and c.state = 'waiting')
    update labeling_tasks set reserved_until = now() + make_interval(secs => :seconds)
    from open where open.id = labeling_tasks.id and open.rank <= least(:count, open.total / 2)""")

_RECENT_ANNOTATORS = sql_with_ids("""
    select distinct a.email from labeling_annotations a join labeling_tasks t on t.id = a.task_id
    where t.project_id = :project and a.created_at > now() - make_interval(secs => :seconds)
        and a.email <> ''""")
