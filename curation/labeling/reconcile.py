"""Differences between Label Studio and this instance: report and repair."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, UUID

from curation.db.engine import Transaction
from curation.errors import NotFound
from curation.labeling import annotation_rows, projects, task_states
from curation.labeling.annotations import apply_annotations
from curation.labeling.differences import TASKS_OF_PROJECT, SyncDifference, find_differences
from curation.labeling.port import RemoteTask
from curation.labeling.sync import LabelingSync, is_restored


def compare(sync: LabelingSync, round_id: int | None = None) -> list[SyncDifference]:
    """Compare all tasks and annotations with Label Studio, without changing anything.

    Args:
        sync: The synchronization with Label Studio.
        round_id: The round; None for all rounds.

    Raises:
        Unreachable: Label Studio does not respond.
    """
    found: list[SyncDifference] = []
    with sync.database.transaction() as tx:
        created = projects.created_projects(tx, sync.backend.url, round_id)
        open_projects = projects.open_projects(tx, sync.backend.url, round_id)
        open_ids = {project.id for project in open_projects}
    # Compare project by project.
    for project in created:
        try:
            reading = sync.backend.pull(project, None, repair=False)
            remote_tasks = list(reading.tasks)
        except NotFound:
            if project.id in open_ids:
                text = (
                    f"project {project.remote_id} of round {project.round} does not exist any more"
                )
                found.append(
                    SyncDifference("project", project.round, None, project.remote_id, text)
                )
            continue
        if reading.error:
            # If the repair was refused before, a person has to enable it in Label Studio.
            repairable = not project.error
            found.append(
                SyncDifference(
                    "project", project.round, None, project.remote_id, reading.error, repairable
                )
            )
        restored = is_restored(project, reading)
        with sync.database.transaction(repeatable_read=True) as tx:
            found += find_differences(tx, sync, project, remote_tasks, restored=restored)
    # Report unknown projects and candidates without a task.
    found += _find_unknown(sync, round_id)
    with sync.database.transaction() as tx:
        for other_id, count in task_states.count_without_task(tx, round_id).items():
            text = f"{count} waiting candidates of round {other_id} have no task"
            found.append(SyncDifference("unpushed", other_id, None, None, text))
    return found


def repair(sync: LabelingSync, round_id: int | None = None) -> None:
    """Repair the differences that a rule covers; existing decisions always stand.

    Differences that need a person (refused annotations, tasks of others) are left unchanged.

    Args:
        sync: The synchronization with Label Studio.
        round_id: The round; None for all rounds.

    Raises:
        Unreachable: Label Studio does not respond.
    """
    differences = compare(sync, round_id)
    # Pull all annotations, also from projects that are unknown here.
    _pull_unknown(sync, round_id)
    sync.pull(round_id, everything=True)
    with sync.database.transaction() as tx:
        created = projects.created_projects(tx, sync.backend.url, round_id)
    # Remove tasks whose annotations Label Studio lost, so that they are not annotated again.
    lost = {
        difference.candidate: difference.remote_id
        for difference in differences
        if difference.kind == "lost"
    }
    for project in created:
        with sync.database.transaction() as tx:
            rows = tx.execute(TASKS_OF_PROJECT, {"project": project.id}).all()
        to_remove = {
            row.id: [row.remote_id]
            for row in rows
            if lost.get(row.candidate_id, -1) == row.remote_id
        }
        if to_remove:
            sync.backend.remove(project, to_remove)
            with sync.database.transaction() as tx:
                task_states.record_removed(tx, to_remove)
    # Push and remove tasks of all rounds concerned.
    affected = {difference.round for difference in differences}
    affected |= {project.round for project in created}
    for affected_id in sorted(affected):
        sync.push(affected_id)


def _find_unknown(sync: LabelingSync, round_id: int | None) -> Iterator[SyncDifference]:
    """Yield unknown projects that hold tasks of this instance, with their unknown annotations."""
    for other in sync.backend.find_unknown_projects(_known(sync)):
        found_tasks = list(other.tasks)
        with sync.database.transaction() as tx:
            rounds = {
                row.id: row.round_id for row in tx.execute(_ROUNDS, {"ids": _ids(found_tasks)})
            }
            if not rounds or (round_id is not None and round_id not in rounds.values()):
                continue
            unpulled = sum(_is_unpulled(tx, task) for task in found_tasks if task.task_id in rounds)
        text = (
            f"project {other.remote_id} ({other.title}) holds {len(rounds)} of our tasks "
            "and is not one of our projects"
        )
        first_round = min(rounds.values())
        if unpulled:
            text = f"{text}; {unpulled} of them have annotations that are not known here"
        yield SyncDifference(
            "unknown_project", first_round, None, other.remote_id, text, repairable=bool(unpulled)
        )


def _pull_unknown(sync: LabelingSync, round_id: int | None) -> None:
    """Pull annotations from unknown projects, without changing these."""
    for other in sync.backend.find_unknown_projects(_known(sync)):
        found_tasks = [
            task for task in other.tasks if task.task_id is not None and task.annotations
        ]
        with sync.database.transaction() as tx:
            rounds = {
                row.id: row.round_id for row in tx.execute(_ROUNDS, {"ids": _ids(found_tasks)})
            }
        for task in found_tasks:
            if task.task_id in rounds and round_id in {None, rounds[task.task_id]}:
                with sync.database.transaction() as tx:
                    apply_annotations(tx, task)


def _known(sync: LabelingSync) -> list[tuple[int, datetime | None]]:
    """Return ID and creation time of all known projects."""
    with sync.database.transaction() as tx:
        created = projects.created_projects(tx, sync.backend.url)
    return [
        (project.remote_id, project.created_at)
        for project in created
        if project.remote_id is not None
    ]


def _ids(remote_tasks: Sequence[RemoteTask]) -> list[uuid.UUID]:
    return [task.task_id for task in remote_tasks if task.task_id is not None]


def _is_unpulled(tx: Transaction, remote_task: RemoteTask) -> bool:
    """Return whether a task has an annotation that is new or changed."""
    rows = tx.execute(_ANNOTATIONS_OF, {"task": remote_task.task_id}).all()
    return any(
        annotation_rows.is_new(annotation_rows.find_row(rows, annotation), annotation)
        for annotation in remote_task.annotations
    )


_ANNOTATIONS_OF = sa.text("select * from labeling_annotations where task_id = :task")

_ROUNDS = sa.text("""
    select t.id, p.round_id from labeling_tasks t join labeling_projects p on p.id = t.project_id
    where t.id = any(:ids)""").bindparams(sa.bindparam("ids", type_=ARRAY(UUID)))
