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
from curation.labeling import annotations as answers
from curation.labeling import projects, task_states
from curation.labeling.port import Project, RemoteTask
from curation.labeling.sync import LabelingSync, is_restored


@dataclass(frozen=True)
class SyncDifference:
    """A difference between this instance and Label Studio.

    Attributes:
        kind: Kind of the difference, such as "missing" or "forgotten".
        round: The round.
        candidate: The candidate, if it concerns one.
        number: ID in Label Studio of the task or project.
        told: Description of the difference.
        mendable: Whether `mend` can repair it.
    """

    kind: str
    round: int
    candidate: uuid.UUID | None
    number: int | None
    told: str
    mendable: bool = True


def compare(sync: LabelingSync, number: int | None = None) -> list[SyncDifference]:
    """Compare all tasks and annotations with Label Studio, without changing anything.

    Args:
        sync: The synchronization with Label Studio.
        number: The round; None for all rounds.

    Raises:
        Unreachable: Label Studio does not respond.
    """
    found: list[SyncDifference] = []
    with sync.database.transaction() as tx:
        made = projects.created_projects(tx, sync.backend.address, number)
        open_projects = projects.open_projects(tx, sync.backend.address, number)
        open_ids = {project.id for project in open_projects}
    # Compare project by project.
    for project in made:
        try:
            reading = sync.backend.collect(project, None, repair=False)
            seen = list(reading.seen)
        except NotFound:
            if project.id in open_ids:
                text = f"project {project.number} of round {project.round} does not exist any more"
                found.append(SyncDifference("board", project.round, None, project.number, text))
            continue
        if reading.trouble:
            # If the repair was refused before, a person has to enable it in Label Studio.
            repairable = not project.trouble
            found.append(
                SyncDifference(
                    "board", project.round, None, project.number, reading.trouble, repairable
                )
            )
        restored = is_restored(project, reading)
        with sync.database.transaction(repeatable_read=True) as tx:
            found += _differences(tx, sync, project, seen, restored=restored)
    # Report unknown projects and candidates without a task.
    found += _elsewhere(sync, number)
    with sync.database.transaction() as tx:
        for round_id, count in task_states.count_without_task(tx, number).items():
            text = f"{count} waiting candidates of round {round_id} have no task"
            found.append(SyncDifference("waiting", round_id, None, None, text))
    return found


def repair(sync: LabelingSync, number: int | None = None) -> None:
    """Repair the differences that a rule covers; existing decisions always stand.

    Differences that need a person (refused annotations, tasks of others) are left unchanged.

    Args:
        sync: The synchronization with Label Studio.
        number: The round; None for all rounds.

    Raises:
        Unreachable: Label Studio does not respond.
    """
    differences = compare(sync, number)
    # Pull all annotations, also from projects that are unknown here.
    _pull_elsewhere(sync, number)
    sync.collect(number, everything=True)
    with sync.database.transaction() as tx:
        made = projects.created_projects(tx, sync.backend.address, number)
    # Remove tasks whose annotations Label Studio lost, so that they are not annotated again.
    forgotten = {
        difference.candidate: difference.number
        for difference in differences
        if difference.kind == "forgotten"
    }
    for project in made:
        with sync.database.transaction() as tx:
            rows = tx.execute(_POSTINGS, {"board": project.id}).all()
        to_remove = {
            row.id: [row.number]
            for row in rows
            if forgotten.get(row.candidate_id, -1) == row.number
        }
        if to_remove:
            sync.backend.take_down(project, to_remove)
            with sync.database.transaction() as tx:
                task_states.record_removed(tx, to_remove)
    # Push and remove tasks of all rounds concerned.
    affected = {difference.round for difference in differences}
    affected |= {project.round for project in made}
    for round_id in sorted(affected):
        sync.put_up(round_id)


