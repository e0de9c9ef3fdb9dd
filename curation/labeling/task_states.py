"""States of Label Studio tasks: which exist, which to remove, and which are lost."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

from curation.db.engine import Transaction
from curation.labeling.port import Project, RemoteTask
from curation.labeling.projects import OPEN_TASKS_SQL, ROUND_IS_PUSHED_SQL, TASK_IS_UNWANTED_SQL
from curation.labeling.tasks import sql_with_ids


def unwanted_tasks(
    tx: Transaction, project: Project
) -> dict[uuid.UUID, tuple[int, datetime | None]]:
    """Return the tasks of a project that have to be removed.

    Their candidates were decided elsewhere, are claimed on the review page, were withdrawn, or
    belong to a round that is paused or switched to the review page.

    Returns:
        By task, its ID in Label Studio and when it was last read.
    """
    return {
        row.id: (row.number, row.seen_at) for row in tx.execute(_UNWANTED, {"board": project.id})
    }


def forgotten_tasks(tx: Transaction, project: Project) -> dict[uuid.UUID, list[int]]:
    """Return tasks that a restored backup set back, so that they must not be annotated again.

    Their annotations or later edits were lost, or deleted annotations exist again.

    Returns:
        By task, its IDs in Label Studio.
    """
    return {row.id: [row.number] for row in tx.execute(_FORGOTTEN, {"board": project.id})}


def record_removed(tx: Transaction, task_ids: Collection[uuid.UUID]) -> None:
    """Record that tasks were removed."""
    if task_ids:
        tx.execute(_DOWN, {"ids": list(task_ids)})


def record_lost(tx: Transaction, project: Project, found: Collection[uuid.UUID]) -> list[uuid.UUID]:
    """Record that all tasks of a project except some no longer exist; they may be pushed again.

    Args:
        tx: The transaction.
        project: The project.
        found: IDs of the tasks that exist.

    Returns:
        IDs of the lost tasks.
    """
    lost = [row.id for row in tx.execute(_LOST, {"board": project.id, "ids": list(found)})]
    record_removed(tx, lost)
    return lost


def record_project_deleted(tx: Transaction, project: Project) -> None:
    """Record that a project was deleted, so that it is created again with its tasks."""
    record_lost(tx, project, ())
    tx.execute(_FORGET, {"board": project.id})


def count_existing(tx: Transaction, project: Project) -> int:
    """Return how many tasks of a project should exist in Label Studio."""
    return int(tx.execute(_COUNT_PLACED, {"board": project.id}).scalar_one())


def unannotated_candidates(
    tx: Transaction, project: Project, count: int
) -> dict[uuid.UUID, tuple[uuid.UUID, int]]:
    """Return open tasks without annotations.

    Args:
        tx: The transaction.
        project: The project.
        count: Largest number of tasks.

    Returns:
        By candidate, the ID of its task here and in Label Studio.
    """
    rows = tx.execute(_UNANSWERED, {"board": project.id, "count": count})
    return {row.candidate_id: (row.id, row.number) for row in rows}


def never_annotated(tx: Transaction, ids: Collection[uuid.UUID]) -> dict[uuid.UUID, list[int]]:
    """Return the open tasks among `ids` that never had an annotation, with their remote IDs."""
    return {row.id: [row.number] for row in tx.execute(_SILENT_ONES, {"ids": list(ids)})}


def select_for_update(
    tx: Transaction, ids: Collection[uuid.UUID], answered: int
) -> list[uuid.UUID]:
    """Return the open tasks among `ids`, and up to `answered` of the annotated ones."""
    return [row.id for row in tx.execute(_OPEN_FIRST, {"ids": list(ids), "answered": answered})]


def tasks_with_waiting_annotations(tx: Transaction, project: Project) -> list[uuid.UUID]:
    """Return tasks with an annotation that waits until a reviewer's lease ends."""
    return [row.task_id for row in tx.execute(_WAITING_ANSWERS, {"board": project.id})]


