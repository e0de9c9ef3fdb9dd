"""Differences between Label Studio and this instance: report and repair."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, UUID

from curation.db.engine import Transaction
from curation.errors import NotFound
from curation.labeling import annotation_rows, projects, task_states
from curation.labeling.annotations import apply_annotations
from curation.labeling.port import Project, RemoteTask
from curation.labeling.sync import LabelingSync, is_restored


@dataclass(frozen=True)
class SyncDifference:
    """A difference between this instance and Label Studio.

    Attributes:
        kind: Kind of the difference, such as "missing" or "lost".
        round: The round.
        candidate: The candidate, if it concerns one.
        remote_id: ID in Label Studio of the task or project.
        message: Description of the difference.
        repairable: Whether `repair` can repair it.
    """

    kind: str
    round: int
    candidate: uuid.UUID | None
    remote_id: int | None
    message: str
    repairable: bool = True


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
        made = projects.created_projects(tx, sync.backend.url, round_id)
        open_projects = projects.open_projects(tx, sync.backend.url, round_id)
        open_ids = {project.id for project in open_projects}
    # Compare project by project.
    for project in made:
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
            found += _differences(tx, sync, project, remote_tasks, restored=restored)
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
        made = projects.created_projects(tx, sync.backend.url, round_id)
    # Remove tasks whose annotations Label Studio lost, so that they are not annotated again.
    lost = {
        difference.candidate: difference.remote_id
        for difference in differences
        if difference.kind == "lost"
    }
    for project in made:
        with sync.database.transaction() as tx:
            rows = tx.execute(_TASKS, {"project": project.id}).all()
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
    affected |= {project.round for project in made}
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
        made = projects.created_projects(tx, sync.backend.url)
    return [
        (project.remote_id, project.created_at) for project in made if project.remote_id is not None
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


def _differences(
    tx: Transaction,
    sync: LabelingSync,
    project: Project,
    remote_tasks: Sequence[RemoteTask],
    *,
    restored: bool,
) -> Iterator[SyncDifference]:
    """Yield the differences of one project, given all its tasks in Label Studio."""
    every = {row.id: row for row in tx.execute(_TASKS, {"project": project.id})}
    rows = {id_: row for id_, row in every.items() if row.state != "removed"}
    known: dict[uuid.UUID, list[sa.Row[Any]]] = {}
    for stored in tx.execute(_ANNOTATIONS, {"project": project.id}):
        known.setdefault(stored.task_id, []).append(stored)
    # Compare each task in Label Studio with its row; of several copies, the first counts.
    present: dict[uuid.UUID, RemoteTask] = {}
    for task in sorted(remote_tasks, key=lambda remote: remote.remote_id):
        row = rows.get(task.task_id) if task.task_id else None
        if row is None and task.task_id in every:
            removed = every[task.task_id]
            text = f"task {task.remote_id} was removed and exists again"
            yield _difference(project, removed, "returned", text)
            stored_rows = known.get(removed.id, ())
            yield from _annotation_differences(project, removed, task, stored_rows, restored=True)
        elif row is None:
            text = f"task {task.remote_id} was not created by this instance"
            yield SyncDifference(
                "foreign", project.round, None, task.remote_id, text, repairable=False
            )
        elif row.id in present or row.remote_id not in {None, task.remote_id}:
            text = f"there are two tasks of it, {row.remote_id} and {task.remote_id}"
            yield _difference(project, row, "duplicate", text)
        else:
            present[row.id] = task
            if sync.is_stale(task):
                text = "its task shows layers from a former URL of this instance"
                yield _difference(project, row, "stale", text)
            stored_rows = known.get(row.id, ())
            yield from _annotation_differences(project, row, task, stored_rows, restored=restored)
    # Report tasks that are missing there, and those that should be removed.
    unwanted = task_states.unwanted_tasks(tx, project)
    for row in rows.values():
        if row.id not in present and row.remote_id is not None:
            text = (
                "its task does not exist any more; decisions stand, "
                "and a waiting candidate is pushed again"
            )
            yield _difference(project, row, "missing", text)
        elif row.id in unwanted:
            text = f"it is {row.candidate_state} here and its task is still open"
            yield _difference(project, row, "open", text)
    # Report annotations without a decision.
    for stored in (row for several in known.values() for row in several if not row.deleted):
        row = every[stored.task_id]
        if stored.refused:
            text = (
                f"{stored.email} submitted {stored.content['verdict']}, refused: {stored.refused}"
            )
            yield _difference(project, row, "refused", text, repairable=False)
        elif stored.decision_id is None:
            text = "its annotation waits until no reviewer has claimed it here"
            yield _difference(project, row, "pending", text, repairable=False)


def _annotation_differences(
    project: Project,
    row: sa.Row[Any],
    remote_task: RemoteTask,
    known: Sequence[sa.Row[Any]],
    *,
    restored: bool,
) -> Iterator[SyncDifference]:
    """Yield annotations that are unknown here, and stored ones that Label Studio does not have."""
    found = set()
    for annotation in remote_task.annotations:
        stored = annotation_rows.find_row(known, annotation)
        if stored is not None:
            found.add(stored.id)
        if annotation_rows.is_new(stored, annotation):
            verdict = annotation.verdict or "something else"
            text = f"{annotation.user} submitted {verdict} there"
            yield _difference(project, row, "unpulled", text)
        elif (
            stored is not None
            and row.state != "removed"
            and (stored.deleted or stored.content != annotation_rows.annotation_content(annotation))
        ):
            text = f"Label Studio shows an annotation that {stored.author} changed or deleted since"
            yield _difference(project, row, "lost", text)
    # A stored annotation is missing there because a user deleted it, or a backup was restored.
    for stored in known:
        if (
            stored.id in found
            or stored.deleted
            or stored.decision_id is None
            or row.state == "removed"
        ):
            continue
        if not annotation_rows.belongs_to_copy(stored, row, remote_task):
            continue
        older = (
            row.remote_updated_at is not None and remote_task.updated_at <= row.remote_updated_at
        )
        if (
            restored
            or older
            or stored.lost
            or any(
                annotation.remote_id == stored.remote_id for annotation in remote_task.annotations
            )
        ):
            text = (
                f"Label Studio lost the annotation of {stored.email}, as after a restored backup; "
                "the decision stands"
            )
            yield _difference(project, row, "lost", text)
        else:
            yield _difference(
                project, row, "unpulled", f"{stored.email} deleted an annotation there"
            )


def _difference(
    project: Project, row: sa.Row[Any], kind: str, text: str, *, repairable: bool = True
) -> SyncDifference:
    """Return the difference of one candidate's task."""
    text = f"candidate {row.candidate_id}: {text}"
    return SyncDifference(kind, project.round, row.candidate_id, row.remote_id, text, repairable)


_TASKS = sa.text("""
    select t.id, t.candidate_id, t.remote_id, t.remote_updated_at, t.state,
        c.state as candidate_state
    from labeling_tasks t join candidates c on c.id = t.candidate_id
    where t.project_id = :project order by t.remote_id""")

_ANNOTATIONS = sa.text("""
    select a.* from labeling_annotations a join labeling_tasks t on t.id = a.task_id
    where t.project_id = :project order by a.content_updated_at, a.remote_id""")

_ANNOTATIONS_OF = sa.text("select * from labeling_annotations where task_id = :task")

_ROUNDS = sa.text("""
    select t.id, p.round_id from labeling_tasks t join labeling_projects p on p.id = t.project_id
    where t.id = any(:ids)""").bindparams(sa.bindparam("ids", type_=ARRAY(UUID)))