def _elsewhere(exchange: LabelingSync, number: int | None) -> Iterator[SyncDifference]:
    """Yield unknown projects that hold tasks of this instance, with their unknown annotations."""
    for other in exchange.backend.find_unknown_projects(_known(exchange)):
        seen = list(other.seen)
        with exchange.database.transaction() as tx:
            rounds = {row.id: row.round_id for row in tx.execute(_ROUNDS, {"ids": _ids(seen)})}
            if not rounds or (number is not None and number not in rounds.values()):
                continue
            unpulled = sum(_is_unpulled(tx, task) for task in seen if task.task_id in rounds)
        text = f"project {other.number} ({other.title}) holds {len(rounds)} of our tasks and is none of our projects"
        first_round = min(rounds.values())
        if unpulled:
            text = f"{text}; {unpulled} of them have annotations that are not known here"
        yield SyncDifference(
            "elsewhere", first_round, None, other.number, text, mendable=bool(unpulled)
        )


def _pull_elsewhere(exchange: LabelingSync, number: int | None) -> None:
    """Pull annotations from unknown projects, without changing these."""
    for other in exchange.backend.find_unknown_projects(_known(exchange)):
        seen = [task for task in other.seen if task.task_id is not None and task.annotations]
        with exchange.database.transaction() as tx:
            rounds = {row.id: row.round_id for row in tx.execute(_ROUNDS, {"ids": _ids(seen)})}
        for task in seen:
            if task.task_id in rounds and number in {None, rounds[task.task_id]}:
                with exchange.database.transaction() as tx:
                    answers.apply_annotations(tx, task)


def _known(exchange: LabelingSync) -> list[tuple[int, datetime | None]]:
    """Return number and creation time of all known projects."""
    with exchange.database.transaction() as tx:
        made = projects.created_projects(tx, exchange.backend.address)
    return [(project.number, project.made_at) for project in made if project.number is not None]


def _ids(seen: Sequence[RemoteTask]) -> list[uuid.UUID]:
    return [task.task_id for task in seen if task.task_id is not None]


def _is_unpulled(tx: Transaction, seen: RemoteTask) -> bool:
    """Return whether a task has an annotation that is new or changed."""
    rows = tx.execute(_ANSWERS_TO, {"posting": seen.task_id}).all()
    return any(
        answers.is_new(answers.find_row(rows, annotation), annotation)
        for annotation in seen.annotations
    )


def _differences(
    tx: Transaction,
    exchange: LabelingSync,
    project: Project,
    seen: Sequence[RemoteTask],
    *,
    restored: bool,
) -> Iterator[SyncDifference]:
    """Yield the differences of one project, given all its tasks in Label Studio."""
    every = {row.id: row for row in tx.execute(_POSTINGS, {"board": project.id})}
    rows = {id_: row for id_, row in every.items() if row.state != "down"}
    known: dict[uuid.UUID, list[sa.Row[Any]]] = {}
    for stored in tx.execute(_ANSWERS, {"board": project.id}):
        known.setdefault(stored.task_id, []).append(stored)
    # Compare each task in Label Studio with its row; of several copies, the first counts.
    present: dict[uuid.UUID, RemoteTask] = {}
    for task in sorted(seen, key=lambda remote: remote.number):
        row = rows.get(task.task_id) if task.task_id else None
        if row is None and task.task_id in every:
            removed = every[task.task_id]
            text = f"task {task.number} was removed and exists again"
            yield _difference(project, removed, "returned", text)
            annotations = known.get(removed.id, ())
            yield from _annotation_differences(project, removed, task, annotations, restored=True)
        elif row is None:
            text = f"task {task.number} was not created by this instance"
            yield SyncDifference("foreign", project.round, None, task.number, text, mendable=False)
        elif row.id in present or row.number not in {None, task.number}:
            text = f"there are two tasks of it, {row.number} and {task.number}"
            yield _difference(project, row, "copy", text)
        else:
            present[row.id] = task
            if exchange.is_stale(task):
                text = "its task shows layers from a former URL of this instance"
                yield _difference(project, row, "stale", text)
            annotations = known.get(row.id, ())
            yield from _annotation_differences(project, row, task, annotations, restored=restored)
    # Report tasks that are missing there, and those that should be removed.
    unwanted = task_states.unwanted_tasks(tx, project)
    for row in rows.values():
        if row.id not in present and row.number is not None:
            text = "its task does not exist any more; decisions stand, and a waiting candidate is pushed again"
            yield _difference(project, row, "missing", text)
        elif row.id in unwanted:
            text = f"it is {row.candidate_state} here and its task is still open"
            yield _difference(project, row, "open", text)
    # Report annotations without a decision.
    for stored in (row for several in known.values() for row in several if not row.gone):
        row = every[stored.task_id]
        if stored.refused:
            text = f"{stored.person} submitted {stored.said['verdict']}, refused: {stored.refused}"
            yield _difference(project, row, "refused", text, repairable=False)
        elif stored.decision_id is None:
            text = "its annotation waits until no reviewer has claimed it here"
            yield _difference(project, row, "pending", text, repairable=False)


