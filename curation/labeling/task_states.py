"""States of Label Studio tasks: which exist, which to remove, and which are lost."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

from curation.db.engine import Transaction
from curation.labeling.conditions import OPEN_TASKS_SQL, ROUND_IS_PUSHED_SQL, TASK_IS_UNWANTED_SQL
from curation.labeling.port import Project, RemoteTask
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
        row.id: (row.remote_id, row.remote_updated_at)
        for row in tx.execute(_UNWANTED, {"project": project.id})
    }


def forgotten_tasks(tx: Transaction, project: Project) -> dict[uuid.UUID, list[int]]:
    """Return tasks that a restored backup set back, so that they must not be annotated again.

    Their annotations or later edits were lost, or deleted annotations exist again.

    Returns:
        By task, its IDs in Label Studio.
    """
    return {row.id: [row.remote_id] for row in tx.execute(_FORGOTTEN, {"project": project.id})}


def record_removed(tx: Transaction, task_ids: Collection[uuid.UUID]) -> None:
    """Record that tasks were removed."""
    if task_ids:
        tx.execute(_RECORD_REMOVED, {"ids": list(task_ids)})


def record_lost(tx: Transaction, project: Project, found: Collection[uuid.UUID]) -> list[uuid.UUID]:
    """Record that all tasks of a project except some no longer exist; they may be pushed again.

    Args:
        tx: The transaction.
        project: The project.
        found: IDs of the tasks that exist.

    Returns:
        IDs of the lost tasks.
    """
    lost = [row.id for row in tx.execute(_FIND_LOST, {"project": project.id, "ids": list(found)})]
    record_removed(tx, lost)
    return lost


def record_project_deleted(tx: Transaction, project: Project) -> None:
    """Record that a project was deleted, so that it is created again with its tasks."""
    record_lost(tx, project, ())
    tx.execute(_RECORD_PROJECT_DELETED, {"project": project.id})


def count_existing(tx: Transaction, project: Project) -> int:
    """Return how many tasks of a project should exist in Label Studio."""
    return int(tx.execute(_COUNT_EXISTING, {"project": project.id}).scalar_one())


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
    rows = tx.execute(_UNANNOTATED, {"project": project.id, "count": count})
    return {row.candidate_id: (row.id, row.remote_id) for row in rows}


def never_annotated(tx: Transaction, ids: Collection[uuid.UUID]) -> dict[uuid.UUID, list[int]]:
    """Return the open tasks among `ids` that never had an annotation, with their remote IDs."""
    return {row.id: [row.remote_id] for row in tx.execute(_NEVER_ANNOTATED, {"ids": list(ids)})}


def select_for_update(
    tx: Transaction, ids: Collection[uuid.UUID], max_annotated: int
) -> list[uuid.UUID]:
    """Return the open tasks among `ids`, and up to `max_annotated` of the annotated ones."""
    return [
        row.id
        for row in tx.execute(
            _SELECT_FOR_UPDATE, {"ids": list(ids), "max_annotated": max_annotated}
        )
    ]


def tasks_with_waiting_annotations(tx: Transaction, project: Project) -> list[uuid.UUID]:
    """Return tasks with an annotation that waits until a reviewer's lease ends."""
    return [row.task_id for row in tx.execute(_WAITING_ANNOTATIONS, {"project": project.id})]


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
    unannotated: list[dict[str, Any]] = []
    for task in remote_tasks:
        row = known.get(task.task_id)
        # Tasks that this instance did not create are ignored.
        if row is None:
            continue
        # Removed before, and there again.
        if row.state == "removed":
            to_remove.setdefault(row.id, []).append(task.remote_id)
            if task.annotations:
                changed.append(task)
        # Unchanged since the last read.
        elif row.remote_id == task.remote_id and row.remote_updated_at == task.updated_at:
            continue
        elif task.annotations or (row.has_annotations and row.remote_id == task.remote_id):
            changed.append(task)
        # A second copy without annotations.
        elif row.remote_id not in {None, task.remote_id}:
            to_remove.setdefault(row.id, []).append(task.remote_id)
            if row.has_annotations:
                changed.append(task)
        else:
            unannotated.append(
                {"task": row.id, "updated_at": task.updated_at, "remote_id": task.remote_id}
            )
    if unannotated:
        tx.execute(_RECORD_UNANNOTATED, unannotated)
    return changed, to_remove


