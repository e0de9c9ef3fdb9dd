"""Synchronization with Label Studio: push tasks and pull annotations, resumably."""

from __future__ import annotations

import logging
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import TypeVar

from curation.db.engine import Database
from curation.domain import JobName
from curation.errors import NotFound, Refused
from curation.labeling import project_locks, project_reads, projects, task_states, tasks, users
from curation.labeling.annotations import apply_annotations, retry_waiting
from curation.labeling.port import LabelingBackend, Project, ProjectReading, RemoteTask

log = logging.getLogger("layerloop.labeling")

Counted = TypeVar("Counted")

PULL_CHUNK = 500
"""Tasks that are processed together when pulling."""

PUSH_CHUNK = 1_000
"""Tasks per import into Label Studio, which takes it a few seconds."""

PAUSE_SECONDS, MIN_OPEN_TASKS = 5, 50
"""Seconds between imports, which slow Label Studio down; no pause if so few tasks are open."""

MAX_UPDATED = 50
"""Tasks to update at once; one update costs as much as deleting and importing dozens of tasks."""

READ_OVERLAP = timedelta(seconds=30)
"""Time before the last read that is read again: changes may become visible out of order."""

MAX_ATTEMPTS = 3
"""Attempts to remove tasks that users change meanwhile."""


@dataclass(frozen=True)
class LabelingSync:
    """Synchronization of this instance with one Label Studio.

    Attributes:
        database: The database.
        backend: The port to Label Studio.
        holder: Name of this process, for locks.
        layer_url: Returns the URL of a layer of a task.
        max_tasks: Largest number of tasks per project.
        pause: Seconds between two imports.
        min_open_tasks: Number of open tasks below which there is no pause.
    """

    database: Database
    backend: LabelingBackend
    holder: str
    layer_url: tasks.LayerUrl
    max_tasks: int
    pause: int = PAUSE_SECONDS
    min_open_tasks: int = MIN_OPEN_TASKS

    def push(self, round_id: int) -> Counter[str]:
        """Remove the unwanted tasks of a round and push one batch of new ones.

        A project that another process holds is skipped. An error of Label Studio about one project
        is recorded and does not stop the others.

        Args:
            round_id: The round.

        Returns:
            The number of tasks that were "pushed" and "removed".

        Raises:
            Unreachable: Label Studio does not respond.
        """
        moved: Counter[str] = Counter()
        with self.database.transaction() as tx:
            projects.drop_other_backends(tx, self.backend.url, round_id)
            open_projects = projects.open_projects(tx, self.backend.url, round_id)
        for project in open_projects:
            moved["removed"] += self._with_lock(project, self._remove_unwanted) or 0
        with self.database.transaction() as tx:
            found = projects.project_with_room(tx, self.backend.url, round_id, self.max_tasks)
        if found is not None:
            project, room = found
            moved["pushed"] += (
                self._with_lock(project, lambda locked: self._push_batch(locked, room)) or 0
            )
        return +moved

    def pull(self, round_id: int | None = None, *, everything: bool = False) -> Counter[str]:
        """Pull the annotations of a round or of all rounds.

        Deleted tasks are pushed again, and tasks that show URLs of a former address of this
        instance are updated.

        Args:
            round_id: The round; None for all rounds.
            everything: Whether all tasks are read, not only changed ones, and projects without open
                tasks as well: a restored backup contains tasks again that were removed.

        Returns:
            The number of annotations and tasks by outcome.

        Raises:
            Unreachable: Label Studio does not respond.
        """
        outcomes: Counter[str] = Counter()
        with self.database.transaction() as tx:
            find = projects.created_projects if everything else projects.open_projects
            found = find(tx, self.backend.url, round_id)
        for project in found:
            outcomes += self.pull_project(project, everything=everything)
        return outcomes

    def pull_project(self, project: Project, *, everything: bool = False) -> Counter[str]:
        """Pull the annotations of one project, unless another process holds it.

        Args:
            project: The project.
            everything: Whether all tasks are read, not only changed ones.

        Returns:
            The number of annotations and tasks by outcome.

        Raises:
            Unreachable: Label Studio does not respond.
        """
        counts = self._with_lock(
            project, lambda locked: self._pull_changes(locked, everything=everything)
        )
        return counts or Counter()

    def _with_lock(self, project: Project, work: Callable[[Project], Counted]) -> Counted | None:
        """Run a function on a locked project; return None if another process holds it.

        An error of Label Studio is recorded with the project and logged once.
        """
        with project_locks.project_lock(self.database, project, self.holder) as acquired:
            if not acquired:
                return None
            # Another process may have changed it before the lock was acquired.
            with self.database.transaction() as tx:
                project = projects.find_project(tx, project.id) or project
            try:
                return work(project)
            except Refused as error:
                if error.message != project.error:
                    log.warning(
                        "round %d at %s: %s", project.round, self.backend.url, error.message
                    )
                with self.database.transaction() as tx:
                    project_reads.record_error(tx, project, error.message)
                return None

    def _push_batch(self, project: Project, room: int) -> int:
        """Push the next batch of tasks to a project with `room` for that many."""
        with self.database.transaction() as tx:
            batch = tasks.next_batch(
                tx, project, min(room, PUSH_CHUNK), self.pause, self.min_open_tasks
            )
            new_tasks = tasks.read_batch(tx, batch, self.layer_url) if batch else []
        if batch is None:
            return 0
        try:
            result = self.backend.push(project, batch, new_tasks)
        except NotFound:
            with self.database.transaction() as tx:
                task_states.record_project_deleted(tx, project)
            return 0
        # The next job pushes the next batch, if there is one.
        with self.database.transaction() as tx:
            tasks.record_pushed(tx, project, result)
            tx.enqueue(JobName.push_tasks, project.round)
        if project.remote_id is None:
            self._reserve(
                replace(project, remote_id=result.project_remote_id, created_at=result.created_at)
            )
        return len(result.task_remote_ids)

    def _remove_unwanted(self, project: Project) -> int:
        """Remove unwanted tasks, after pulling their annotations, which are deleted with them.

        A task that a user annotates meanwhile is kept, pulled and tried again.
        """
        removed = 0
        for _ in range(MAX_ATTEMPTS):
            with self.database.transaction() as tx:
                unwanted = task_states.unwanted_tasks(tx, project)
            if not unwanted:
                break
            self._pull_changes(project)
            with self.database.transaction() as tx:
                unwanted = task_states.unwanted_tasks(tx, project)
            remote_ids = {id_: [remote_id] for id_, (remote_id, _) in unwanted.items()}
            kept: set[uuid.UUID] = set()
            # NotFound: the project was deleted with all its tasks.
            with suppress(NotFound):
                kept = self.backend.remove(
                    project, remote_ids, {id_: read_at for id_, (_, read_at) in unwanted.items()}
                )
            with self.database.transaction() as tx:
                task_states.record_removed(tx, set(unwanted) - kept)
            removed += len(unwanted) - len(kept)
            if not kept:
                break
        if removed:
            self._write_restore_mark(project)
            self._reserve(project)
        return removed

    def _write_restore_mark(self, project: Project, found: int | None = None) -> None:
        """Write a higher number there and here, which shows later whether a backup was restored."""
        with self.database.transaction() as tx:
            known = projects.find_project(tx, project.id)
        if known is None:
            return
        mark = max(known.restore_mark, found or 0) + 1
        with suppress(NotFound):
            if self.backend.write_restore_mark(known, mark):
                with self.database.transaction() as tx:
                    project_reads.record_restore_mark(tx, project, mark)

    def _reserve(self, project: Project) -> None:
        """Reserve the next tasks for the users who are active in Label Studio."""
        since = datetime.now(UTC) - timedelta(seconds=tasks.ACTIVE_USER_SECONDS)
        active = set(self.backend.active_users(since))
        with self.database.transaction() as tx:
            active |= tasks.recent_annotators(tx, project)
            if people := active - {users.RULE_REVIEWER_EMAIL}:
                tasks.reserve_for_users(tx, project, len(people))

    def _pull_changes(self, project: Project, *, everything: bool = False) -> Counter[str]:
        """Pull the annotations of a locked project."""
        # Annotations that waited for a lease come first.
        outcomes: Counter[str] = Counter()
        with self.database.transaction() as tx:
            until = project_reads.read_until(tx, project)
            waiting = task_states.tasks_with_waiting_annotations(tx, project)
            flagged = project_reads.needs_full_read(tx, project)
        for task_id in waiting:
            with self.database.transaction() as tx:
                outcomes += retry_waiting(tx, task_id)
        # Read the tasks that changed since the last time, or all of them.
        full = everything or flagged or until is None
        try:
            reading = self.backend.pull(
                project, None if full or until is None else until - READ_OVERLAP
            )
            restored = is_restored(project, reading)
            with self.database.transaction() as tx:
                existing = task_states.count_existing(tx, project)
            if not full and (restored or reading.count < existing):
                # Deleted tasks are not among the changed ones.
                full, reading = True, self.backend.pull(project, None)
            found, stale = self._process_all(project, reading.tasks, outcomes, restored=restored)
            if stale and not full:
                # A changed task shows a former URL, so all tasks may.
                full, reading = True, self.backend.pull(project, None)
                found, stale = self._process_all(
                    project, reading.tasks, outcomes, restored=restored
                )
            # Write back new URLs and refusals.
            if stale:
                outcomes["tasks_updated"] += self._update_urls(project, stale)
            self._show_refusals(project)
            outcomes["tasks_removed"] += self._remove_forgotten(project) if restored else 0
        except NotFound:
            with self.database.transaction() as tx:
                task_states.record_project_deleted(tx, project)
            return outcomes + Counter({"projects_lost": 1})
        # Record how far the project is read.
        with self.database.transaction() as tx:
            if full:
                outcomes["tasks_lost"] += len(task_states.record_lost(tx, project, found))
            # A flag means that another project has shown the restored backup already.
            if restored and not flagged:
                project_reads.request_full_read(tx, self.backend.url)
            project_reads.record_read(tx, project, reading.created_at, whole=full)
            project_reads.record_error(tx, project, reading.error)
        if +outcomes or restored:
            self._write_restore_mark(project, reading.restore_mark)
        if existing:
            self._reserve(project)
        return +outcomes

    def _process_all(
        self,
        project: Project,
        changed: Iterator[RemoteTask],
        outcomes: Counter[str],
        *,
        restored: bool,
    ) -> tuple[set[uuid.UUID], set[uuid.UUID]]:
        """Process the tasks that were read, adding to `outcomes`.

        Returns:
            Our tasks among them, and those that show former URLs.
        """
        found: set[uuid.UUID] = set()
        stale: set[uuid.UUID] = set()
        for chunk in _chunks(changed):
            outcomes += self._process(project, chunk, restored=restored)
            found |= {task.task_id for task in chunk if task.task_id is not None}
            stale |= {
                task.task_id for task in chunk if task.task_id is not None and self.is_stale(task)
            }
            project_locks.renew_lock(self.database, project, self.holder)
        return found, stale

    def _show_refusals(self, project: Project) -> None:
        """Show refused annotations in their tasks, where their authors can see them."""
        with self.database.transaction() as tx:
            ids = tasks.refusals_to_show(tx, project, MAX_UPDATED)
            existing = tasks.read_existing(tx, ids, self.layer_url)
        if ids:
            self.backend.update(project, existing)
            with self.database.transaction() as tx:
                tasks.record_refusals_shown(tx, ids)

    def _remove_forgotten(self, project: Project) -> int:
        """Remove tasks whose annotations a restored backup lost, so nobody annotates them again."""
        with self.database.transaction() as tx:
            forgotten = task_states.forgotten_tasks(tx, project)
        if forgotten:
            self.backend.remove(project, forgotten)
            with self.database.transaction() as tx:
                task_states.record_removed(tx, forgotten)
        return len(forgotten)

    def is_stale(self, remote_task: RemoteTask) -> bool:
        """Return whether a task shows other URLs than this instance serves now."""
        id_, layers = remote_task.task_id, remote_task.layers
        return id_ is not None and (
            not layers or any(self.layer_url(id_, role) != layers[role] for role in layers)
        )

    def _update_urls(self, project: Project, stale: Collection[uuid.UUID]) -> int:
        """Update the URLs of tasks, by a request each, including annotated tasks.

        If there are many, tasks without annotations are removed and pushed again instead, and only
        some of the annotated ones are updated; the next full read continues with the others.
        """
        with self.database.transaction() as tx:
            unannotated = task_states.never_annotated(tx, stale) if len(stale) > MAX_UPDATED else {}
        if unannotated:
            self.backend.remove(project, unannotated)
        with self.database.transaction() as tx:
            task_states.record_removed(tx, unannotated)
            updated = tasks.read_existing(
                tx, task_states.select_for_update(tx, stale, MAX_UPDATED), self.layer_url
            )
            tx.enqueue(JobName.push_tasks, project.round)
        for part in _parts(sorted(updated), MAX_UPDATED):
            self.backend.update(project, {remote_id: updated[remote_id] for remote_id in part})
            project_locks.renew_lock(self.database, project, self.holder)
        return len(unannotated) + len(updated)

    def _process(
        self, project: Project, chunk: Sequence[RemoteTask], *, restored: bool
    ) -> Counter[str]:
        """Process tasks in a transaction each, so that a failed one does not stop the others."""
        outcomes: Counter[str] = Counter()
        with self.database.transaction() as tx:
            changed, to_remove = task_states.classify_read_tasks(tx, chunk)
        for task in changed:
            with self.database.transaction() as tx:
                outcomes += apply_annotations(tx, task, restored=restored)
        if to_remove:
            self.backend.remove(project, to_remove)
            outcomes["copies_removed"] += len(to_remove)
        return outcomes


def is_restored(project: Project, snapshot: ProjectReading) -> bool:
    """Return whether Label Studio was restored from a backup.

    Args:
        project: The project, with the number that was written to it last.
        snapshot: Its reading, which has an older number if a backup was restored.
    """
    return project.restore_mark > (snapshot.restore_mark or 0)


def _chunks(found: Iterator[RemoteTask]) -> Iterator[list[RemoteTask]]:
    while chunk := list(islice(found, PULL_CHUNK)):
        yield chunk


def _parts(remote_ids: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    for start in range(0, len(remote_ids), size):
        yield remote_ids[start : start + size]
