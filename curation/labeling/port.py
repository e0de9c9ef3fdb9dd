"""Port of labeling backends: the data types and operations of Label Studio in use."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from curation.domain import Kind, LayerRole, RejectReason, RuleVerdict, Verdict


@dataclass(frozen=True)
class Project:
    """A Label Studio project that holds candidates of one round.

    Attributes:
        id: ID in this instance.
        round: The round.
        part: Number of the project among those of the round, from 1.
        kind: Single layers or pairs.
        remote_id: ID in Label Studio; None until it is created there.
        overlap: Number of users who are to annotate each task.
        created_at: Creation time by Label Studio's clock; None if an older version created it. ID
            and time together identify a project, since Label Studio reuses IDs after a restored
            backup.
        batches: Some of its batches, which identify it if `created_at` is None.
        restore_mark: The number that was last written to the project in Label Studio.
        error: The last change to the project that Label Studio refused, or an empty string.
    """

    id: uuid.UUID
    round: int
    part: int
    kind: Kind
    remote_id: int | None
    overlap: int = 1
    created_at: datetime | None = None
    batches: Sequence[uuid.UUID] = ()
    restore_mark: int = 0
    error: str = ""


@dataclass(frozen=True)
class Task:
    """A Label Studio task that shows one candidate.

    Attributes:
        id: ID of the task in this instance.
        candidate: The candidate.
        prompt: Its prompt.
        texts: Text of each layer.
        layers: URL of each layer.
        score: Sort key; tasks with low scores are shown first.
        columns: Further columns to sort by, by name.
        overlap: Number of users who are to annotate it; None for the overlap of the project.
        note: A sentence for the user who opens it, such as why an annotation was refused.
    """

    id: uuid.UUID
    candidate: uuid.UUID
    prompt: str
    texts: Mapping[LayerRole, str]
    layers: Mapping[LayerRole, str]
    score: float
    columns: Mapping[str, str | float] = field(default_factory=dict)
    overlap: int | None = None
    note: str = ""


@dataclass(frozen=True)
class Annotation:
    """A user's annotation of a task.

    It is identified by ID, author and creation time, since Label Studio reuses IDs after a
    restored backup. All times are by Label Studio's clock, and users are e-mail addresses.

    Attributes:
        remote_id: ID in Label Studio.
        author: The user who created it.
        updated_at: Time of the last change.
        verdict: The verdict; None if it cannot be read.
        reasons: Reasons of a rejection.
        layers: Layers that the reasons concern.
        comment: Free text.
        seconds: Time spent on it.
        error: Why it cannot be read as a verdict, or an empty string.
        created_at: Creation time.
        editor: The user who changed it last, if that is not the author.
    """

    remote_id: int
    author: str
    updated_at: datetime
    verdict: Verdict | None
    reasons: Sequence[RejectReason] = ()
    layers: Sequence[LayerRole] = ()
    comment: str = ""
    seconds: float | None = None
    error: str = ""
    created_at: datetime | None = None
    editor: str = ""

    @property
    def user(self) -> str:
        """The user who is responsible for its content."""
        return self.editor or self.author


@dataclass(frozen=True)
class RemoteTask:
    """A task as found in Label Studio.

    Attributes:
        remote_id: ID in Label Studio.
        task_id: ID of the task in this instance; None if it was not created by this instance.
        updated_at: Time of the last change.
        annotations: All its annotations.
        layers: URL of each layer that it shows.
    """

    remote_id: int
    task_id: uuid.UUID | None
    updated_at: datetime
    annotations: Sequence[Annotation] = field(default=())
    layers: Mapping[LayerRole, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ProjectReading:
    """Result of reading a project.

    Attributes:
        count: Number of tasks, including those that this instance did not create.
        tasks: The changed tasks, read from Label Studio during iteration.
        restore_mark: The number that `write_restore_mark` wrote last; None if there is none.
        created_at: Creation time of the project.
        error: Changes to the project that Label Studio refused, or an empty string.
    """

    count: int
    tasks: Iterator[RemoteTask]
    restore_mark: int | None
    created_at: datetime | None
    error: str = ""


@dataclass(frozen=True)
class PushResult:
    """Result of pushing tasks.

    Attributes:
        project_remote_id: ID of the project in Label Studio.
        created_at: Creation time of the project.
        task_remote_ids: ID in Label Studio of each task that exists there.
        refused: Reason for each task that Label Studio refused.
        error: Changes to the project that Label Studio refused, or an empty string.
    """

    project_remote_id: int
    created_at: datetime | None
    task_remote_ids: Mapping[uuid.UUID, int]
    refused: Mapping[uuid.UUID, str] = field(default_factory=dict)
    error: str = ""


@dataclass(frozen=True)
class UnknownProject:
    """An unknown project in Label Studio that holds tasks of this instance.

    Attributes:
        remote_id: ID in Label Studio.
        title: Its title.
        tasks: Its tasks, read from Label Studio during iteration.
    """

    remote_id: int
    title: str
    tasks: Iterator[RemoteTask]


class LabelingBackend(Protocol):
    """Port to Label Studio.

    Every method raises Unreachable if it does not respond, or rejects the token.
    """

    url: str

    def push(self, project: Project, batch: uuid.UUID, tasks: Sequence[Task]) -> PushResult:
        """Push tasks to a project, and create the project if it does not exist.

        After an interruption, call it again with the same batch: tasks that exist already are not
        duplicated but updated. A refused task does not stop the others.

        Args:
            project: The project.
            batch: ID of the batch, which makes the call idempotent.
            tasks: The tasks.

        Raises:
            NotFound: The project was deleted.
        """

    def update(self, project: Project, tasks: Mapping[int, tuple[uuid.UUID, Task]]) -> None:
        """Update the content of existing tasks.

        Args:
            project: The project.
            tasks: By ID in Label Studio, the batch of each task and its new content.
        """

    def pull(
        self, project: Project, since: datetime | None, *, repair: bool = True
    ) -> ProjectReading:
        """Read the changed tasks of a project.

        Args:
            project: The project.
            since: Time by Label Studio's clock; None to read all tasks.
            repair: Whether changes that users made to the project's settings are reverted; else
                they are reported as the reading's `error`.

        Raises:
            NotFound: The project was deleted.
        """

    def write_restore_mark(self, project: Project, mark: int) -> bool:
        """Write a number to the project; an older number shows that a backup was restored.

        Args:
            project: The project.
            mark: The number.

        Returns:
            Whether it was written. It is stored with the webhook, so False without a webhook.
        """

    def remove(
        self,
        project: Project,
        task_remote_ids: Mapping[uuid.UUID, Sequence[int]],
        unless: Mapping[uuid.UUID, datetime | None] | None = None,
    ) -> set[uuid.UUID]:
        """Delete tasks, except those whose ID belongs to another task by now.

        Args:
            project: The project.
            task_remote_ids: The IDs in Label Studio of each task.
            unless: When each task was last read. A task that changed since, or that has annotations
                and was never read, is kept.

        Returns:
            The tasks that were kept because they changed.
        """

    def find_unknown_projects(
        self, known: Collection[tuple[int, datetime | None]]
    ) -> Iterator[UnknownProject]:
        """Find other projects that hold tasks of this instance.

        Args:
            known: ID and creation time of each known project.
        """

    def submit_annotation(
        self, remote_id: int, user: str, key: uuid.UUID, verdict: RuleVerdict
    ) -> None:
        """Submit an annotation in the name of a user, as the rule reviewer does.

        Args:
            remote_id: ID of the task in Label Studio.
            user: The user.
            key: Idempotency key.
            verdict: The verdict.
        """

    def active_users(self, since: datetime) -> Collection[str]:
        """Return the users who were active since a time, except this instance's own account."""

    def whoami(self) -> str:
        """Return the e-mail address of the account that the token belongs to."""