def classify_read_tasks(
    tx: Transaction, remote_tasks: Sequence[RemoteTask]
) -> tuple[list[RemoteTask], dict[uuid.UUID, list[int]]]:
    """Sort tasks that were read into those with changes and those to remove.

    Removed are second copies without annotations, and tasks that exist again after they were
    removed, as after a restored backup. For an unchanged task without annotations only the time of
    its last change is recorded.

    Args:
        tx: The transaction.
        remote_tasks: Tasks as read from Label Studio.

    Returns:
        The tasks that may have new annotations, and by task the remote IDs to remove.
    """
    ids = [task.task_id for task in remote_tasks if task.task_id is not None]
    known = {row.id: row for row in tx.execute(_KNOWN, {"ids": ids})} if ids else {}
    changed: list[RemoteTask] = []
    to_remove: dict[uuid.UUID, list[int]] = {}
    silent: list[dict[str, Any]] = []
    for task in remote_tasks:
        row = known.get(task.task_id)
        # Tasks that this instance did not create are ignored.
        if row is None:
            continue
        # Removed before, and there again.
        if row.state == "down":
            to_remove.setdefault(row.id, []).append(task.number)
            if task.annotations:
                changed.append(task)
        # Unchanged since the last read.
        elif row.number == task.number and row.seen_at == task.at:
            continue
        elif task.annotations or (row.answered and row.number == task.number):
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


def count_without_task(tx: Transaction, round_id: int | None) -> dict[int, int]:
    """Return the number of waiting candidates without a task, by round.

    Args:
        tx: The transaction.
        round_id: The round; None for all rounds.
    """
    return {row.id: row.number for row in tx.execute(_NOT_UP, {"round": round_id})}


_NOT_UP = sql_with_ids(f"""
    select r.id, count(*) as number from candidates c join rounds r on r.id = c.round_id
    where {ROUND_IS_PUSHED_SQL} and c.state = 'waiting' and not exists ({OPEN_TASKS_SQL})
        and (cast(:round as integer) is null or r.id = :round) group by r.id order by r.id""")


_UNWANTED = sql_with_ids(f"""
    select p.id, p.number, p.seen_at from labeling_tasks p
    join labeling_projects b on b.id = p.project_id join rounds r on r.id = b.round_id
    join candidates c on c.id = p.candidate_id
    where p.project_id = :board and {TASK_IS_UNWANTED_SQL}""")


_DOWN = sql_with_ids("update labeling_tasks set state = 'down' where id = any(:ids)")


_LOST = sql_with_ids("""
    select id from labeling_tasks
    where project_id = :board and state in ('up', 'answered') and not id = any(:ids)""")


_FORGET = sql_with_ids("""
    update labeling_projects
    set number = null, made_at = null, read_until = null, mark = 0, trouble = null
    where id = :board""")


# Decided tasks whose annotation was lost, and open ones whose deleted annotation exists again.
_FORGOTTEN = sql_with_ids("""
    select p.id, p.number from labeling_tasks p join candidates c on c.id = p.candidate_id
    where p.project_id = :board and exists (
        select from labeling_annotations a where a.task_id = p.id and a.forgotten and (
            p.state = 'answered' and c.state in ('accepted', 'rejected') and not a.gone
            or p.state = 'up' and c.state = 'waiting' and a.gone))""")


_COUNT_PLACED = sql_with_ids("""
    select count(*) from labeling_tasks where project_id = :board and state in ('up', 'answered')""")


_WAITING_ANSWERS = sql_with_ids("""
    select distinct a.task_id from labeling_annotations a join labeling_tasks p on p.id = a.task_id
    where p.project_id = :board and a.decision_id is null and a.refused is null and not a.gone""")


_UNANSWERED = sql_with_ids("""
    select p.id, p.candidate_id, p.number from labeling_tasks p
    where p.project_id = :board and p.state = 'up'
        and not exists (select from labeling_annotations a where a.task_id = p.id and not a.gone)
    order by p.number limit :count""")


_OPEN_FIRST = sql_with_ids("""
    (select id from labeling_tasks where id = any(:ids) and state = 'up')
    union all (
        select id from labeling_tasks
        where id = any(:ids) and state = 'answered' limit :answered)""")


_SILENT_ONES = sql_with_ids("""
    select p.id, p.number from labeling_tasks p where p.id = any(:ids) and p.state = 'up'
        and not exists (select from labeling_annotations a where a.task_id = p.id)""")


_KNOWN = sql_with_ids("""
    select p.id, p.number, p.seen_at, p.state,
        exists (select from labeling_annotations a where a.task_id = p.id) as answered
    from labeling_tasks p where p.id = any(:ids)""")


# A task whose response was lost after it was created is recognized by its own ID.
_SILENT = sql_with_ids("""
    update labeling_tasks set seen_at = greatest(seen_at, :at), number = :number,
        state = case when state = 'sending' then 'up' else state end where id = :posting""")
