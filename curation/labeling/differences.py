"""Differences between the tasks of an instance and those in Label Studio."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from curation.db.engine import Transaction
from curation.labeling import annotation_rows, task_states
from curation.labeling.port import Project, RemoteTask
from curation.labeling.sync import LabelingSync


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


def find_differences(
    tx: Transaction,
    sync: LabelingSync,
    project: Project,
    remote_tasks: Sequence[RemoteTask],
    *,
    restored: bool,
) -> Iterator[SyncDifference]:
    """Yield the differences of one project, given all its tasks in Label Studio."""
    all_rows = {row.id: row for row in tx.execute(TASKS_OF_PROJECT, {"project": project.id})}
    rows = {id_: row for id_, row in all_rows.items() if row.state != "removed"}
    known: dict[uuid.UUID, list[sa.Row[Any]]] = {}
    for stored in tx.execute(_ANNOTATIONS, {"project": project.id}):
        known.setdefault(stored.task_id, []).append(stored)
    # Compare each task in Label Studio with its row; further copies are duplicates.
    present: dict[uuid.UUID, RemoteTask] = {}
    for task in sorted(remote_tasks, key=lambda remote: remote.remote_id):
        row = rows.get(task.task_id) if task.task_id else None
        if row is None and task.task_id in all_rows:
            removed = all_rows[task.task_id]
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
    for stored in (row for group in known.values() for row in group if not row.deleted):
        row = all_rows[stored.task_id]
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


TASKS_OF_PROJECT = sa.text("""
    select t.id, t.candidate_id, t.remote_id, t.remote_updated_at, t.state,
        c.state as candidate_state
    from labeling_tasks t join candidates c on c.id = t.candidate_id
    where t.project_id = :project order by t.remote_id""")

_ANNOTATIONS = sa.text("""
    select a.* from labeling_annotations a join labeling_tasks t on t.id = a.task_id
    where t.project_id = :project order by a.content_updated_at, a.remote_id""")