def count_without_task(tx: Transaction, round_id: int | None) -> dict[int, int]:
    """Return the number of waiting candidates without a task, by round.

    Args:
        tx: The transaction.
        round_id: The round; None for all rounds.
    """
    return {row.id: row.total for row in tx.execute(_WITHOUT_TASK, {"round": round_id})}


_WITHOUT_TASK = sql_with_ids(f"""
    select r.id, count(*) as total from candidates c join rounds r on r.id = c.round_id
    where {ROUND_IS_PUSHED_SQL} and c.state = 'waiting' and not exists ({OPEN_TASKS_SQL})
        and (cast(:round as integer) is null or r.id = :round) group by r.id order by r.id""")


_UNWANTED = sql_with_ids(f"""
    select t.id, t.remote_id, t.remote_updated_at from labeling_tasks t
    join labeling_projects p on p.id = t.project_id join rounds r on r.id = p.round_id
    join candidates c on c.id = t.candidate_id
    where t.project_id = :project and {TASK_IS_UNWANTED_SQL}""")


_RECORD_REMOVED = sql_with_ids("update labeling_tasks set state = 'removed' where id = any(:ids)")


_FIND_LOST = sql_with_ids("""
    select id from labeling_tasks
    where project_id = :project and state in ('open', 'annotated') and not id = any(:ids)""")


_RECORD_PROJECT_DELETED = sql_with_ids("""
    update labeling_projects
    set remote_id = null, remote_created_at = null, read_until = null, restore_mark = 0,
        error = null
    where id = :project""")


# Decided tasks whose annotation was lost, and open ones whose deleted annotation exists again.
_FORGOTTEN = sql_with_ids("""
    select t.id, t.remote_id from labeling_tasks t join candidates c on c.id = t.candidate_id
    where t.project_id = :project and exists (
        select from labeling_annotations a where a.task_id = t.id and a.lost and (
            t.state = 'annotated' and c.state in ('accepted', 'rejected') and not a.deleted
            or t.state = 'open' and c.state = 'waiting' and a.deleted))""")


_COUNT_EXISTING = sql_with_ids("""
    select count(*) from labeling_tasks
    where project_id = :project and state in ('open', 'annotated')""")


_WAITING_ANNOTATIONS = sql_with_ids("""
    select distinct a.task_id from labeling_annotations a join labeling_tasks t on t.id = a.task_id
    where t.project_id = :project and a.decision_id is null and a.refused is null
        and not a.deleted""")


_UNANNOTATED = sql_with_ids("""
    select t.id, t.candidate_id, t.remote_id from labeling_tasks t
    where t.project_id = :project and t.state = 'open'
        and not exists (select from labeling_annotations a where a.task_id = t.id and not a.deleted)
    order by t.remote_id limit :count""")


_SELECT_FOR_UPDATE = sql_with_ids("""
    (select id from labeling_tasks where id = any(:ids) and state = 'open')
    union all (
        select id from labeling_tasks
        where id = any(:ids) and state = 'annotated' limit :max_annotated)""")


_NEVER_ANNOTATED = sql_with_ids("""
    select t.id, t.remote_id from labeling_tasks t where t.id = any(:ids) and t.state = 'open'
        and not exists (select from labeling_annotations a where a.task_id = t.id)""")


_KNOWN = sql_with_ids("""
    select t.id, t.remote_id, t.remote_updated_at, t.state,
        exists (select from labeling_annotations a where a.task_id = t.id) as has_annotations
    from labeling_tasks t where t.id = any(:ids)""")


# A task whose response was lost after it was created is recognized by its own ID.
_RECORD_UNANNOTATED = sql_with_ids("""
    update labeling_tasks
    set remote_updated_at = greatest(remote_updated_at, :updated_at), remote_id = :remote_id,
        state = case when state = 'sending' then 'open' else state end where id = :task""")