def _annotation_differences(
    project: Project,
    row: sa.Row[Any],
    seen: RemoteTask,
    known: Sequence[sa.Row[Any]],
    *,
    restored: bool,
) -> Iterator[SyncDifference]:
    """Yield annotations that are unknown here, and stored ones that Label Studio does not have."""
    found = set()
    for annotation in seen.annotations:
        stored = answers.find_row(known, annotation)
        if stored is not None:
            found.add(stored.id)
        if answers.is_new(stored, annotation):
            verdict = annotation.verdict or "something else"
            text = f"{annotation.person} submitted {verdict} there"
            yield _difference(project, row, "unheard", text)
        elif (
            stored is not None
            and row.state != "down"
            and (stored.gone or stored.said != answers.annotation_content(annotation))
        ):
            text = f"Label Studio shows an annotation that {stored.author} changed or deleted since"
            yield _difference(project, row, "forgotten", text)
    # A stored annotation is missing there because a user deleted it, or a backup was restored.
    for stored in known:
        if stored.id in found or stored.gone or stored.decision_id is None or row.state == "down":
            continue
        if not answers.belongs_to_copy(stored, row, seen):
            continue
        older = row.seen_at is not None and seen.at <= row.seen_at
        if (
            restored
            or older
            or stored.forgotten
            or any(annotation.number == stored.number for annotation in seen.annotations)
        ):
            text = f"Label Studio lost the annotation of {stored.person}, as after a restored backup; the decision stands"
            yield _difference(project, row, "forgotten", text)
        else:
            yield _difference(
                project, row, "unheard", f"{stored.person} deleted an annotation there"
            )


def _difference(
    project: Project, row: sa.Row[Any], kind: str, text: str, *, repairable: bool = True
) -> SyncDifference:
    """Return the difference of one candidate's task."""
    text = f"candidate {row.candidate_id}: {text}"
    return SyncDifference(kind, project.round, row.candidate_id, row.number, text, repairable)


_POSTINGS = sa.text("""
    select p.id, p.candidate_id, p.number, p.seen_at, p.state, c.state as candidate_state
    from labeling_tasks p join candidates c on c.id = p.candidate_id
    where p.project_id = :board order by p.number""")

_ANSWERS = sa.text("""
    select a.* from labeling_annotations a join labeling_tasks p on p.id = a.task_id
    where p.project_id = :board order by a.said_at, a.number""")

_ANSWERS_TO = sa.text("select * from labeling_annotations where task_id = :posting")

_ROUNDS = sa.text("""
    select p.id, b.round_id from labeling_tasks p join labeling_projects b on b.id = p.project_id
    where p.id = any(:ids)""").bindparams(sa.bindparam("ids", type_=ARRAY(UUID)))
