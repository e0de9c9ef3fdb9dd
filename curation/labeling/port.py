"""Port of labeling backends: the data types and operations of Label Studio that we use."""

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
        number: ID in Label Studio; None until it is created there.
        overlap: Number of users who are to annotate each task.
        made_at: Creation time by Label Studio's clock; None if an older version created it. ID and
            time together identify a project, since Label Studio reuses IDs after a restored backup.
        batches: Some of its batches, which identify it if `made_at` is None.
        mark: The number that was last written to the project in Label Studio.
        trouble: What Label Studio refused the last time, or an empty string.
    """

    id: uuid.UUID
    round: int
    part: int
    kind: Kind
    number: int | None
    overlap: int = 1
    made_at: datetime | None = None
    batches: Sequence[uuid.UUID] = ()
    mark: int = 0
    trouble: str = ""


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
        facts: Further columns to sort by, by name.
        people: Number of users who are to annotate it; None for the overlap of the project.
        note: A sentence for the user who opens it, such as why an annotation was refused.
    """

    id: uuid.UUID
    candidate: uuid.UUID
    prompt: str
    texts: Mapping[LayerRole, str]
    layers: Mapping[LayerRole, str]
    score: float
    facts: Mapping[str, str | float] = field(default_factory=dict)
    people: int | None = None
    note: str = ""


@dataclass(frozen=True)
class Annotation:
    """A user's annotation of a task.

    It is identified by number, author and creation time, since Label Studio reuses IDs after a
    restored backup. All times are by Label Studio's clock, and users are e-mail addresses.

    Attributes:
        number: ID in Label Studio.
        author: The user who created it.
        at: Time of the last change.
        verdict: The verdict; None if it cannot be read.
        reasons: Reasons of a rejection.
        layers: Layers that the reasons concern.
        comment: Free text.
        seconds: Time spent on it.
        fault: Why it cannot be read as a verdict, or an empty string.
        made_at: Creation time.
        editor: The user who changed it last, if that is not the author.
    """

    number: int
    author: str
    at: datetime
    verdict: Verdict | None
    reasons: Sequence[RejectReason] = ()
    layers: Sequence[LayerRole] = ()
    comment: str = ""
    seconds: float | None = None
    error: str = ""
    made_at: datetime | None = None
    editor: str = ""

    @property
    def person(self) -> str:
        """The user who is responsible for its content."""
        return self.editor or self.author


@dataclass(frozen=True)
class RemoteTask:
    """A task as found in Label Studio.

    Attributes:
        number: ID in Label Studio.
        posting: ID of the task in this instance; None if it was not created by this instance.
        at: Time of the last change.
        answers: All its annotations.
        layers: URL of each layer that it shows.
    """

    number: int
    task_id: uuid.UUID | None
    at: datetime
    annotations: Sequence[Annotation] = field(default=())
    layers: Mapping[LayerRole, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ProjectReading:
    """Result of reading a project.

    Attributes:
        count: Number of tasks, including those that this instance did not create.
        seen: The changed tasks, read from Label Studio during iteration.
        mark: The number that `set_mark` wrote last; None if there is none.
        made_at: Creation time of the project.
        trouble: Changes to the project that Label Studio refused, or an empty string.
    """

    count: int
    seen: Iterator[RemoteTask]
    mark: int | None
    made_at: datetime | None
    trouble: str = ""


@dataclass(frozen=True)
class PushResult:
    """Result of pushing tasks.

    Attributes:
        board: ID of the project in Label Studio.
        made_at: Creation time of the project.
        postings: ID in Label Studio of each task that exists there.
        refused: Reason for each task that Label Studio refused.
        trouble: Changes to the project that Label Studio refused, or an empty string.
    """

    board: int
    made_at: datetime | None
    postings: Mapping[uuid.UUID, int]
    refused: Mapping[uuid.UUID, str] = field(default_factory=dict)
    trouble: str = ""


@dataclass(frozen=True)
class UnknownProject:
    """An unknown project in Label Studio that holds tasks of this instance.

    Attributes:
        number: ID in Label Studio.
        title: Its title.
        seen: Its tasks, read from Label Studio during iteration.
    """

    number: int
    title: str
    seen: Iterator[RemoteTask]


class LabelingBackend(Protocol):
    """Port to Label Studio.

    Every method raises Unreachable if it does not respond, or rejects the token.
    """

    address: str

    def put_up(self, project: Project, batch: uuid.UUID, tasks: Sequence[Task]) -> PushResult:
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

    def collect(
        self, project: Project, since: datetime | None, *, repair: bool = True
    ) -> ProjectReading:
        """Read the changed tasks of a project.

        Args:
            project: The project.
            since: Time by Label Studio's clock; None to read all tasks.
            repair: Whether changes that users made to the project's settings are reverted; else
                they are reported as the reading's `trouble`.

        Raises:
            NotFound: The project was deleted.
        """

    def set_mark(self, project: Project, mark: int) -> bool:
        """Write a number to the project; an older number shows that a backup was restored.

        Args:
            project: The project.
            mark: The number.

        Returns:
            Whether it was written. It is stored with the webhook, so False without a webhook.
        """

    def take_down(
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

    def answer(self, remote_id: int, user: str, key: uuid.UUID, verdict: RuleVerdict) -> None:
        """Submit an annotation in the name of a user, as the rule reviewer does.

        Args:
            remote_id: ID of the task in Label Studio.
            user: The user.
            key: Idempotency key.
            verdict: The verdict.
        """

    def present(self, since: datetime) -> Collection[str]:
        """Return the users who were active since a time, except this instance's own account."""

    def whoami(self) -> str:
        """Return the e-mail address of the account that the token belongs to."""
