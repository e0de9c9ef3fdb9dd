"""The port of labeling backends: what is sent to them and what is read from them."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from curation.domain import Kind, LayerRole, RejectReason, RuleVerdict, Verdict


@dataclass(frozen=True)
class Project:
    """The place of a round's candidates there; `number` is the desk's own for it, None until it is made.

    Attributes:
        overlap: How many people are to answer each posting.
        made_at: When the desk made it, by its clock. Number and time together identify it: a desk that was put back to
            a backup gives numbers again. None where an older version made it.
        batches: Some of its batches, by which it is recognized where `made_at` is None.
        mark: The number that was last written to the desk for this board.
        trouble: What the desk refused the last time, or an empty string.
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
    """One candidate as it is put up: its texts, an address for each layer, and a score: the lowest is first.

    Attributes:
        facts: More that people there can sort by, by column name.
        people: How many people are to answer it, where not as many as its board says.
        note: A sentence for whoever opens it there, such as why an answer was refused.
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
    """What a person said there of a posting; `fault` is a sentence where it cannot be read as a verdict.

    `number` and all times are the desk's own. An answer is identified by its number, its author and the time at which
    it was made, since a desk that was put back to a backup gives numbers again. `editor` is who changed it last, where
    that is somebody else than its author. People are e-mail addresses.
    """

    number: int
    author: str
    at: datetime
    verdict: Verdict | None
    reasons: Sequence[RejectReason] = ()
    layers: Sequence[LayerRole] = ()
    comment: str = ""
    seconds: float | None = None
    fault: str = ""
    made_at: datetime | None = None
    editor: str = ""

    @property
    def person(self) -> str:
        """Who is responsible for its content."""
        return self.editor or self.author


@dataclass(frozen=True)
class RemoteTask:
    """A posting as it is found there, with all its answers; `posting` is None where it was not put up by us.

    `layers` are the addresses from which it is shown there.
    """

    number: int
    posting: uuid.UUID | None
    at: datetime
    answers: Sequence[Annotation] = field(default=())
    layers: Mapping[LayerRole, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Reading:
    """One reading of a board: how many postings it has, and those that changed.

    Attributes:
        count: All postings there, also those that others put up.
        seen: What changed since the time asked for, read from the desk while it is iterated.
        mark: The number that was last written there by `set_mark`; None where there is none.
        made_at: When the desk made the board.
        trouble: What the desk refused to have changed on the board, or an empty string.
    """

    count: int
    seen: Iterator[RemoteTask]
    mark: int | None
    made_at: datetime | None
    trouble: str = ""


@dataclass(frozen=True)
class Placed:
    """What became of postings that were put up: the desk's numbers of the board and of those that are there.

    Attributes:
        refused: Postings that the desk does not take, each with the reason.
        trouble: What the desk refused to have changed on the board, or an empty string.
    """

    board: int
    made_at: datetime | None
    postings: Mapping[uuid.UUID, int]
    refused: Mapping[uuid.UUID, str] = field(default_factory=dict)
    trouble: str = ""


@dataclass(frozen=True)
class Elsewhere:
    """A project of the desk that holds postings of ours and is none of the boards known here."""

    number: int
    title: str
    seen: Iterator[RemoteTask]


class LabelingBackend(Protocol):
    """Label Studio. Every method raises Unreachable where it does not answer, or not to our token."""

    address: str

    def put_up(self, board: Project, batch: uuid.UUID, postings: Sequence[Task]) -> Placed:
        """Show postings on a board, made if need be.

        Whoever was cut off calls again with the same batch: what of it is there already is not put up twice, but is
        shown from now on as it is given here. One posting that the desk refuses does not stop the others. Raises
        NotFound where the board is gone.
        """

    def update(self, board: Project, postings: Mapping[int, tuple[uuid.UUID, Task]]) -> None:
        """Show postings, by the desk's number and with the batch of each, as they are given here; the rest is left."""

    def collect(self, board: Project, since: datetime | None, *, repair: bool = True) -> Reading:
        """How many postings a board has, and what changed since a time of the desk's clock; None: all.

        What people changed of the board itself is repaired, or with `repair` False told as the reading's trouble.
        Raises NotFound where the board is gone.
        """

    def set_mark(self, board: Project, mark: int) -> bool:
        """Write a number to the board; a desk that is put back to a backup has an older one.

        Returns whether it was written; False where the desk is not to wake us, and has no place for it.
        """

    def take_down(
        self,
        board: Project,
        postings: Mapping[uuid.UUID, Sequence[int]],
        unless: Mapping[uuid.UUID, datetime | None] | None = None,
    ) -> set[uuid.UUID]:
        """Show postings no longer, by their ids and numbers; one whose number is another's by now is left alone.

        Args:
            board: Where they are.
            postings: The desk's numbers of each.
            unless: When each was last read. One that changed since then, or that was never read and has answers, is
                left there.

        Returns:
            The postings that were left because they changed.
        """

    def elsewhere(self, known: Collection[tuple[int, datetime | None]]) -> Iterator[Elsewhere]:
        """Find projects that hold postings of ours and are none of those known, by number and time of creation."""

    def answer(self, number: int, person: str, key: uuid.UUID, said: RuleVerdict) -> None:
        """Say something of a posting in somebody's name, as the oracle does; the same key again changes nothing."""

    def present(self, since: datetime) -> Collection[str]:
        """The addresses of people who have used the desk since a time, without our own account."""

    def whoami(self) -> str:
        """The address of the account that the token belongs to."""
